"""Review in Label Studio: the servers operators registered, and which example is which task there."""

import uuid

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.db import models
from django.urls import reverse
from django.utils import timezone

from datasets_app.engine.labelling import LAYOUTS, Layout
from datasets_app.models.addresses import AddressField
from datasets_app.models.datasets import Dataset
from datasets_app.models.examples import Example, ExampleQuerySet, ExampleText
from datasets_app.models.generation import ImportBatch
from finetune_site.jobs.models import Job
from finetune_site.lib.sealing import UnsealError, seal, unseal
from finetune_site.projects.models import Project


class LabelStudioServer(models.Model):
    """A Label Studio that operators registered. Its token lies sealed under the site's key and is never shown again."""

    class State(models.TextChoices):
        UNTRIED = "untried", "not tried yet"
        WORKING = "working", "working"
        FAILING = "failing", "failing"

    name = models.CharField(max_length=80, unique=True)
    url = AddressField("address", help_text="Where the workers reach it: http://host:8080")
    browser_url = AddressField("address for people", blank=True, help_text="Where browsers reach it, if elsewhere")
    portal_url = AddressField(
        "this site's address",
        blank=True,
        help_text="Where people reach this site, and its webhooks too. Empty: decisions come back by schedule alone.",
    )
    hook_url = AddressField(
        "this site's address for webhooks", blank=True, help_text="Where Label Studio reaches this site, if elsewhere"
    )
    allows_import = models.BooleanField(
        "projects may be imported",
        default=False,
        help_text="Trainers of every project here may then read any project that the token sees.",
    )
    sealed_token = models.TextField(editable=False, default="")
    state = models.CharField(max_length=10, choices=State.choices, default=State.UNTRIED, editable=False)
    problem = models.TextField(blank=True, editable=False)
    account = models.CharField(max_length=254, blank=True, editable=False, help_text="Whose token it is")
    version = models.CharField(max_length=40, blank=True, editable=False)
    checked_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["name"]
        verbose_name = "Label Studio server"

    def __str__(self) -> str:
        return self.name

    @property
    def token(self) -> str:
        """In clear, for workers alone; `UnsealError` when the site's key is another than when it was entered."""
        if not self.sealed_token:
            raise UnsealError("There is no token.")
        return unseal(self.sealed_token, settings.SECRET_KEY)

    @token.setter
    def token(self, value: str) -> None:
        self.sealed_token = seal(value, settings.SECRET_KEY)

    @property
    def hooks_to(self) -> str:
        """Where its webhooks go; empty: nowhere."""
        return (self.hook_url or self.portal_url).rstrip("/")

    def link(self, path: str) -> str:
        """An address in it for people."""
        return (self.browser_url or self.url).rstrip("/") + path


class LabelStudioLink(models.Model):
    """A dataset that is reviewed in Label Studio, in one project there for each layout of its examples."""

    class State(models.TextChoices):
        IN_STEP = "in step", "in step"
        WAITING = "waiting", "waiting for Label Studio"
        PAUSED = "paused", "needs a person"

    dataset = models.OneToOneField(Dataset, models.CASCADE, related_name="label_studio")
    server = models.ForeignKey(LabelStudioServer, models.PROTECT, related_name="links")
    state = models.CharField(max_length=10, choices=State.choices, default=State.IN_STEP)
    problem = models.TextField(blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    # The webhook of its projects: an address that cannot be guessed, and a secret that is compared.
    hook_key = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    sealed_hook_secret = models.TextField(editable=False)
    sync_job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="label_studio_link")
    sending_job = models.OneToOneField(
        Job, models.SET_NULL, null=True, related_name="+", help_text="Whose turn it is to send: one at a time"
    )
    restores_config = models.BooleanField(default=False, help_text="Put our labelling config back at the next sync")
    is_hinted = models.BooleanField(default=False, help_text="Something changed there since the sync began")
    looks_whole = models.BooleanField(default=False, help_text="Something may be gone there: compare everything")
    synced_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.dataset} in {self.server}"

    def get_absolute_url(self) -> str:
        return reverse("label_studio", args=[self.dataset_id])

    @property
    def hook_secret(self) -> str:
        return unseal(self.sealed_hook_secret, settings.SECRET_KEY)


class LabelStudioProject(models.Model):
    """One project there: the examples of one layout."""

    link = models.ForeignKey(LabelStudioLink, models.CASCADE, related_name="projects")
    layout = models.CharField(max_length=12)
    remote_id = models.PositiveIntegerField(null=True)
    config = models.CharField(max_length=64, blank=True, help_text="Fingerprint of the labelling config as sent")
    seen_until = models.DateTimeField(null=True, help_text="The latest change there that was taken over")

    class Meta:
        ordering = ["pk"]
        constraints = [models.UniqueConstraint(fields=["link", "layout"], name="one_project_per_layout")]

    def __str__(self) -> str:
        return f"project {self.remote_id} of {self.link}"

    @property
    def shape(self) -> Layout:
        """The fields of its tasks."""
        return LAYOUTS[self.layout]

    @property
    def title(self) -> str:
        """What shape of examples it holds."""
        return self.shape.title

    @property
    def path(self) -> str:
        return f"/projects/{self.remote_id}/data"

    @property
    def address(self) -> str:
        return self.link.server.link(self.path)


class LabelStudioTask(models.Model):
    """One example there. `remote_id` None: it is being sent, or was when the worker died; `push_id` finds it again."""

    class Outcome(models.TextChoices):
        OPEN = "open", "open"
        SKIPPED = "skipped", "skipped there"
        DECIDED = "decided", "decided there"
        UNCLEAR = "unclear", "cannot be used"
        CONFLICT = "conflict", "changed on both sides"
        GONE = "gone", "deleted there"

    project = models.ForeignKey(LabelStudioProject, models.CASCADE, related_name="tasks")
    example = models.ForeignKey(Example, models.CASCADE, related_name="label_studio_tasks")
    push_id = models.UUIDField()
    remote_id = models.PositiveBigIntegerField(null=True)
    text = models.ForeignKey(ExampleText, models.RESTRICT, related_name="+", help_text="The text both sides know")
    text_sent_at = models.DateTimeField(null=True, help_text="When it was brought up to date, on the clock there")
    known_state = models.CharField(max_length=10, help_text="The example's state both sides know")
    told_state = models.CharField(max_length=200, blank=True, help_text="What the task says of the portal's decision")
    outcome = models.CharField(max_length=10, choices=Outcome.choices, default=Outcome.OPEN)
    problem = models.CharField(max_length=300, blank=True)
    annotation_id = models.PositiveBigIntegerField(null=True)
    annotated_at = models.DateTimeField(null=True)
    annotators = models.PositiveSmallIntegerField(default=0)
    agree = models.BooleanField(
        null=True, help_text="Whether all annotators gave one verdict; None with fewer than two"
    )

    class Meta:
        ordering = ["pk"]
        indexes = [models.Index(fields=["project", "outcome"], name="label_studio_outcome")]
        constraints = [models.UniqueConstraint(fields=["example"], name="one_task_of_an_example")]

    def __str__(self) -> str:
        return f"task {self.remote_id} for example {self.example_id}"

    @property
    def address(self) -> str:
        return f"{self.project.address}?task={self.remote_id}"


class LabelStudioSending(models.Model):
    """One sending of examples: which, and what came of it."""

    link = models.ForeignKey(LabelStudioLink, models.CASCADE, related_name="sendings")
    chosen = models.JSONField(default=dict, help_text="The filter of the examples, as the list of examples takes it")
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="label_studio_sending")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    counts = models.JSONField(default=dict)
    sent_until = models.BigIntegerField(default=0, help_text="The key of the last example that was looked at")
    waits = models.BooleanField(default=False, help_text="Label Studio was away: it goes on by itself")

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"sending {self.pk} of {self.link}"

    @property
    def examples(self) -> ExampleQuerySet:
        return self.link.dataset.examples.all().chosen_by(**self.chosen)


class LabelStudioImport(models.Model):
    """A project of somebody else's on its way into a dataset: which one, what its tasks hold, which text is which."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="label_studio_imports")
    server = models.ForeignKey(LabelStudioServer, models.PROTECT, related_name="+")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="label_studio_import")
    found = models.JSONField(default=list, help_text="The projects there: id, title, tasks")
    remote_id = models.PositiveIntegerField(null=True)
    title = models.CharField(max_length=120, blank=True)
    layout = models.CharField(max_length=12, blank=True)
    first_tasks = models.JSONField(default=list, help_text="The texts of the first tasks, by their names")
    mapping = models.JSONField(default=dict, help_text="Which text is which field")
    batch = models.OneToOneField(ImportBatch, models.SET_NULL, null=True, related_name="label_studio_import")

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"import of {self.title or 'a project'} from {self.server}"

    def get_absolute_url(self) -> str:
        return reverse("label_studio_import", args=[self.pk])

    @property
    def names(self) -> list[str]:
        """The texts that any of the first tasks holds."""
        return sorted({name for texts in self.first_tasks for name in texts})


class ConflictQuerySet(models.QuerySet["Conflict"]):
    def visible_to(self, user: User | AnonymousUser) -> "ConflictQuerySet":
        return self.filter(task__example__dataset__project__in=Project.objects.visible_to(user))

    def open(self) -> "ConflictQuerySet":
        return self.filter(resolved_at=None)


class Conflict(models.Model):
    """An example that was changed here and there since both sides knew the same: a person decides."""

    OURS, THEIRS = "ours", "theirs"

    task = models.ForeignKey(LabelStudioTask, models.CASCADE, related_name="conflicts")
    text = models.ForeignKey(ExampleText, models.RESTRICT, related_name="+", help_text="Ours when it was found")
    content = models.JSONField(help_text="Theirs")
    verdict = models.CharField(max_length=10)
    reason = models.CharField(max_length=300, blank=True)
    comment = models.TextField(blank=True)
    quality = models.PositiveSmallIntegerField(null=True)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    by_name = models.CharField(max_length=200, blank=True)
    at = models.DateTimeField(default=timezone.now)
    resolved_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    resolved_at = models.DateTimeField(null=True)
    kept = models.CharField(max_length=6, blank=True, choices=[(OURS, "the portal's"), (THEIRS, "Label Studio's")])

    objects = ConflictQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(fields=["task"], condition=models.Q(resolved_at=None), name="one_open_conflict")
        ]

    def __str__(self) -> str:
        return f"conflict over example {self.task.example_id}"
