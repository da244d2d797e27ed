"""Examples, the immutable texts they have had, and what people decided about each text."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector
from django.db import models
from django.urls import reverse
from django.utils import timezone

from datasets_app.models.datasets import Dataset
from datasets_app.models.documents import Chunk, Document
from datasets_app.models.generation import Generation, ImportBatch
from finetune_site.lib.numbers import whole_number
from finetune_site.projects.models import Project

BEGINNING = 200


class State(models.TextChoices):
    DRAFT = "draft", "to judge"
    APPROVED = "approved", "approved"
    REJECTED = "rejected", "rejected"


class Kind(models.TextChoices):
    CHAT = "chat", "conversation"
    PREFERENCE = "preference", "preference pair"
    TEXT = "text", "text"


class Origin(models.TextChoices):
    GENERATED = "generated", "generated"
    IMPORTED = "imported", "imported"
    WRITTEN = "written", "written by hand"
    CHAT = "chat", "from a chat"


class ExampleQuerySet(models.QuerySet["Example"]):
    def visible_to(self, user: User | AnonymousUser) -> "ExampleQuerySet":
        return self.filter(dataset__project__in=Project.objects.visible_to(user))

    def by_one_alone(self, person: User) -> "ExampleQuerySet":
        """Approved ones that `person` made, whose present text they wrote, and that they approved themselves."""
        return self.filter(state=State.APPROVED, author=person, text__author=person, decided_by=person)

    def chosen_by(self, *, state: str = "", document: str = "", origin: str = "", text: str = "") -> "ExampleQuerySet":
        """The filter of the review page; an empty value does not filter. `document`: its key, or a part of its name."""
        found = self
        if state in State.values:
            found = found.filter(state=state)
        if key := whole_number(document):
            found = found.filter(document_id=key)
        elif document:
            found = found.filter(document_name__icontains=document)
        if origin in Origin.values:
            found = found.filter(origin=origin)
        if text:
            found = found.filter(text__search__icontains=text)
        return found


class Example(models.Model):
    """One example. Its state speaks of its current text alone: an edit asks again. Where it came from is never lost."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="examples")
    kind = models.CharField(max_length=10, choices=Kind.choices, default=Kind.CHAT)
    state = models.CharField(max_length=10, choices=State.choices, default=State.DRAFT)
    text = models.ForeignKey("ExampleText", models.RESTRICT, null=True, related_name="+")
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    decided_name = models.CharField(max_length=200, blank=True, help_text="Who decided elsewhere and has no login here")
    decided_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(default=timezone.now)

    origin = models.CharField(max_length=10, choices=Origin.choices)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    generation = models.ForeignKey(Generation, models.SET_NULL, null=True, related_name="examples")
    batch = models.ForeignKey(ImportBatch, models.SET_NULL, null=True, related_name="examples")
    import_line = models.PositiveIntegerField(null=True)
    # The source, copied so that it outlives a new parsing and a withdrawn document.
    document = models.ForeignKey(Document, models.SET_NULL, null=True, related_name="examples")
    document_name = models.CharField(max_length=255, blank=True)
    chunk = models.ForeignKey(Chunk, models.SET_NULL, null=True, related_name="examples")
    chunk_index = models.PositiveIntegerField(null=True)
    page_start = models.PositiveIntegerField(null=True)
    page_end = models.PositiveIntegerField(null=True)
    section = models.JSONField(default=list)
    section_key = models.CharField(max_length=16, blank=True)
    quote = models.TextField(blank=True)
    quote_start = models.PositiveIntegerField(null=True)
    quote_end = models.PositiveIntegerField(null=True)
    fact = models.CharField(max_length=32, blank=True)
    wording = models.CharField(max_length=60, blank=True)
    answer_key = models.CharField(max_length=200, blank=True)
    generator = models.CharField(max_length=40, blank=True)
    model = models.CharField(max_length=200, blank=True)
    prompt_version = models.CharField(max_length=40, blank=True)

    objects = ExampleQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        indexes = [models.Index(fields=["dataset", "state", "id"], name="example_review")]
        constraints = [
            # A job that is delivered twice adds nothing.
            models.UniqueConstraint(
                fields=["generation", "document", "chunk_index", "fact", "wording"], name="one_example_per_wording"
            ),
            models.UniqueConstraint(fields=["batch", "import_line"], name="one_example_per_line"),
            models.CheckConstraint(condition=models.Q(state__in=State.values), name="known_example_state"),
            models.CheckConstraint(
                condition=models.Q(state=State.DRAFT) | models.Q(decided_by__isnull=False) | ~models.Q(decided_name=""),
                name="decision_has_its_person",
            ),
        ]

    def __str__(self) -> str:
        return f"example {self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("example", args=[self.pk])

    @property
    def decider(self) -> "User | str":
        """Who decided: a person here, or the name of one elsewhere; empty for a draft."""
        return self.decided_by or self.decided_name

    @property
    def pages(self) -> str:
        """“3” or “3–4”; empty where the document has no pages."""
        if not self.page_start:
            return ""
        return f"{self.page_start}–{self.page_end}" if self.page_end != self.page_start else str(self.page_start)

    @property
    def source_parts(self) -> tuple[str, str, str] | None:
        """The passage before, in and after the quoted span; None without a passage or when it changed since."""
        if not self.chunk or self.quote_start is None or self.quote_end is None:
            return None
        text = self.chunk.text
        if text[self.quote_start : self.quote_end] != self.quote:
            return None
        return text[: self.quote_start], self.quote, text[self.quote_end :]


class ExampleText(models.Model):
    """One text an example has had. Never changed: an edit makes the next number."""

    example = models.ForeignKey(Example, models.CASCADE, related_name="texts")
    number = models.PositiveIntegerField(default=1)
    content = models.JSONField(help_text='{"messages": [...]}, {"prompt", "chosen", "rejected"} or {"text"}')
    search = models.TextField(help_text="All its words, to find it by")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    author_name = models.CharField(max_length=200, blank=True, help_text="Who wrote it elsewhere and has no login here")
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["number"]
        indexes = [GinIndex(SearchVector("search", config="simple"), name="example_words")]
        constraints = [
            models.UniqueConstraint(fields=["example", "number"], name="one_text_per_number"),
            models.CheckConstraint(
                condition=models.Q(author__isnull=False) | ~models.Q(author_name=""), name="text_has_its_author"
            ),
        ]

    def __str__(self) -> str:
        return f"text {self.number} of example {self.example_id}"

    @property
    def writer(self) -> "User | str":
        """Who wrote it: a person here, or the name of one elsewhere."""
        return self.author or self.author_name

    @property
    def messages(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = self.content.get("messages", [])
        return found

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Its texts with their names: each message with its role; prompt, chosen and rejected; or the one text."""
        return parts_of(self.content)

    @property
    def question(self) -> str:
        """What is asked last, for lists beside its answer; of a text how it begins."""
        turns = [message["content"] for message in self.messages if message["role"] == "user"]
        return turns[-1] if turns else str(self.content.get("prompt") or self.content.get("text", "")[:BEGINNING])

    @property
    def answer(self) -> str:
        return self.messages[-1]["content"] if self.messages else str(self.content.get("chosen", ""))


class Decision(models.Model):
    """What a person decided about one text, or that it was taken back. Never changed."""

    example = models.ForeignKey(Example, models.CASCADE, related_name="decisions")
    text = models.ForeignKey(ExampleText, models.RESTRICT, related_name="decisions")
    before = models.CharField(max_length=10, choices=State.choices)
    verdict = models.CharField(max_length=10, choices=State.choices)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+")
    by_name = models.CharField(max_length=200, blank=True, help_text="Who decided elsewhere and has no login here")
    at = models.DateTimeField(default=timezone.now)
    reason = models.CharField(max_length=300, blank=True)
    place = models.CharField(max_length=40, blank=True, help_text="Where it was decided, if not here")
    quality = models.PositiveSmallIntegerField(null=True, help_text="1 to 5")
    comment = models.TextField(blank=True)

    class Meta:
        ordering = ["-pk"]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(by__isnull=False) | ~models.Q(by_name=""), name="decision_names_its_person"
            )
        ]

    def __str__(self) -> str:
        return f"{self.verdict} by {self.person}"

    @property
    def person(self) -> "User | str":
        return self.by or self.by_name


def parts_of(content: dict[str, Any]) -> list[tuple[str, str]]:
    """The texts of a content with their names."""
    if content.get("messages"):
        return [(message["role"], message["content"]) for message in content["messages"]]
    return [(name, text) for name, text in content.items() if isinstance(text, str)]


def words_of(content: dict[str, Any]) -> str:
    """All words of a text's content, for searching."""
    parts = [message["content"] for message in content.get("messages", [])]
    return "\n".join([*parts, *(content.get(key, "") for key in ("prompt", "chosen", "rejected", "text"))]).strip()
