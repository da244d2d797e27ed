"""Examples, the immutable texts they have had, and what people decided about each text."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import AnonymousUser, User
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVector
from django.db import models
from django.urls import reverse
from django.utils import timezone

from datasets_app.engine import evidence
from datasets_app.engine.quality import FINDINGS
from datasets_app.models.datasets import Dataset
from datasets_app.models.documents import Chunk, Document
from datasets_app.models.generation import Generation, GenerationCall, ImportBatch
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


class Support(models.TextChoices):
    """What an example's quotes and numbers say of it."""

    VERIFIED = evidence.VERIFIED, "its quotes stand in the source"
    CLOSE = evidence.CLOSE, "its quotes stand there nearly so"
    UNVERIFIED = evidence.UNVERIFIED, "a quote or number is not found"
    STALE = "stale", "the source changed since"


class ExampleQuerySet(models.QuerySet["Example"]):
    def visible_to(self, user: User | AnonymousUser) -> "ExampleQuerySet":
        return self.filter(dataset__project__in=Project.objects.visible_to(user))

    def by_one_alone(self, person: User) -> "ExampleQuerySet":
        """Approved ones that `person` made, whose present text they wrote, and that they approved themselves."""
        return self.filter(state=State.APPROVED, author=person, text__author=person, decided_by=person)

    def chosen_by(
        self,
        *,
        state: str = "",
        document: str = "",
        on_page: str = "",
        support: str = "",
        tag: str = "",
        finding: str = "",
        alike: str = "",
        origin: str = "",
        text: str = "",
    ) -> "ExampleQuerySet":
        """The filter of the review page; an empty value does not filter. `document`: its key, or a part of its name;
        `on_page`: one that the source stands on; `tag`: with those below it; `alike`: an example, to whose group they
        belong."""
        found = self
        if finding:
            found = found.filter(findings__contains=[finding[:20]])
        if first := whole_number(alike):
            found = found.filter(cluster=first)
        if number := whole_number(on_page):
            found = found.filter(page_start__lte=number, page_end__gte=number)
        if support in Support.values:
            found = found.filter(support=support)
        if tag:
            found = found.filter(models.Q(tag=tag) | models.Q(tag__startswith=f"{tag} / "))
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
    # What it rests on: the first quote that was found, all of them with their places, and what is in doubt.
    support = models.CharField(max_length=10, choices=Support.choices, blank=True)
    evidence = models.JSONField(default=list)
    doubts = models.JSONField(default=list)
    quote = models.TextField(blank=True)
    quote_start = models.PositiveIntegerField(null=True)
    quote_end = models.PositiveIntegerField(null=True)
    fact = models.CharField(max_length=32, blank=True)
    wording = models.CharField(max_length=60, blank=True)
    answer_key = models.CharField(max_length=200, blank=True)
    generator = models.CharField(max_length=40, blank=True)
    model = models.CharField(max_length=200, blank=True)
    prompt_version = models.CharField(max_length=40, blank=True)
    tag = models.CharField(max_length=100, blank=True)
    # What was found when it was last looked at; `cluster`: the first of those that are alike to it, 0 without any.
    findings = ArrayField(models.CharField(max_length=20), default=list)
    cluster = models.BigIntegerField(default=0)
    checked_text = models.BigIntegerField(null=True)
    call = models.ForeignKey(GenerationCall, models.SET_NULL, null=True, related_name="examples")

    objects = ExampleQuerySet.as_manager()

    class Meta:
        ordering = ["pk"]
        indexes = [
            models.Index(fields=["dataset", "state", "id"], name="example_review"),
            models.Index(fields=["dataset", "support", "id"], name="example_support"),
            models.Index(fields=["dataset", "cluster"], name="example_cluster", condition=~models.Q(cluster=0)),
            GinIndex(fields=["findings"], name="example_findings"),
            models.Index(fields=["dataset"], name="example_unchecked", condition=models.Q(checked_text=None)),
            models.Index(fields=["dataset", "tag", "id"], name="example_tag", condition=~models.Q(tag="")),
        ]
        constraints = [
            # A job that is delivered twice adds nothing.
            models.UniqueConstraint(
                fields=["generation", "document", "chunk_index", "fact", "wording"], name="one_example_per_wording"
            ),
            models.UniqueConstraint(fields=["batch", "import_line"], name="one_example_per_line"),
            models.CheckConstraint(condition=models.Q(state__in=State.values), name="known_example_state"),
            models.CheckConstraint(condition=models.Q(support__in=["", *Support.values]), name="known_support"),
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
    def found(self) -> list[str]:
        """What was found in it, in words."""
        return [FINDINGS[name] for name in self.findings]

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
    def spans(self) -> list[dict[str, Any]]:
        """Its quotes, those with a place in the order of the passage."""
        told: list[dict[str, Any]] = self.evidence
        if not told and self.quote:
            told = [{"quote": self.quote, "start": self.quote_start, "end": self.quote_end, "match": evidence.EXACT}]
        return sorted(told, key=lambda span: (span["start"] is None, span["start"] or 0))

    @property
    def source_parts(self) -> list[tuple[str, bool]]:
        """The passage in pieces, each with whether it is quoted; none without a passage or when it changed since."""
        placed = [span for span in self.spans if span["start"] is not None]
        if not self.chunk or not placed:
            return []
        text, place, parts = self.chunk.text, 0, []
        for span in placed:
            if text[span["start"] : span["end"]] != span["quote"]:
                return []
            start = max(place, span["start"])  # quotes may overlap
            parts += [(text[place:start], False), (text[start : span["end"]], True)]
            place = max(place, span["end"])
        return [part for part in [*parts, (text[place:], False)] if part[0]]


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
