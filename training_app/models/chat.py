"""Conversations with models: one row a turn and one an answer, so that nothing is lost on a reload.

A conversation is its person's alone: neither the project's owners nor operators read it.
"""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import Example
from finetune_site.jobs.models import Job
from finetune_site.projects.models import Project
from training_app.models.publishing import PublishedModel
from training_app.models.runs import Run

MAX_ANSWER_TOKENS = 2048


class ConversationQuerySet(models.QuerySet["Conversation"]):
    def of(self, user: User | AnonymousUser) -> "ConversationQuerySet":
        return self.filter(user_id=user.pk, project__in=Project.objects.visible_to(user))


class Conversation(models.Model):
    """With a run's model beside its base, or with a published model. Kept when its person says so, else for a while."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="conversations")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="+")
    run = models.ForeignKey(Run, models.CASCADE, null=True, related_name="conversations")
    model = models.ForeignKey(PublishedModel, models.CASCADE, null=True, related_name="conversations")
    system = models.TextField(blank=True)
    temperature = models.FloatField(default=0, validators=[MinValueValidator(0), MaxValueValidator(2)])
    max_tokens = models.PositiveIntegerField(
        default=256, validators=[MinValueValidator(1), MaxValueValidator(MAX_ANSWER_TOKENS)]
    )
    is_saved = models.BooleanField(default=False)
    asked_at = models.DateTimeField(default=timezone.now)

    objects = ConversationQuerySet.as_manager()

    class Meta:
        ordering = ["-asked_at"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(run=None, model__isnull=False) | models.Q(run__isnull=False, model=None),
                name="conversation_with_one",
            ),
        ]

    def __str__(self) -> str:
        return f"chat with {self.partner}"

    def get_absolute_url(self) -> str:
        return reverse("conversation", args=[self.pk])

    @property
    def partner(self) -> Run | PublishedModel:
        found = self.run or self.model
        assert found is not None
        return found

    @property
    def sides(self) -> tuple[str, ...]:
        """Who answers each question, in this order."""
        return (ChatAnswer.Side.TUNED, ChatAnswer.Side.BASE) if self.run_id else (ChatAnswer.Side.PUBLISHED,)

    @property
    def news_job(self) -> Job | None:
        """The job on which the project's pages hear of it: the one that made the model."""
        if self.run:
            return self.run.job
        return self.model.current.job if self.model and self.model.current else None


class ChatTurn(models.Model):
    """What a person asked."""

    conversation = models.ForeignKey(Conversation, models.CASCADE, related_name="turns")
    prompt = models.TextField()
    # The conversation's, when it was asked.
    system = models.TextField(blank=True)
    temperature = models.FloatField(default=0)
    max_tokens = models.PositiveIntegerField(default=256)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["pk"]

    def __str__(self) -> str:
        return f"turn {self.pk}"

    @property
    def is_open(self) -> bool:
        return any(answer.is_open for answer in self.answers.all())


class ChatAnswer(models.Model):
    """What one model answered; it grows while it is written."""

    class Side(models.TextChoices):
        TUNED = "tuned", "Tuned"
        BASE = "base", "Base"
        PUBLISHED = "published", "Published"

    class State(models.TextChoices):
        WAITING = "waiting", "waiting"
        LOADING = "loading", "loading the model"
        ANSWERING = "answering", "answering"
        DONE = "done", "done"
        FAILED = "failed", "failed"

    class Finish(models.TextChoices):
        STOP = "stop", "ended by itself"
        LENGTH = "length", "cut at the length chosen"
        STOPPED = "stopped", "stopped"

    OPEN = (State.WAITING, State.LOADING, State.ANSWERING)

    turn = models.ForeignKey(ChatTurn, models.CASCADE, related_name="answers")
    side = models.CharField(max_length=10, choices=Side.choices)
    text = models.TextField(blank=True)
    state = models.CharField(max_length=10, choices=State.choices, default=State.WAITING)
    problem = models.CharField(max_length=500, blank=True)
    finish = models.CharField(max_length=10, choices=Finish.choices, blank=True)
    model = models.CharField(max_length=200, blank=True, help_text="What answered, as Ollama names it")
    tokens = models.PositiveIntegerField(null=True)
    seconds = models.FloatField(null=True)
    stop_requested = models.BooleanField(default=False)
    former = models.JSONField(default=dict, help_text="The answer before it was asked for again")
    taken_by = models.ForeignKey(Job, models.SET_NULL, null=True, related_name="+")
    example = models.ForeignKey(Example, models.SET_NULL, null=True, related_name="+", help_text="What was made of it")

    class Meta:
        ordering = ["pk"]
        indexes = [models.Index(fields=["state", "id"], name="chat_answer_waiting")]
        constraints = [models.UniqueConstraint(fields=["turn", "side"], name="one_answer_per_side")]

    def __str__(self) -> str:
        return f"answer {self.pk}"

    @property
    def whole(self) -> dict[str, Any]:
        """What is put back when another try brings no word."""
        return {name: getattr(self, name) for name in ("text", "finish", "model", "tokens", "seconds", "example_id")}

    @property
    def is_open(self) -> bool:
        return self.state in self.OPEN
