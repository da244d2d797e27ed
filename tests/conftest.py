"""What every test stands on: people, clients, a server for browsers, a tiny model (Postgres: see plugin.py)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.engine.tiny import make_tiny_model

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _quick_settings(settings: object) -> None:
    """Passwords hash fast, and pages render without collecting static files first."""
    # A heartbeat has a connection of its own, which does not see a test's uncommitted rows.
    settings.JOB_HEARTBEAT_SECONDS = 3600  # type: ignore[attr-defined]
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]  # type: ignore[attr-defined]
    settings.STORAGES = {  # type: ignore[attr-defined]
        **settings.STORAGES,  # type: ignore[attr-defined]
        "staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"},
    }


@pytest.fixture(autouse=True)
def _nothing_under_numbers() -> Iterator[None]:
    """What lies under the number of a row goes with its test, as a lent model does: a database that is emptied or
    restored gives numbers again, and another's run would go on from where this one ended."""
    yield
    data = Path(os.environ["FINETUNE_DATA_DIR"])
    for path in [*data.glob("runs/*"), *data.glob("work/*"), *data.glob("models/*")]:
        if path.is_symlink():
            path.unlink()
        elif path.parent.name != "models":  # a model that was prepared is the same for every test
            shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def project(owner, trainer, reviewer, viewer):
    """A project with one member of each role."""
    from finetune_site.projects import services
    from finetune_site.projects.models import Role

    made = services.create_project(actor=owner, name="Kestrel", description="The manual of an invented machine")
    for user, role in ((trainer, Role.TRAINER), (reviewer, Role.REVIEWER), (viewer, Role.VIEWER)):
        services.set_role(actor=owner, project=made, user=user, role=role)
    return made


def _person(name: str) -> Callable[..., object]:
    def fixture(db: None) -> object:
        from tests.factories import make_user

        return make_user(name)

    return pytest.fixture(fixture, name=name)


viewer, reviewer, trainer, owner, stranger = map(_person, ("viewer", "reviewer", "trainer", "owner", "stranger"))


@pytest.fixture
def operator(db):
    from django.contrib.auth.models import User

    return User.objects.create_superuser("operator", "operator@example.org", "operator-password")


@pytest.fixture
def client_of() -> Callable[[object], object]:
    """A test client logged in as the given user; None: not logged in."""
    from django.test import Client

    def make(user: object) -> Client:
        client = Client()
        if user is not None:
            client.force_login(user)  # type: ignore[arg-type]
        return client

    return make


@pytest.fixture
def site(transactional_db) -> Iterator[str]:
    """The real ASGI application under uvicorn in a thread, on the test database; yields its address."""
    import threading
    import time

    import uvicorn
    from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
    from django.core.management import call_command

    from finetune_site.asgi import application

    call_command("createcachetable", verbosity=0)
    server = uvicorn.Server(
        uvicorn.Config(
            ASGIStaticFilesHandler(application),
            port=0,
            log_level="warning",
            lifespan="off",
            timeout_graceful_shutdown=1,
        )
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture
def runner(settings) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts a runner of its own, as `dispatch` does, on the test's database; it can be killed."""
    from django.db import connection

    site = urlsplit(settings.DATABASE_URL)._replace(path=f"/{connection.settings_dict['NAME']}").geturl()
    env = os.environ | {"DATABASE_URL": site, "FINETUNE_DATA_DIR": str(settings.DATA_DIR)}
    env |= {"FINETUNE_SECRET_KEY": settings.SECRET_KEY}
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        command = [sys.executable, "manage.py", "runner", "default", "0"]
        started.append(subprocess.Popen(command, cwd=ROOT, env=env))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture
def base(db, tiny_folder, settings):
    """The tiny model as a base that operators registered."""
    from training_app.models import BaseModel

    settings.ENGINE_THREADS = 1
    return BaseModel.objects.create(name="tiny:1", title="Tiny", source="folder", location=str(tiny_folder))


@pytest.fixture
def bundled(db):
    """The model that comes with the site; a test with real transactions leaves the database without it."""
    from training_app.models import BaseModel

    return BaseModel.objects.get_or_create(name="smollm2:135m", defaults={"title": "SmolLM2", "source": "bundled"})[0]


@pytest.fixture
def version(project, trainer):
    """Twelve facts in four wordings, approved and sealed by the real job."""
    from datasets_app.models import DatasetVersion
    from datasets_app.services import datasets, examples
    from tests.factories import run_all

    dataset = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    for fact in range(12):
        for wording in range(4):
            content = {
                "messages": [
                    {"role": "user", "content": f"Question {wording} about part {fact}?"},
                    {"role": "assistant", "content": f"Part {fact} weighs {fact * 7} kg."},
                ]
            }
            example = examples.write_example(actor=trainer, dataset=dataset, content=content)
            example.fact, example.wording, example.answer_key = f"f{fact}", f"w{wording}", f"{fact * 7} kg"
            example.save()
    examples.judge_all(actor=trainer, dataset=dataset, examples=dataset.examples.all(), verdict="approved")
    made = datasets.seal_version(actor=trainer, dataset=dataset)
    run_all()
    return DatasetVersion.objects.get(pk=made.pk)
