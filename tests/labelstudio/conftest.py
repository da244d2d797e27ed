"""A real Label Studio for these tests, from its own environment; a migrated data folder is kept for the next time."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from finetune_site.lib import label_studio
from tests.browser.conftest import browser_context_args, browser_type_launch_args, context  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venv-label-studio"
PROGRAM = Path(os.environ.get("LABEL_STUDIO_PROGRAM", HOME / "bin" / "label-studio"))
PASSWORD = "a-Password-for-tests-1"


@pytest.fixture(scope="session")
def label_studio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[label_studio.Local]:
    assert PROGRAM.exists(), "Label Studio is not installed: run `make .venv-label-studio/ready`."
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("label-studio") / "data"
    server = label_studio.start_from(PROGRAM.parents[1] / "template", PROGRAM, folder, port=port, password=PASSWORD)
    yield server
    server.stop()


@pytest.fixture
def away(label_studio_server: label_studio.Local) -> Callable[[], AbstractContextManager[None]]:
    """Label Studio is stopped while the context lasts, and started again with everything it had."""

    @contextmanager
    def stopped() -> Iterator[None]:
        label_studio_server.stop()
        try:
            yield
        finally:
            label_studio_server.start_again()

    return stopped


@pytest.fixture(scope="session")
def tokens(label_studio_server: label_studio.Local) -> list[str]:
    """The personal tokens minted so far; minting one revokes the one before."""
    return [label_studio.mint_token(label_studio_server.url, PASSWORD)]


@pytest.fixture
def personal_token(tokens: list[str]) -> str:
    return tokens[-1]


@pytest.fixture
def server(db, label_studio_server, personal_token):
    """The real server, as an operator registered it."""
    from datasets_app.models import LabelStudioServer

    made = LabelStudioServer(name="Ours", url=label_studio_server.url, allows_import=True)
    made.token = personal_token
    made.save()
    return made


@pytest.fixture
def there(label_studio_server, personal_token):
    """The SDK's own client: what people there do is done through it."""
    from label_studio_sdk import LabelStudio

    return LabelStudio(base_url=label_studio_server.url + "/", api_key=personal_token)


@pytest.fixture
def example(project, trainer):
    """One question with its answer, in a dataset of its own."""
    from datasets_app.services import datasets, examples

    dataset = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    turns = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "It is one."}]
    return examples.write_example(actor=trainer, dataset=dataset, content={"messages": turns})
