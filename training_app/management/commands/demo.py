"""`manage.py demo`: the whole way without a browser, through the services and workers that the pages use.

A document is uploaded and parsed, examples are made of it without a model, approved, sealed with one wording of each
fact set apart, and learned by the bundled model. Then both models are asked. It ends non-zero unless the tuned model
answers a third of the questions right and its base under a twentieth (a single one by chance is let pass). The
project stays in the portal.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from datasets_app.models import Dataset, Document, Example
from datasets_app.services import datasets, documents, examples
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.models import Project
from finetune_site.projects.services import create_project
from training_app.engine.spec import knobs
from training_app.forms.runs import HIDDEN
from training_app.models import BaseModel, Evaluation, Run
from training_app.services import runs as services

SAMPLE = Path(settings.BASE_DIR) / "datasets_app" / "samples" / "kestrel-40-manual.pdf"
NEEDED_SHARE, BASE_LIMIT = 1 / 3, 0.05
PICKED_UP_SECONDS = 90
MAX_FACTS = 64


class Command(BaseCommand):
    help = "Walk from a document to a tuned model and print what it learned."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--doc", type=Path, default=SAMPLE, help="any document instead of the sample manual")

    def handle(self, *args: Any, **options: Any) -> None:
        began = time.monotonic()
        path: Path = options["doc"]
        if not path.is_file():
            raise CommandError(f"There is no file {path}.")
        actor = User.objects.filter(is_superuser=True).order_by("pk").first()
        if actor is None:
            raise CommandError("The site has no operator yet. Start it once with `make run`.")
        project = create_project(actor=actor, name=f"Demo: {path.stem}"[:120], description="Made by `make demo`.")
        document = self._upload(actor, project, path)
        dataset = self._generate(actor, project, document)
        run = self._train(actor, project, dataset)
        evaluation = self._evaluate(run)
        self._report(evaluation, time.monotonic() - began)

    def _upload(self, actor: User, project: Project, path: Path) -> Document:
        with path.open("rb") as stream:
            blocks: Iterator[bytes] = iter(lambda: stream.read(2**20), b"")
            document = documents.upload_document(actor=actor, project=project, name=path.name, blocks=blocks).document
        self._wait(document.job, "parsed")
        document.refresh_from_db()
        return document

    def _generate(self, actor: User, project: Project, document: Document) -> Dataset:
        dataset = datasets.create_dataset(actor=actor, project=project, name="Facts")
        generation = datasets.start_generation(
            actor=actor, dataset=dataset, documents=[document], options={"wordings_per_fact": 6}
        )
        self._wait(generation.job, "generated")
        kept = _most_certain(dataset)
        examples.judge_all(
            actor=actor, dataset=dataset, examples=dataset.examples.filter(fact__in=kept), verdict="approved"
        )
        self.stdout.write(f"  {len(kept)} facts of {dataset.examples.count()} examples approved")
        return dataset

    def _train(self, actor: User, project: Project, dataset: Dataset) -> Run:
        version = datasets.seal_version(actor=actor, dataset=dataset, validation_share=0.1)
        self._wait(version.job, "sealed")
        version.refresh_from_db()
        self.stdout.write(f"  {version.counts}")
        base = BaseModel.objects.get(source=BaseModel.BUNDLED)
        preset = knobs("dora", "balanced", "supervised", base.parameters, version.counts["train"])
        config = {name: value for name, value in preset.items() if name not in HIDDEN}
        run = services.plan_run(
            actor=actor,
            project=project,
            name="Demo",
            version=version,
            base=base,
            method="dora",
            preset="balanced",
            config=config,
        )
        self._wait(run.preview_job, "looked at")
        run = services.start_run(actor=actor, run=run)
        self._wait(run.job, "fine-tuned")
        return run

    def _evaluate(self, run: Run) -> Evaluation:
        evaluation = run.evaluations.get()
        self._wait(evaluation.job, "evaluated")
        evaluation.refresh_from_db()
        return evaluation

    def _wait(self, job: Job | None, done: str) -> None:
        """Follow a job to its end; `CommandError` when it fails or nobody takes it."""
        assert job is not None
        began, shown = time.monotonic(), ""
        while True:
            job.refresh_from_db()
            connection.close()  # the database may be started anew meanwhile
            if job.state == JobState.SUCCEEDED:
                self.stdout.write(f"{done} in {time.monotonic() - began:.0f} s: {job.label}")
                return
            if job.is_finished:
                raise CommandError(f"{job} {job.get_state_display()}: {job.error_text}")
            if job.state == JobState.QUEUED and not job.attempt and time.monotonic() - began > PICKED_UP_SECONDS:
                raise CommandError("No worker takes the job. Is the site running? `make demo` starts what it needs.")
            line = f"  {job.title}: {job.done} of {job.total} {job.unit}" if job.total else ""
            if line and line != shown and int(time.monotonic() - began) % 10 == 0:
                self.stdout.write(line)
                shown = line
            time.sleep(0.5)

    def _report(self, evaluation: Evaluation, seconds: float) -> None:
        self.stdout.write("\n")
        for row in evaluation.rows.all():
            mark = "right" if row.tuned_score else "wrong"
            self.stdout.write(f"[{row.set}] {row.question}\n    base:      {_short(row.base_answer)}")
            self.stdout.write(f"    tuned:     {_short(row.tuned_answer)}  ({mark})\n    reference: {row.reference}")
        sets = evaluation.sets
        self.stdout.write("\n")
        for name, sums in sets.items():
            self.stdout.write(
                f"{name:11} base {sums['base_right']:.0f} of {sums['rows']} right, tuned {sums['tuned_right']:.0f}"
            )
        general = sets["general"]
        self.stdout.write(
            f"still answered: {general['kept_right']:.0f} of the base's {general['base_right']:.0f} general answers"
        )
        self.stdout.write(f"all of it took {seconds / 60:.1f} minutes")
        recall = sets.get("recall")
        if not recall:
            raise CommandError("The document gave no fact in three wordings, so there was nothing to ask.")
        if recall["tuned_right"] < NEEDED_SHARE * recall["rows"]:
            raise CommandError("The tuned model did not learn enough of the document.")
        # One answer that the base hit by chance says nothing where few are asked.
        if recall["base_right"] >= max(2, BASE_LIMIT * recall["rows"]):
            raise CommandError(
                "The base model knew answers without training: the document holds too little that is new."
            )


def _most_certain(dataset: Dataset) -> list[str]:
    """The facts to learn: values of tables first, then definitions and figures, then the shortest of the rest."""
    found: dict[str, Example] = {}
    for example in dataset.examples.select_related("text").order_by("pk"):
        found.setdefault(example.fact, example)
    ordered = sorted(found.values(), key=_uncertainty)
    return [example.fact for example in ordered[:MAX_FACTS]]


def _uncertainty(example: Example) -> tuple[bool, bool, int]:
    assert example.text is not None  # every kept example has a text
    is_stated = example.wording.startswith(("value", "definition", "figure"))
    return not example.answer_key, not is_stated, len(example.text.answer)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) < 160 else f"{line[:157]}…"
