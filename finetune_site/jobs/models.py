"""Jobs: one row for any work that takes longer than a request, and the events of its life."""

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.postgres.fields import ArrayField
from django.core.serializers.json import DjangoJSONEncoder
from django.db import models
from django.urls import reverse
from django.utils import timezone

from finetune_site.jobs.kinds import get_kind
from finetune_site.projects.models import Project

# Where jobs take long and wait for one another: pages tell when a turn comes, which would cost too much for hundreds of
# documents that are parsed within seconds.
SLOW_QUEUES = ("gpu",)


class JobState(models.TextChoices):
    QUEUED = "queued", "waiting"
    RUNNING = "running", "running"
    SUCCEEDED = "succeeded", "done"
    FAILED = "failed", "failed"
    CANCELLED = "cancelled", "stopped"


FINISHED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
UNFINISHED = (JobState.QUEUED, JobState.RUNNING)


class JobQuerySet(models.QuerySet["Job"]):
    def visible_to(self, user: User | AnonymousUser) -> "JobQuerySet":
        return self.filter(project__in=Project.objects.visible_to(user))

    def unfinished(self) -> "JobQuerySet":
        return self.exclude(state__in=FINISHED)


SILENT_SECONDS = 60  # of a machine that tells of itself every few


class Job(models.Model):
    """While a runner holds it, its state moves by conditional updates on Postgres's clock alone (`queue`, `dispatch`);
    a domain row points at it."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="jobs")
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="jobs")
    kind = models.CharField(max_length=60)
    queue = models.CharField(max_length=20)
    label = models.CharField(max_length=200, help_text="What it works on, as people call it")
    url = models.CharField(max_length=200, blank=True, help_text="The page of what it works on")
    state = models.CharField(max_length=10, choices=JobState.choices, default=JobState.QUEUED)
    priority = models.SmallIntegerField(default=0)
    expected_seconds = models.FloatField(null=True, editable=False)
    slots = models.PositiveSmallIntegerField(default=1, editable=False, help_text="Devices it needs at the same time")

    done = models.BigIntegerField(default=0)
    total = models.BigIntegerField(default=0)
    unit = models.CharField(max_length=20, blank=True)
    message = models.CharField(max_length=300, blank=True)
    # From where and when this attempt counts: what came before (a model loaded, a checkpoint) says nothing of its pace.
    counted_from = models.BigIntegerField(default=0, editable=False)
    counted_at = models.DateTimeField(null=True, editable=False)
    ends_at = models.DateTimeField(null=True, editable=False, help_text="As the work itself foretold")

    attempt = models.PositiveSmallIntegerField(default=0)
    max_attempts = models.PositiveSmallIntegerField(default=3)
    not_before = models.DateTimeField(null=True, blank=True)
    cancel_requested = models.BooleanField(default=False)
    error_code = models.CharField(max_length=20, blank=True, help_text="input: the person can mend it; others: ours")
    error_text = models.TextField(blank=True)

    # The lease: who runs it now. Every write of a runner carries the token.
    token = models.UUIDField(null=True, editable=False)
    lease_until = models.DateTimeField(null=True, editable=False)
    host = models.CharField(max_length=200, blank=True, editable=False)
    pid = models.IntegerField(null=True, editable=False)
    pid_started = models.BigIntegerField(null=True, editable=False)
    held_slots = ArrayField(models.PositiveSmallIntegerField(), default=list, editable=False)
    engine_pid = models.IntegerField(null=True, editable=False)
    engine_started = models.BigIntegerField(null=True, editable=False)

    created_at = models.DateTimeField(default=timezone.now)
    started_at = models.DateTimeField(null=True, editable=False)
    finished_at = models.DateTimeField(null=True, editable=False)

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering = ["-pk"]
        indexes = [
            models.Index(fields=["queue", "state", "id"], name="job_queue_state"),
            models.Index(fields=["project", "-id"], name="job_project"),
            models.Index(fields=["finished_at"], name="job_finished_at"),  # the figures of the last hour
        ]
        constraints = [
            models.CheckConstraint(condition=models.Q(state__in=JobState.values), name="known_job_state"),
            models.CheckConstraint(
                condition=models.Q(state="running", token__isnull=False)
                | ~models.Q(state="running") & models.Q(token=None),
                name="token_only_while_running",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} · {self.label}"

    def get_absolute_url(self) -> str:
        return reverse("job", args=[self.pk])

    @property
    def title(self) -> str:
        return get_kind(self.kind).title

    @property
    def is_finished(self) -> bool:
        return self.state in FINISHED

    @property
    def percent(self) -> int | None:
        """How far it is, 0–100; None when that is not known."""
        if self.state == JobState.SUCCEEDED:
            return 100
        return min(100, round(100 * self.done / self.total)) if self.total else None

    @property
    def seconds_left(self) -> float | None:
        """As the work itself foretold; else the pace of this attempt kept. None before there is one."""
        if self.state != JobState.RUNNING:
            return None
        if self.ends_at:
            return max(0.0, (self.ends_at - timezone.now()).total_seconds())
        counted = self.done - self.counted_from
        if not self.counted_at or counted <= 0 or not self.total:
            return None
        elapsed = (timezone.now() - self.counted_at).total_seconds()
        return elapsed * (self.total - self.done) / counted


class DeviceUse(models.Model):
    """One attempt of a job on the devices, from its claim to its end or loss: what a project's hours are counted by."""

    job = models.ForeignKey(Job, models.CASCADE, related_name="device_uses")
    devices = models.PositiveSmallIntegerField()
    started_at = models.DateTimeField()
    ended_at = models.DateTimeField()

    class Meta:
        ordering = ["-ended_at"]
        indexes = [models.Index(fields=["ended_at"], name="device_use_ended_at")]

    def __str__(self) -> str:
        return f"{self.seconds:.0f} device seconds of {self.job}"

    @property
    def seconds(self) -> float:
        """Device seconds: two devices for a minute are 120."""
        return (self.ended_at - self.started_at).total_seconds() * self.devices


class Machine(models.Model):
    """A machine that works for the site, as it last told of itself (see `machines.report`)."""

    host = models.CharField(max_length=200, unique=True)
    facts = models.JSONField(default=dict)
    seen_at = models.DateTimeField()

    class Meta:
        ordering = ["host"]

    def __str__(self) -> str:
        return self.host

    @property
    def silent_seconds(self) -> float:
        """Since it last told of itself."""
        return (timezone.now() - self.seen_at).total_seconds()

    @property
    def is_silent(self) -> bool:
        return self.silent_seconds > SILENT_SECONDS


class JobEvent(models.Model):
    """One thing that happened to a job, in order; pages learn of it through NOTIFY and re-read it by its id.

    Kinds: `state`, `progress`, `log` (payload: line), `warning` (payload: message), and the domain's own (`step`).
    """

    job = models.ForeignKey(Job, models.CASCADE, related_name="events")
    kind = models.CharField(max_length=20)
    payload = models.JSONField(default=dict, encoder=DjangoJSONEncoder)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["pk"]
        indexes = [
            models.Index(fields=["job", "id"], name="job_event_order"),
            models.Index(fields=["at"], name="job_event_at"),  # a page that comes back asks for the last seconds
        ]

    def __str__(self) -> str:
        return f"{self.kind} of job {self.job_id}"
