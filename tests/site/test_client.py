"""The terminal client as a program of its own, against the running site with runners at work."""

import json
import os
import subprocess
import sys
import threading

import pytest
from django.db import connection

from datasets_app.models import DatasetVersion, Document, Example
from datasets_app.services import datasets, examples
from finetune_site.api.services import make_token
from tests.conftest import ROOT
from tests.factories import run_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture
def finetune(site, trainer):
    """Runs a command; returns its exit code, what it printed and what it said."""
    secret = make_token(actor=trainer, name="T", scopes=["write", "train"])[1]

    def run(*arguments: object, **environment: str) -> tuple[int, str, str]:
        env = {**os.environ, "FINETUNE_API_URL": site, "FINETUNE_API_TOKEN": secret, "COLUMNS": "300", **environment}
        command = [sys.executable, "-m", "finetune_site.api.client", *map(str, arguments)]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def workers():
    """Does what waits, in a thread, until the test has ended."""
    stop = threading.Event()

    def work() -> None:
        try:
            while not stop.wait(0.05):
                run_all("default")
                run_all("gpu")
        finally:
            connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join(600)


def test_from_a_document_to_a_run(finetune, workers, project, trainer, base, tmp_path):
    manual = tmp_path / "pump.md"
    manual.write_text("# Pump\n\nThe pump weighs 12 kg. The rated pressure is 4 bar.\n")
    code, out, said = finetune("upload", project.pk, manual)
    assert code == 0 and "pump.md: succeeded" in said, said
    document = Document.objects.get()
    assert json.loads(out)["id"] == document.pk and document.parsed_at
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Pumps")
    assert finetune("generate", dataset.pk, document.pk)[0] == 0
    rows = [
        {"messages": [{"role": "user", "content": f"Part {n}?"}, {"role": "assistant", "content": f"{n} kg."}]}
        for n in range(12)
    ]
    lines = tmp_path / "rows.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)))
    assert finetune("import", dataset.pk, lines)[0] == 0
    assert Example.objects.filter(origin="imported").count() == 12
    examples.judge_all(actor=trainer, dataset=dataset, examples=dataset.examples.all(), verdict="approved")
    code, out, said = finetune("seal", dataset.pk, "--validation", 0)
    assert code == 0, said
    version = DatasetVersion.objects.get()
    assert json.loads(out)["sha256"] == version.sha256
    knobs = ("--knob", "epochs=1", "--method", "lora", "--preset", "quick")
    code, out, said = finetune("train", project.pk, "--version", version.pk, "--base", "tiny:1", *knobs)
    assert code == 0, said
    run = json.loads(out)
    assert (run["state"], run["config"]["epochs"]) == ("succeeded", 1)
    code, out, _ = finetune("get", f"/runs/{run['id']}")
    assert code == 0 and json.loads(out)["name"] == "From the terminal"
    assert json.loads(finetune("get", "/jobs?state=failed")[1])["count"] == 0
    assert [json.loads(line)["name"] for line in finetune("datasets", project.pk)[1].splitlines()] == ["Pumps"]


def test_what_goes_wrong_is_said_and_has_its_exit_code(finetune, workers, project, trainer, tmp_path):
    assert finetune("projects", FINETUNE_API_TOKEN="")[0] == 2
    assert "Send a token that is valid" in finetune("projects", FINETUNE_API_TOKEN="fts_wrong")[2]
    code, _, said = finetune("projects", FINETUNE_API_URL="http://127.0.0.1:9")
    assert code == 2 and "cannot be reached" in said
    code, _, said = finetune("upload", project.pk, tmp_path / "nowhere.pdf")
    assert code == 2 and "nowhere.pdf" in said
    code, _, said = finetune("train", project.pk, "--version", 1, "--base", "nonsense")
    assert code == 2 and "There is no base model “nonsense”" in said
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.4 nothing of a PDF")
    code, _, said = finetune("upload", project.pk, broken)
    assert code == 1 and "broken.pdf: failed" in said
    assert Document.objects.get().job.error_text in " ".join(said.split())
    (tmp_path / "empty.txt").touch()
    (tmp_path / "whole.txt").write_text("The pump holds 4 litres of oil. It is an old pump.")
    code, _, said = finetune("upload", project.pk, tmp_path / "empty.txt", tmp_path / "whole.txt")
    assert code == 1 and "is empty" in said and Document.objects.filter(name="whole.txt").exists()
