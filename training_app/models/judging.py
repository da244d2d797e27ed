"""What a model and what people think of the answers of an evaluation."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.db import models
from django.db.models import Count, Q
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import ModelServer
from finetune_site.jobs.models import Job
from finetune_site.projects.models import Project
from training_app.engine.agreement import Agreement, agreement
from training_app.engine.rubric import PARTLY, RIGHT, WRONG, verdict_of
from training_app.models.evaluations import Evaluation, EvaluationRow


class Side(models.TextChoices):
    """Whose answer it is."""

    BASE = "base", "base"
    TUNED = "tuned", "tuned"


class Rubric(models.Model):
    """One version of the text that a project's judges go by; never changed, so that old scores keep their meaning."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="rubrics")
    number = models.PositiveIntegerField()
    text = models.TextField()
    sha256 = models.CharField(max_length=64)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["-number"]
        constraints = [
            models.UniqueConstraint(fields=["project", "number"], name="one_rubric_per_number"),
            models.UniqueConstraint(fields=["project", "sha256"], name="one_rubric_per_text"),
        ]

    def __str__(self) -> str:
        return f"rubric {self.number}"


class JudgementQuerySet(models.QuerySet["Judgement"]):
    def visible_to(self, user: User | AnonymousUser) -> "JudgementQuerySet":
        return self.filter(evaluation__run__project__in=Project.objects.visible_to(user))


class Judgement(models.Model):
    """A model's scores for the answers of an evaluation, by one rubric."""

    evaluation = models.ForeignKey(Evaluation, models.CASCADE, related_name="judgements")
    rubric = models.ForeignKey(Rubric, models.RESTRICT, related_name="judgements")
    server = models.ForeignKey(ModelServer, models.PROTECT, related_name="+")
    model = models.CharField(max_length=200)
    digest = models.CharField(max_length=100, blank=True, help_text="Which weights it was, where the server tells")
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="judgement")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    summary = models.JSONField(default=dict)

    objects = JudgementQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"judgement by {self.model}"

    def get_absolute_url(self) -> str:
        return reverse("judgement", args=[self.pk])

    @property
    def sets(self) -> dict[str, dict[str, float]]:
        """The sums of each set, in the evaluation's order."""
        found = self.summary.get("sets", {})
        return {name: found[name] for name in self.evaluation.sets if name in found}

    def agreement(self) -> Agreement | None:
        """With people, over every verdict that anybody gave on an answer that was scored."""
        scored = {
            (row, side): verdict_of(score)
            for row, side, score in self.grades.filter(outcome=Grade.SCORED).values_list("row", "side", "score")
            if score is not None
        }
        given = Verdict.objects.filter(row__evaluation=self.evaluation_id).values_list("row", "side", "verdict")
        both = [(row, scored[row, side], verdict) for row, side, verdict in given if (row, side) in scored]
        return agreement([(ours, theirs) for _, ours, theirs in both], len({row for row, _, _ in both}))


class Grade(models.Model):
    """What the judge made of one answer. Each answer that it was to judge has one from the start."""

    WAITING, SCORED, REFUSED, FAILED = "waiting", "scored", "refused", "failed"

    judgement = models.ForeignKey(Judgement, models.CASCADE, related_name="grades")
    row = models.ForeignKey(EvaluationRow, models.CASCADE, related_name="grades")
    side = models.CharField(max_length=5, choices=Side.choices)
    outcome = models.CharField(
        max_length=8,
        default=WAITING,
        choices=[
            (WAITING, "not judged yet"),
            (SCORED, "scored"),
            (REFUSED, "the judge's answer is unusable"),
            (FAILED, "the server failed"),
        ],
    )
    score = models.PositiveSmallIntegerField(null=True)
    reason = models.TextField(blank=True)

    class Meta:
        ordering = ["row", "side"]
        constraints = [
            models.UniqueConstraint(fields=["judgement", "row", "side"], name="one_grade_per_answer"),
            models.CheckConstraint(
                condition=Q(outcome="scored", score__range=(1, 5)) | (~Q(outcome="scored") & Q(score__isnull=True)),
                name="scored_has_a_score",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.outcome}: {self.side} answer of row {self.row_id}"

    @property
    def verdict(self) -> str:
        """What its score stands for beside people's verdicts; empty without a score."""
        return verdict_of(self.score) if self.score else ""


class VerdictQuerySet(models.QuerySet["Verdict"]):
    def sums(self) -> dict[str, Any]:
        """How many people gave how many, and of each model's answers how many there are and were found right."""
        sides = self.order_by().values("side").annotate(all=Count("pk"), right=Count("pk", filter=Q(verdict=RIGHT)))
        return {
            "people": self.order_by().values("by").distinct().count(),
            "answers": self.count(),
            "sides": {entry["side"]: entry for entry in sides.order_by("side")},
        }


class Verdict(models.Model):
    """What a person thinks of one answer."""

    row = models.ForeignKey(EvaluationRow, models.CASCADE, related_name="verdicts")
    side = models.CharField(max_length=5, choices=Side.choices)
    verdict = models.CharField(max_length=6, choices=[(name, name) for name in (RIGHT, PARTLY, WRONG)])
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    at = models.DateTimeField(default=timezone.now)
    is_blind = models.BooleanField(help_text="Given without knowing whose answer it was")

    objects = VerdictQuerySet.as_manager()

    class Meta:
        ordering = ["row", "side", "pk"]
        constraints = [models.UniqueConstraint(fields=["row", "side", "by"], name="one_verdict_per_person")]

    def __str__(self) -> str:
        return f"{self.verdict}: {self.side} answer of row {self.row_id}"
