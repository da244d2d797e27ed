"""Dockerfile, .dockerignore and compose.yaml hold together with each other and with the site; nothing is built here."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml
from django.core.management import CommandError, call_command, get_commands, load_command_class
from django.urls import resolve

from datasets_app.models import ModelServer
from finetune_site.jobs.management.commands.cluster import alive_file
from finetune_site.lib.process import HUB_TOKENS, PRIVATE_VARIABLES
from tests.conftest import ROOT
from tests.ollama_server import ollama_server

DOCKERFILE = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("finetune-site:")}
WORKERS = {"worker": "cpu", "gpu-worker": "gpu"}
EXAMPLE = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / "env.example").read_text(), re.MULTILINE))
FILLED_IN = {**EXAMPLE, **{name: "x" * 64 for name, value in EXAMPLE.items() if not value}}
HADOLINT = shutil.which("hadolint") or ""
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|DATABASE_URL")


# The image


def steps(word: str) -> list[str]:
    return re.findall(rf"^{word} (.+)$", DOCKERFILE, re.MULTILINE)


def copied() -> list[str]:
    """What goes from the working tree into the image."""
    return [path for line in steps("COPY") if "--from" not in line for path in line.split()[:-1]]


def is_sent(path: str) -> bool:
    """Whether .dockerignore lets a file through to the builder: the last line that names it or a folder above says."""
    parents = ["/".join(path.split("/")[:depth]) for depth in range(1, path.count("/") + 2)]
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.lstrip("!")).replace(r"\*\*/", "(?:.*/)?").replace(r"\*", "[^/]*")
            if any(re.fullmatch(pattern, parent) for parent in parents):
                sent = line.startswith("!")
    return sent


def test_what_the_dockerfile_copies_is_there_and_reaches_the_builder():
    assert {"manage.py", "templates", "static", "datasets_app"} <= set(copied())
    for path in copied():
        assert (ROOT / path).exists(), path
    held = [file for path in copied() for file in [ROOT / path, *(ROOT / path).rglob("*")] if file.is_file()]
    names = [str(file.relative_to(ROOT)) for file in held if "__pycache__" not in file.parts]
    assert "datasets_app/samples/kestrel-40-manual.pdf" in names
    assert [name for name in names if not is_sent(name)] == []


@pytest.mark.parametrize(
    "path",
    [
        ".env", ".env.production", "datasets_app/.env", "env.example", "var/secret_key", "var/postgres/pgpass",
        "var/files/ab/cd", ".git/config", ".venv/bin/python", "tests/conftest.py", "backup.tar",
        "finetune_site/__pycache__/settings.cpython-311.pyc",
    ],
)  # fmt: skip
def test_secrets_data_and_history_stay_out_of_the_build(path):
    assert not is_sent(path)


def test_the_image_installs_what_the_project_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    known = project["optional-dependencies"]
    extras = re.search(r'"\.\[([a-z0-9,-]+)\$extras\$MORE_EXTRAS\]"', DOCKERFILE)[1].split(",")
    named = {*extras, *re.findall(r"extras=,([a-z-]+)", DOCKERFILE)}
    assert named - known.keys() == set()
    assert {"parse", "generate", "train", "publish", "label-studio", "cuda"} <= named
    assert re.search(r"torch==[\d.]+", DOCKERFILE)[0] in known["train"]
    without_dependencies = r"pip install .*--no-deps ([\w -]+)"
    assert (
        re.search(without_dependencies, DOCKERFILE)[1].split()
        == re.search(without_dependencies, (ROOT / "Makefile").read_text())[1].split()
    )


def test_both_stages_stand_on_the_base_that_is_asked_for():
    assert [line.split()[0] for line in steps("FROM")] == ["${BASE}", "${BASE}"]
    assert steps("ARG")[0].startswith("BASE=")


def test_the_container_does_not_run_as_root():
    (user,) = steps("USER")
    assert user.isdecimal() and int(user) >= 1000
    assert f"--uid {user} " in DOCKERFILE
    # What runs there can change neither the code nor its packages.
    assert "--chown" not in DOCKERFILE
    assert DOCKERFILE.index("\nUSER ") > DOCKERFILE.rindex("\nRUN ")


def probe(service: str | None = None) -> list[str]:
    """The arguments of a health check by a program: that of a service, or the image's own."""
    if service:
        return SERVICES[service]["healthcheck"]["test"][1:]
    return json.loads(re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])


@pytest.mark.parametrize("service", [None, "web"])
def test_the_health_check_asks_an_address_of_the_site(service):
    port, path = re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", probe(service)[-1]).groups()
    assert resolve(path).url_name in {"health_live", "health_ready"}
    arguments = json.loads(steps("CMD")[-1])
    assert [port] == steps("EXPOSE") == [arguments[arguments.index("--port") + 1]]
    assert SERVICES["web"]["ports"][0].endswith(f":{port}")


class Answering(BaseHTTPRequestHandler):
    asked: list[str | None] = []
    status = 200

    def do_GET(self):
        self.asked.append(self.headers["Host"])
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def answering(monkeypatch):
    monkeypatch.setattr(Answering, "asked", [])
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("service", "hosts", "name"),
    [
        (None, None, "localhost"),
        (None, "portal.example.org, localhost", "portal.example.org"),
        (None, ".example.org", "example.org"),
        (None, "*", "localhost"),
        ("web", "portal.example.org,web", "web"),
    ],
)
def test_the_health_check_asks_by_a_name_that_the_site_answers_to(answering, monkeypatch, service, hosts, name):
    monkeypatch.delenv("FINETUNE_HOSTS", raising=False)
    env = {**os.environ, **({"FINETUNE_HOSTS": hosts} if hosts else {})}
    code = probe(service)[-1].replace("127.0.0.1:8000", f"127.0.0.1:{answering.server_port}")
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
    assert answering.RequestHandlerClass.asked == [name]
    monkeypatch.setattr(Answering, "status", 503)
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).returncode == 1


@pytest.mark.skipif(not HADOLINT, reason="hadolint is not installed")
def test_hadolint_finds_nothing():
    told = subprocess.run([HADOLINT, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert told.stdout == ""


# The installation


def filled(text: str, env: dict[str, str]) -> str:
    """As compose does it: ${NAME}, ${NAME:-default}, ${NAME-default}, ${NAME:?what is missing}, inner ones first."""

    def value(found: re.Match[str]) -> str:
        name, sign, rest = found.groups()
        held = env.get(name)
        missing = held is None or (held == "" and (sign or "").startswith(":"))
        assert not (missing and (sign or "").endswith("?")), rest
        return (rest if missing else held) or ""

    text = text.replace("$$", "\0")
    while "${" in text:
        text = re.sub(r"\$\{(\w+)(:?[-?])?([^${}]*)\}", value, text)
    return text.replace("\0", "$")


def started(profiles: set[str]) -> set[str]:
    return {name for name, service in SERVICES.items() if not (held := service.get("profiles")) or profiles & {*held}}


def environment(name: str) -> dict[str, str]:
    """What a service of ours is started with: .env, and over it what compose.yaml says."""
    over = {key: filled(str(value), FILLED_IN) for key, value in SERVICES[name]["environment"].items()}
    return {**FILLED_IN, **over}


@pytest.mark.parametrize(
    ("profiles", "added"),
    [
        (set(), set()),
        ({"cpu"}, {"worker"}),
        ({"gpu"}, {"gpu-worker"}),
        ({"cpu", "ollama"}, {"worker", "ollama", "connect-ollama"}),
        ({"gpu", "label-studio"}, {"gpu-worker", "label-studio", "connect-label-studio"}),
    ],
)
def test_the_profiles_say_what_starts(profiles, added):
    assert started(profiles) == {"postgres", "prepare", "web", *added}
    for name in started(profiles):
        needed = {*SERVICES[name].get("depends_on", {})}
        assert needed <= started(profiles), name  # else compose refuses
        held = {filled(volume, {}).split(":")[0] for volume in SERVICES[name].get("volumes", [])}
        assert held <= COMPOSE["volumes"].keys(), name


def test_the_example_starts_a_portal_with_one_worker():
    profiles = set(EXAMPLE["COMPOSE_PROFILES"].split(","))
    assert profiles <= {name for service in SERVICES.values() for name in service.get("profiles", [])}
    assert len(started(profiles) & WORKERS.keys()) == 1
    with pytest.raises(AssertionError, match=r"say in \.env which parts start"):
        filled(json.dumps(SERVICES["prepare"]), {**FILLED_IN, "COMPOSE_PROFILES": ""})


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_each_image_is_built_once(profile):
    for image in {SERVICES[name]["image"] for name in started({profile}) & OURS.keys()}:
        assert [name for name in OURS if OURS[name]["image"] == image and "build" in OURS[name]] == {
            "finetune-site:cpu": ["prepare"],
            "finetune-site:cuda": ["gpu-worker"],
        }[image]
    assert OURS["gpu-worker"]["build"]["args"] == {"VARIANT": "cuda"}


@pytest.mark.parametrize("name", OURS)
def test_every_command_is_one_of_the_site_with_its_options(name):
    command = SERVICES[name].get("command", [])
    line = command[-1] if command[:2] == ["sh", "-c"] else shlex.join(command)
    for call in line.split(" && ") if line else []:
        python, manage, name, *arguments = shlex.split(filled(call, FILLED_IN))
        assert [python, manage] == ["python", "manage.py"]
        load_command_class(get_commands()[name], name).create_parser(manage, name).parse_args(arguments)


def test_every_variable_is_one_that_the_site_or_the_installation_reads():
    read = set(re.findall(r'"(FINETUNE_\w+|DATABASE_URL)"', (ROOT / "finetune_site" / "settings.py").read_text()))
    of_compose = {"COMPOSE_PROFILES", *re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text())}
    for name, service in OURS.items():
        assert service["environment"].keys() - read - of_compose == set(), name
    typed = re.findall(r"^([A-Z][A-Z0-9_]+)=", (ROOT / "docs" / "containers.md").read_text(), re.MULTILINE)
    assert len(typed) >= 5
    assert {*EXAMPLE, *typed} - read - of_compose - {*HUB_TOKENS} == set()


@pytest.mark.parametrize("name", OURS)
def test_the_site_starts_with_what_compose_gives_it(name, tmp_path):
    env = {**os.environ, **environment(name), "FINETUNE_DATA_DIR": str(tmp_path), "FINETUNE_OLLAMA_MODELS": ""}
    told = subprocess.run(
        [sys.executable, "-c", "from finetune_site.settings import *; print(ALLOWED_HOSTS, DATABASES['default'])"],
        cwd=ROOT, env=env, capture_output=True, text=True,
    )  # fmt: skip
    assert "['localhost', 'web']" in told.stdout, told.stderr
    assert f"'PASSWORD': '{FILLED_IN['POSTGRES_PASSWORD']}', 'HOST': 'postgres'" in told.stdout


@pytest.mark.parametrize("name", WORKERS)
def test_engines_inherit_no_password(name):
    for variable, value in environment(name).items():
        assert not SECRET.search(variable) or variable.startswith(PRIVATE_VARIABLES) or not value, variable


@pytest.mark.parametrize("name", SERVICES)
def test_no_password_stands_in_a_process_list(name):
    service = SERVICES[name]
    told = json.dumps([service.get("command"), service.get("entrypoint"), service.get("healthcheck")])
    assert not SECRET.search(told)


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_healthy_while_both_clusters_live(name, tmp_path, settings):
    settings.DATA_DIR = tmp_path
    (kind, line) = SERVICES[name]["healthcheck"]["test"]
    assert kind == "CMD-SHELL"

    def is_healthy() -> bool:
        return not subprocess.run(["/bin/sh", "-c", filled(line, {}).replace("/data/", f"{tmp_path}/")]).returncode

    (tmp_path / "run").mkdir()
    alive_file("default").touch()
    assert not is_healthy()
    alive_file("gpu").touch()
    assert is_healthy()
    os.utime(alive_file("gpu"), (0, 0))
    assert not is_healthy()


def test_what_ends_is_not_asked_for_its_health():
    for name, service in OURS.items():
        if service["restart"] == "no":
            assert service["healthcheck"] == {"disable": True}, name
        else:
            assert "test" in service["healthcheck"], name


def test_an_ollama_that_starts_beside_the_site_is_registered_once(db, tmp_path):
    command = SERVICES["connect-ollama"]["command"][2:]
    with ollama_server(tmp_path) as server:
        for _ in range(2):
            call_command(*(server.base_url if "://" in word else word for word in command))
    held = ModelServer.objects.get()
    assert (held.base_url, held.takes_models) == (server.base_url, True)
    assert held.model_names == []  # it is empty; who fetches a model runs the service again
    with pytest.raises(CommandError):  # it is away: compose says so in the service's log
        call_command(*(server.base_url if "://" in word else word for word in command))
