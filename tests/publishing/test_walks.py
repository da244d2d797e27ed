"""The walks of docs/api.md as somebody would type them: each line by curl or the client, against the running site.

Only what is the reader's own is put in its place: address, token, and the keys of what the lines before have made.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from typing import Any

import pytest

from datasets_app.models import DatasetVersion, Document
from datasets_app.services import datasets, examples
from finetune_site.api.models import Scope
from finetune_site.api.services import make_token
from tests.conftest import ROOT
from tests.factories import run_all
from training_app.models import ChatTurn, Evaluation, PublishedModel, Run

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
SAMPLES = ROOT / "datasets_app" / "samples"
QUEUES = ("default", "gpu", "chat", "ollama")


def block(holding: str) -> list[str]:
    """The lines of the block of docs/api.md that holds a text."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    [found] = [lines for lines in blocks if holding in lines]
    return found.splitlines()


class Keys:
    """What the lines before have made, by the word of its address."""

    def __init__(self, **known: int) -> None:
        self._known = known

    def learn(self, line: str, answer: dict[str, Any]) -> None:
        words = re.findall(r"\$URL(?:/\w+/\d+)?/(\w+)", line)
        made = answer["items"][0] if answer.get("items") else answer
        self._known |= {words[0]: made["id"]} if "id" in made else {}
        self._known |= {"jobs": made["job_id"]} if made.get("job_id") else {}

    def put_into(self, line: str) -> str:
        """In addresses (`/projects/1`) and bodies (`"base": 1`, `"documents": [1]`)."""
        for kind, key in self._known.items():
            one = kind.removesuffix("s")
            line = re.sub(rf"/{kind}/\d+", f"/{kind}/{key}", line)
            line = re.sub(rf'"({kind}": \[|{one}": )\d+', rf'"\g<1>{key}', line)
        return line


@pytest.fixture
def secret(operator):
    return make_token(actor=operator, name="T", scopes=Scope.values)[1]


@pytest.fixture
def folder(tmp_path, settings):
    """Where somebody types, with the files that the walks name."""
    settings.CHAT_IDLE_SECONDS = 0  # a model that nobody asks on is put away at once
    shutil.copy(SAMPLES / "kestrel-40-manual.pdf", tmp_path / "manual.pdf")
    shutil.copy(SAMPLES / "kestrel-40-manual.docx", tmp_path / "appendix.docx")
    return tmp_path


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_every_line_of_the_walk_by_curl(site, secret, project, base, ollama, folder):
    keys = Keys(projects=project.pk, bases=base.pk, servers=ollama.pk)
    env = {**os.environ, "URL": f"{site}/api/v1", "AUTH": f"Authorization: Bearer {secret}"}
    for line in block("curl -H"):
        if line.startswith("export "):
            continue
        typed = keys.put_into(line).replace("curl ", "curl --silent --show-error --fail-with-body --max-time 300 ")
        done = subprocess.run(["/bin/bash", "-c", typed], cwd=folder, env=env, capture_output=True, text=True)
        assert done.returncode == 0, (typed, done.stdout, done.stderr)
        if line.endswith("/events"):
            assert '"succeeded"' in done.stdout
            continue
        keys.learn(line, json.loads(done.stdout))
        for queue in QUEUES:
            run_all(queue)
    assert Run.objects.get().is_done and ChatTurn.objects.get().answers.filter(state="done").count() == 2
    assert PublishedModel.objects.get().name == "ft/kestrel"


def test_every_line_of_the_client(site, secret, project, trainer, base, run, ollama, workers, folder):
    ollama.name = "House"
    ollama.save()
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Manual")
    env = {**os.environ, "FINETUNE_API_URL": site, "FINETUNE_API_TOKEN": secret, "PYTHONPATH": str(ROOT)}
    for line in block("finetune projects"):
        if line.startswith("export "):
            continue
        if line.startswith("alias "):
            assert line.endswith('"python -m finetune_site.api.client"')
            continue
        _, verb, *words = shlex.split(line, comments=True)
        while verb == "evaluate" and Evaluation.objects.filter(job__state__in=("queued", "running")).exists():
            time.sleep(0.2)  # the one that follows each training by itself
        keys = {
            "upload": [project.pk],
            "generate": [dataset.pk, *Document.objects.order_by("pk").values_list("pk", flat=True)],
            "seal": [dataset.pk],
            "train": [project.pk],
            "evaluate": [project.runs.latest("pk").pk],
            "publish": [run.pk],
        }.get(verb, [])
        own = {"1": str(DatasetVersion.objects.latest("pk").pk), "smollm2:135m": base.name}
        typed = [*map(str, keys), *(own.get(word, word) for word in words[len(keys) :])]
        command = [sys.executable, "-m", "finetune_site.api.client", verb, *typed]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        if verb == "generate":
            some = dataset.examples.filter(pk__in=dataset.examples.order_by("pk").values("pk")[:12])
            examples.judge_all(actor=trainer, dataset=dataset, examples=some, verdict="approved")
    assert project.runs.count() == 2 and PublishedModel.objects.get().name == "ft/kestrel"
