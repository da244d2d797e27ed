"""Documents as uploaded and as parsed."""

from pathlib import Path

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector
from django.db import models
from django.urls import reverse
from django.utils import timezone

from datasets_app.engine import elements
from datasets_app.engine.media_type import NAMES, PAGE_WORDS, PDF, PICTURES
from datasets_app.engine.spec import Reading
from finetune_site.jobs.models import UNFINISHED, Job, JobState
from finetune_site.projects.models import Project

# How far the reading of a document is, as people filter by it.
READING = {
    "read": models.Q(parsed_at__isnull=False),
    "waiting": models.Q(job__state__in=UNFINISHED),
    "unread": models.Q(parsed_at=None, job__state__in=(JobState.FAILED, JobState.CANCELLED)),
    "withdrawn": models.Q(withdrawn_at__isnull=False),
}


class DocumentQuerySet(models.QuerySet["Document"]):
    def visible_to(self, user: User | AnonymousUser) -> "DocumentQuerySet":
        return self.filter(project__in=Project.objects.visible_to(user))

    def usable(self) -> "DocumentQuerySet":
        """Those that examples may be made from: read, and not withdrawn."""
        return self.filter(parsed_at__isnull=False, withdrawn_at=None)

    def matching(self, *, words: str = "", kind: str = "", state: str = "") -> "DocumentQuerySet":
        """Those that a filter lets through; an empty part asks for nothing."""
        found = self
        for word in words.split():
            found = found.filter(name__icontains=word)
        if kind:
            found = found.filter(media_type=kind)
        return found.filter(READING[state]) if state else found


class Document(models.Model):
    """An uploaded file. Its content lies under the hash of it; equal content in one project is one document."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="documents")
    name = models.CharField(max_length=255)
    sha256 = models.CharField(max_length=64)
    size = models.BigIntegerField()
    media_type = models.CharField(max_length=120)
    uploaded_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    uploaded_at = models.DateTimeField(default=timezone.now)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="document")
    parsed_at = models.DateTimeField(null=True)
    parser = models.CharField(max_length=80, blank=True)
    pages = models.PositiveIntegerField(default=0)
    characters = models.PositiveIntegerField(default=0)
    warnings = models.JSONField(default=list)
    reading = models.JSONField(default=dict, help_text="How it is read, where that differs from the usual")
    excluded_pages = models.JSONField(default=list)
    health = models.JSONField(default=dict)
    withdrawn_at = models.DateTimeField(null=True)
    withdrawn_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    withdrawn_why = models.CharField(max_length=300, blank=True)

    objects = DocumentQuerySet.as_manager()

    class Meta:
        ordering = ["-uploaded_at", "-pk"]
        constraints = [models.UniqueConstraint(fields=["project", "sha256"], name="one_document_per_content")]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("document", args=[self.pk])

    @property
    def type_name(self) -> str:
        return NAMES.get(self.media_type, self.media_type)

    @property
    def picture_folder(self) -> Path:
        """Where the pictures of its pages are kept once they were drawn."""
        return Path(settings.DATA_DIR) / "cache" / "pages" / self.sha256[:2] / self.sha256

    @property
    def has_pictures(self) -> bool:
        """Whether its pages can be shown as they look."""
        return self.media_type == PDF or self.media_type in PICTURES

    @property
    def page_word(self) -> str:
        """What its pages are called."""
        return PAGE_WORDS.get(self.media_type, "page")

    @property
    def page_mark(self) -> str:
        """The same, short, before a number."""
        return PAGE_WORDS.get(self.media_type, "p.")

    @property
    def reading_settings(self) -> Reading:
        """How it is read."""
        return Reading(**self.reading)

    @property
    def is_busy(self) -> bool:
        """Whether it is being read or cut."""
        return bool(self.job and not self.job.is_finished)

    @property
    def keeps_earlier_text(self) -> bool:
        """Whether its last reading came to nothing and what was read before is still there."""
        return bool(self.parsed_at and self.job and self.job.state in (JobState.FAILED, JobState.CANCELLED))

    @property
    def state(self) -> str:
        """How far its reading is, as `READING` has it: waiting, read or unread."""
        return "waiting" if self.is_busy else "read" if self.parsed_at else "unread"

    @property
    def error(self) -> str:
        """Why its last reading came to nothing; empty when it did not."""
        return self.job.error_text if self.job and self.job.state == JobState.FAILED else ""

    @property
    def path(self) -> Path:
        """Where the content lies."""
        return Path(settings.MEDIA_ROOT) / "documents" / self.sha256[:2] / self.sha256


class Element(models.Model):
    """One parsed piece of a document, in reading order."""

    document = models.ForeignKey(Document, models.CASCADE, related_name="elements")
    index = models.PositiveIntegerField()
    kind = models.CharField(max_length=12)
    text = models.TextField()
    page = models.PositiveIntegerField(null=True)
    depth = models.PositiveSmallIntegerField(null=True)
    section = models.JSONField(default=list)
    html = models.TextField(null=True)  # noqa: DJ001  only tables have one; empty HTML would be a table without cells
    box = models.JSONField(null=True, help_text="Left, top, right and bottom as shares of its page")
    is_left_out = models.BooleanField(default=False)

    class Meta:
        ordering = ["index"]
        constraints = [models.UniqueConstraint(fields=["document", "index"], name="one_element_per_index")]

    def __str__(self) -> str:
        return f"{self.kind} {self.index} of {self.document_id}"

    @property
    def kind_name(self) -> str:
        return elements.NAMES[self.kind]


class Chunk(models.Model):
    """A passage of one section: what examples are made from and shown beside."""

    document = models.ForeignKey(Document, models.CASCADE, related_name="chunks")
    index = models.PositiveIntegerField()
    text = models.TextField()
    page_start = models.PositiveIntegerField(null=True)
    page_end = models.PositiveIntegerField(null=True)
    section = models.JSONField(default=list)
    section_key = models.CharField(max_length=16, blank=True)
    spans = models.JSONField(default=list, help_text="[element index, start, end] in the text")

    class Meta:
        ordering = ["index"]
        constraints = [models.UniqueConstraint(fields=["document", "index"], name="one_chunk_per_index")]
        indexes = [GinIndex(SearchVector("text", config="simple"), name="chunk_words")]

    def __str__(self) -> str:
        return f"passage {self.index + 1} of {self.document_id}"


class Correction(models.Model):
    """What a person changed in what was read. Its piece is named by what was read there, so that it is found again in
    another reading; `element_index` is empty where it was not."""

    document = models.ForeignKey(Document, models.CASCADE, related_name="corrections")
    page = models.PositiveIntegerField(null=True)
    text = models.TextField(help_text="As it was read")
    kind = models.CharField(max_length=12, help_text="As it was read")
    depth = models.PositiveSmallIntegerField(null=True)
    html = models.TextField(null=True)  # noqa: DJ001  as an element's
    occurrence = models.PositiveIntegerField(default=0)
    box = models.JSONField(null=True)
    element_index = models.PositiveIntegerField(null=True)
    new_text = models.TextField(blank=True)
    new_kind = models.CharField(max_length=12, blank=True)
    new_depth = models.PositiveSmallIntegerField(null=True)
    is_left_out = models.BooleanField(default=False)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["page", "pk"]
        constraints = [
            models.UniqueConstraint(fields=["document", "element_index"], name="one_correction_per_element"),
        ]

    def __str__(self) -> str:
        return f"correction of {self.text[:40]!r} in {self.document_id}"


class Parsing(models.Model):
    """One reading of a document, kept so that two can be compared: settings, figures, and pieces as they were read."""

    document = models.ForeignKey(Document, models.CASCADE, related_name="parsings")
    at = models.DateTimeField(default=timezone.now)
    reading = models.JSONField(default=dict)
    parser = models.CharField(max_length=80)
    pages = models.PositiveIntegerField(default=0)
    characters = models.PositiveIntegerField(default=0)
    health = models.JSONField(default=dict)
    packed = models.BinaryField(help_text="Its pieces as gzipped JSON Lines")

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"reading {self.pk} of {self.document_id}"


class ReadingDefault(models.Model):
    """How the documents of a project are read unless somebody chooses otherwise."""

    project = models.OneToOneField(Project, models.CASCADE, related_name="reading_default")
    reading = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"how {self.project} is read"
