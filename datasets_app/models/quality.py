"""What a project lets into a version."""

from django.db import models

from datasets_app.engine.quality import FINDINGS
from datasets_app.models.examples import Support
from finetune_site.projects.models import Project

MAX_TOKENS = 1024
# What may be asked of every example: what was found in it, and what its evidence says.
REASONS = {**FINDINGS, Support.UNVERIFIED.value: Support.UNVERIFIED.label, Support.STALE.value: Support.STALE.label}


class QualityRules(models.Model):
    """`blocking`: names of findings with which no example is sealed. A project without a row lets everything in."""

    project = models.OneToOneField(Project, models.CASCADE, related_name="quality_rules")
    blocking = models.JSONField(default=list)
    max_tokens = models.PositiveIntegerField(default=MAX_TOKENS)
    finds_names = models.BooleanField(default=False)

    class Meta:
        verbose_name_plural = "quality rules"
        constraints = [models.CheckConstraint(condition=models.Q(max_tokens__gte=16), name="rows_hold_something")]

    def __str__(self) -> str:
        return f"what {self.project} lets into a version"

    @classmethod
    def of(cls, project: Project) -> "QualityRules":
        """The project's, made but not saved where there is none yet."""
        return cls.objects.filter(project=project).first() or cls(project=project)
