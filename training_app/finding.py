"""Finding things by their words, in everything a person may see: documents, passages, examples, runs, models.

Words are taken as they are, in any language, and as beginnings: “gear” finds “gearbox”. Names are few and compared
directly; passages and examples are many and found through Postgres's full-text index (see their models).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.contrib.postgres.search import SearchQuery, SearchVector
from django.db import models
from django.db.models import F, Q

from datasets_app.models import Chunk, Dataset, Document, Example
from finetune_site.projects.models import Project
from training_app.models import PublishedModel, Run

MAX_WORDS, MAX_CHARACTERS, SHOWN = 8, 200, 8
BEFORE, SNIPPET = 60, 240
LOOKED_AT_FIRST = 1000


@dataclass(frozen=True)
class Hit:
    """One thing found: its name, where it is, and the piece of its text around the first word."""

    name: str
    url: str
    place: str
    text: str = ""


@dataclass(frozen=True)
class Group:
    """Hits of one kind; `more`: there are others that are not listed."""

    title: str
    icon: str
    hits: list[Hit]
    more: bool


def words_of(asked: str) -> list[str]:
    """The words of a question, the first few; marks that are no part of a word are left out."""
    return re.findall(r"\w+", asked[:MAX_CHARACTERS].lower())[:MAX_WORDS]


def search(user: User, words: list[str]) -> list[Group]:
    """What `user` may see that has all `words`, newest first; a group for each kind that has any."""
    projects = Project.objects.visible_to(user).values("pk")
    found = [
        _group("Documents", "files", _named(Document, projects, words), None, _document),
        _group("Passages", "quote", *_passages(projects, words), lambda row: _passage(row, words)),
        _group("Datasets", "list-check", _named(Dataset, projects, words), None, _place_only),
        _group("Examples", "message", *_examples(projects, words), lambda row: _example(row, words)),
        _group("Runs", "chart-line", _runs(projects, words), None, _run),
        _group("Models", "box", _named(PublishedModel, projects, words), None, _place_only),
    ]
    return [group for group in found if group.hits]


def marked(text: str, words: list[str]) -> Iterator[tuple[str, bool]]:
    """The pieces of a text and whether each begins one of the words."""
    pattern = re.compile(rf"(\b(?:{'|'.join(map(re.escape, words))}))", re.IGNORECASE)
    for place, piece in enumerate(pattern.split(text)):
        if piece:
            yield piece, place % 2 == 1


def _group(title, icon, rows, newest, hit) -> Group:  # type: ignore[no-untyped-def]  # rows of any model
    """`newest`: the rows that are looked at first; where they are enough, nobody reads all that hold a common word."""
    some = list(newest[: SHOWN + 1]) if newest is not None else []
    if len(some) <= SHOWN:
        some = list(rows[: SHOWN + 1])
    return Group(title, icon, [hit(row) for row in some[:SHOWN]], more=len(some) > SHOWN)


def _named(model: type[models.Model], projects: models.QuerySet, words: list[str]) -> models.QuerySet:
    having_all = Q()
    for word in words:
        having_all &= Q(name__icontains=word)
    return model._default_manager.filter(having_all, project__in=projects).select_related("project").order_by("-pk")


def _runs(projects: models.QuerySet, words: list[str]) -> models.QuerySet[Run]:
    found = Run.objects.filter(project__in=projects).matching(words=" ".join(words))
    return found.select_related("project", "base").order_by("-pk")


def _passages(projects: models.QuerySet, words: list[str]) -> tuple[models.QuerySet, models.QuerySet]:
    """All that have the words, and those among the newest."""
    visible = Chunk.objects.filter(document__project__in=projects).order_by("-pk")
    found = visible.annotate(words=SearchVector("text", config="simple")).filter(words=query_of(words))
    found = found.select_related("document__project")
    return found, found.filter(pk__in=visible.values("pk")[:LOOKED_AT_FIRST])


def _examples(projects: models.QuerySet, words: list[str]) -> tuple[models.QuerySet, models.QuerySet]:
    """By their present texts: what was edited away is not found. All of them, and those among the newest."""
    visible = Example.objects.filter(dataset__project__in=projects).order_by("-pk")
    found = visible.annotate(words=SearchVector("text__search", config="simple")).filter(words=query_of(words))
    found = found.filter(text__example=F("pk")).select_related("dataset__project", "text")
    return found, found.filter(pk__in=visible.values("pk")[:LOOKED_AT_FIRST])


def query_of(words: list[str]) -> SearchQuery:
    """All of the words, each as a beginning."""
    # Letters and digits alone, so that nothing of them is read as an operator.
    return SearchQuery(" & ".join(f"{word}:*" for word in words), search_type="raw", config="simple")


def _document(row: Document) -> Hit:
    return Hit(row.name, row.get_absolute_url(), f"{row.project} · {row.type_name}")


def _passage(row: Chunk, words: list[str]) -> Hit:
    place = f"{row.document.project} · {' › '.join(row.section)}".removesuffix(" · ")
    page = f", {row.document.page_word} {row.page_start}" if row.page_start else ""
    url = row.document.get_absolute_url() + (f"?only={row.page_start}" if row.page_start else "")
    return Hit(f"{row.document}{page}", url, place, _snippet(row.text, words))


def _example(row: Example, words: list[str]) -> Hit:
    text = row.text.search if row.text else ""
    return Hit(str(row), row.get_absolute_url(), f"{row.dataset.project} · {row.dataset}", _snippet(text, words))


def _run(row: Run) -> Hit:
    return Hit(row.name, row.get_absolute_url(), f"{row.project} · {row.base} · {row.method}", row.notes[:SNIPPET])


def _place_only(row: Dataset | PublishedModel) -> Hit:
    return Hit(row.name, row.get_absolute_url(), str(row.project))


def _snippet(text: str, words: list[str]) -> str:
    """The piece of a text around the first word found in it."""
    found = re.search("|".join(rf"\b{re.escape(word)}" for word in words), text, re.IGNORECASE)
    start = max(0, found.start() - BEFORE) if found else 0
    piece = " ".join(text[start : start + SNIPPET].split())
    return f"{'… ' if start else ''}{piece}{' …' if start + SNIPPET < len(text) else ''}"
