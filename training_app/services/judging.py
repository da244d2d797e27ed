"""What people do to judge the answers of an evaluation: have a model score them, give verdicts of their own."""

import hashlib
from collections.abc import Sequence

from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, Max
from django.utils import timezone

from datasets_app.models import ModelServer
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import UNFINISHED
from finetune_site.projects.models import Project
from finetune_site.projects.services import audit
from training_app.engine.rubric import VERDICTS
from training_app.models import Evaluation, EvaluationRow, Grade, Judgement, Rubric, Side, Verdict
from training_app.services.runs import TrainingError

MAX_RUBRIC = 8000


@transaction.atomic
def start_judgement(
    *,
    actor: User,
    evaluation: Evaluation,
    server: ModelServer,
    model: str,
    rubric: str,
    sets: Sequence[str],
    max_rows: int,
) -> Judgement:
    """Have a model score both answers of up to `max_rows` questions of each set, those with verdicts first."""
    if not evaluation.summary:
        raise TrainingError("The evaluation has no answers yet. Let it end first.")
    if model not in server.model_names:
        raise TrainingError(f"{server} does not offer the model {model!r}. Choose one from the list.")
    if evaluation.judgements.filter(job__state__in=UNFINISHED).exists():
        raise TrainingError("The answers are being judged already. Let it end, or stop it.")
    chosen = _choose(evaluation, sets, max_rows)
    if not chosen:
        raise TrainingError("The evaluation has no question of these sets. Choose another.")
    project = evaluation.run.project
    judgement = Judgement.objects.create(
        evaluation=evaluation,
        rubric=keep_rubric(actor=actor, project=project, text=rubric),
        server=server,
        model=model,
        created_by=actor,
    )
    Grade.objects.bulk_create(
        [Grade(judgement=judgement, row_id=row, side=side) for row in chosen for side in Side.values], batch_size=500
    )
    judgement.job = jobs.enqueue(
        project=project,
        owner=actor,
        kind="training.judge",
        label=f"{evaluation.run.name} by {model}",
        url=judgement.get_absolute_url(),
    )
    judgement.save(update_fields=["job"])
    after = {"model": model, "server": str(server), "rubric": judgement.rubric.number, "questions": len(chosen)}
    audit(project, actor, "had a model judge the", evaluation, after=after)
    return judgement


def keep_rubric(*, actor: User, project: Project, text: str) -> Rubric:
    """The project's rubric of this text: a new version unless an earlier one says the same."""
    text = "\n".join(line.rstrip() for line in text.strip().splitlines())
    if not text:
        raise TrainingError("The rubric is empty. Say what makes an answer good.")
    if len(text) > MAX_RUBRIC:
        raise TrainingError(f"The rubric is longer than {MAX_RUBRIC} characters. Shorten it.")
    digest = hashlib.sha256(text.encode()).hexdigest()
    Project.objects.select_for_update().get(pk=project.pk)  # two people, one number
    if known := Rubric.objects.filter(project=project, sha256=digest).first():
        return known
    number = (project.rubrics.aggregate(last=Max("number"))["last"] or 0) + 1
    rubric = Rubric.objects.create(project=project, number=number, text=text, sha256=digest, created_by=actor)
    audit(project, actor, "wrote", rubric, after={"sha256": digest})
    return rubric


def give_verdict(*, actor: User, row: EvaluationRow, side: str, verdict: str, is_blind: bool) -> Verdict:
    """Keep what a person thinks of one answer; given again, the later one stands."""
    if side not in Side.values or verdict not in VERDICTS:
        raise TrainingError(f"The verdict must be one of {', '.join(VERDICTS)}.")
    kept, _ = Verdict.objects.update_or_create(
        row=row, side=side, by=actor, defaults={"verdict": verdict, "is_blind": is_blind, "at": timezone.now()}
    )
    return kept


def _choose(evaluation: Evaluation, sets: Sequence[str], max_rows: int) -> list[int]:
    """Questions that people judged come first: on them the judge can be checked."""
    chosen: list[int] = []
    for name in sets:
        rows = evaluation.rows.filter(set=name).annotate(given=Count("verdicts")).order_by("-given", "index")
        chosen += rows.values_list("pk", flat=True)[:max_rows]
    return chosen
