"""Judgements of a run against its base."""

from django.conf import settings
from django.db import models
from django.utils import timezone

from finetune_site.jobs.models import Job
from training_app.models.runs import Run

SETS = ("recall", "validation", "general")


class Evaluation(models.Model):
    """The same questions to base and tuned model, with the sums of each set."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="evaluations")
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="evaluation")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    summary = models.JSONField(default=dict)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"evaluation of {self.run}"

    @property
    def sets(self) -> dict[str, dict[str, float]]:
        """The sums of each set in the order in which they are read; Postgres keeps none."""
        found = self.summary.get("sets", {})
        return {name: found[name] for name in SETS if name in found}


class EvaluationRow(models.Model):
    """One question with both answers."""

    evaluation = models.ForeignKey(Evaluation, models.CASCADE, related_name="rows")
    index = models.PositiveIntegerField()
    set = models.CharField(max_length=12)
    example_id = models.BigIntegerField(null=True)
    question = models.TextField()
    reference = models.TextField()
    answer_key = models.CharField(max_length=300, blank=True)
    base_answer = models.TextField()
    tuned_answer = models.TextField()
    base_score = models.FloatField()
    tuned_score = models.FloatField()
    base_exact = models.BooleanField(null=True, help_text="Empty: judged before this was measured")
    tuned_exact = models.BooleanField(null=True)
    base_f1 = models.FloatField(default=0)
    tuned_f1 = models.FloatField(default=0)
    base_rouge_l = models.FloatField(null=True)
    tuned_rouge_l = models.FloatField(null=True)

    class Meta:
        ordering = ["index"]
        constraints = [models.UniqueConstraint(fields=["evaluation", "index"], name="one_row_per_question")]

    def __str__(self) -> str:
        return f"question {self.index} of {self.evaluation_id}"
