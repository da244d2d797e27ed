"""Chat with a run's model beside its base: one row a turn, so that nothing is lost on a reload."""

from django.conf import settings
from django.db import models
from django.utils import timezone

from training_app.models.runs import Run


class ChatTurn(models.Model):
    """What a person asked and what both models answered; the answers grow while they are written."""

    class State(models.TextChoices):
        WAITING = "waiting", "waiting"
        ANSWERING = "answering", "answering"
        DONE = "done", "done"
        FAILED = "failed", "failed"

    run = models.ForeignKey(Run, models.CASCADE, related_name="turns")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    prompt = models.TextField()
    base_answer = models.TextField(blank=True)
    tuned_answer = models.TextField(blank=True)
    base_seconds = models.FloatField(null=True)
    tuned_seconds = models.FloatField(null=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["pk"]
        indexes = [models.Index(fields=["run", "state", "id"], name="chat_waiting")]

    def __str__(self) -> str:
        return f"turn {self.pk}"
