"""What people do to examples: write, edit, judge, take back. Every text and every decision is kept."""

from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from datasets_app.engine.evidence import weigh
from datasets_app.engine.formats import FormatError, check_messages
from datasets_app.models import Dataset, Decision, Example, ExampleText, State
from datasets_app.models.examples import ExampleQuerySet, Kind, Origin, words_of
from datasets_app.services.errors import DatasetError
from finetune_site.projects.services import audit

BATCH = 500


@dataclass(frozen=True)
class Voice:
    """Who speaks of an example: a person with a login here, or the name of one elsewhere; and where they spoke."""

    user: User | None
    name: str = ""
    place: str = ""


@dataclass(frozen=True)
class Said:
    """A verdict with its grounds, as somebody gave it elsewhere. `quality`: 1 to 5."""

    verdict: str
    reason: str = ""
    quality: int | None = None
    comment: str = ""


@transaction.atomic
def write_example(*, actor: User, dataset: Dataset, content: dict[str, Any], chatted_with: str = "") -> Example:
    """Keep an example written by hand; its author is its source. `chatted_with`: the model whose answer it began as."""
    kind = _checked_kind(content)
    origin = Origin.CHAT if chatted_with else Origin.WRITTEN
    example = Example.objects.create(dataset=dataset, kind=kind, origin=origin, author=actor, model=chatted_with[:200])
    _add_text(example, content, Voice(actor), 1)
    audit(dataset.project, actor, "kept an answer as" if chatted_with else "wrote", example)
    return example


@transaction.atomic
def edit_example(*, actor: User, example: Example, content: dict[str, Any]) -> Example:
    """Give an example a new text. It has to be judged again; an unchanged text changes nothing."""
    kind = _checked_kind(content)
    locked = Example.objects.select_for_update().get(pk=example.pk)
    if kind != locked.kind:
        raise DatasetError("An edit cannot turn an example into one of another kind; write a new example.")
    last = locked.texts.order_by("-number")[0]
    if last.content == content:
        return locked
    before = locked.state
    _add_text(locked, content, Voice(actor), last.number + 1)
    if before != State.DRAFT:
        _move(locked, State.DRAFT, Voice(actor), "edited: judge it again")
    return locked


@transaction.atomic
def judge(*, actor: User, example: Example, verdict: str, reason: str = "", text: str = "") -> Example:
    """Approve or reject the text an example has now, or take the decision back (`draft`). `text` is the key of the text
    that was read: when it is another one by now, nothing is decided."""
    if verdict not in State.values:
        raise DatasetError("The verdict must be approved, rejected or draft.")
    locked = Example.objects.select_for_update().select_related("dataset__project").get(pk=example.pk)
    if text and text != str(locked.text_id):
        raise DatasetError("Somebody has edited this example meanwhile. Read it again, then judge it.")
    if locked.state != verdict:
        _move(locked, verdict, Voice(actor), reason)
    return locked


@transaction.atomic
def take_over(*, voice: Voice, example: Example, content: dict[str, Any], said: Said) -> Example:
    """Keep what somebody decided elsewhere: the text as they left it, and the verdict on that very text."""
    if _checked_kind(content) != example.kind:
        raise DatasetError("An edit cannot turn an example into one of another kind; write a new example.")
    locked = Example.objects.select_for_update().get(pk=example.pk)  # no join: its rows would be those before the wait
    assert locked.text is not None
    if locked.text.content != content:
        _add_text(locked, content, voice, locked.text.number + 1)
    _move(locked, said.verdict, voice, said.reason, quality=said.quality, comment=said.comment)
    return locked


def is_known(example: Example, voice: Voice, said: Said) -> bool:
    """Whether the last decision on an example's present text is this one, word for word, by this person."""
    last = example.decisions.first()
    return last is not None and (
        last.text_id, last.verdict, last.reason, last.quality, last.comment, last.by_id, last.by_name,
    ) == (
        example.text_id, said.verdict, said.reason, said.quality, said.comment,
        voice.user.pk if voice.user else None, "" if voice.user else voice.name,
    )  # fmt: skip


@transaction.atomic
def withdraw(*, voice: Voice, example: Example, reason: str) -> None:
    """Take back a decision that fell elsewhere."""
    _move(Example.objects.select_for_update().get(pk=example.pk), State.DRAFT, voice, reason)


@transaction.atomic
def remark(*, actor: User, example: Example, reason: str) -> None:
    """Keep in an example's history what a person decided that moved neither its text nor its state."""
    locked = Example.objects.select_for_update().get(pk=example.pk)
    assert locked.text_id is not None
    Decision.objects.create(
        example=locked, text_id=locked.text_id, before=locked.state, verdict=locked.state, by=actor, reason=reason[:300]
    )


@transaction.atomic
def undo(*, actor: User, dataset: Dataset) -> Example | None:
    """Take back the person's last decision in a dataset that still stands; None when there is none."""
    last = (
        Decision.objects.filter(example__dataset=dataset, by=actor)
        .exclude(verdict=State.DRAFT)
        .select_related("example")
        .first()
    )
    if last is None or last.example.state != last.verdict or last.example.decided_by_id != actor.pk:
        return None
    return judge(actor=actor, example=last.example, verdict=State.DRAFT, reason="undone")


def judge_all(*, actor: User, dataset: Dataset, examples: ExampleQuerySet, verdict: str) -> int:
    """Approve or reject every example of a selection that has no such verdict yet; returns how many."""
    count = 0
    pending = examples.filter(dataset=dataset).exclude(state=verdict)
    while chosen := list(pending.order_by("pk").values_list("pk", flat=True)[:BATCH]):
        with transaction.atomic():
            locked = list(Example.objects.select_for_update().filter(pk__in=chosen).exclude(state=verdict))
            decisions = [
                Decision(
                    example=entry,
                    text_id=entry.text_id,  # type: ignore[misc]  # every kept example has a text
                    before=entry.state,
                    verdict=verdict,
                    by=actor,
                    reason="in bulk",
                )
                for entry in locked
            ]
            Decision.objects.bulk_create(decisions)
            Example.objects.filter(pk__in=[entry.pk for entry in locked]).update(
                state=verdict, **_decider(verdict, Voice(actor))
            )
            count += len(locked)
    if count:
        audit(dataset.project, actor, f"{verdict} {count} examples of", dataset)
    return count


def _checked_kind(content: dict[str, Any]) -> str:
    try:
        if "messages" in content:
            check_messages(content["messages"])
            return Kind.CHAT
    except FormatError as error:
        raise DatasetError(str(error)) from error
    if "text" in content:
        if not str(content["text"]).strip():
            raise DatasetError("The text is empty.")
        return Kind.TEXT
    if not all(str(content.get(key, "")).strip() for key in ("prompt", "chosen", "rejected")):
        raise DatasetError("A preference pair needs a prompt, the better and the worse answer.")
    return Kind.PREFERENCE


def _add_text(example: Example, content: dict[str, Any], author: Voice, number: int) -> None:
    text = ExampleText.objects.create(
        example=example,
        number=number,
        content=content,
        search=words_of(content),
        author=author.user,
        author_name="" if author.user else author.name,
    )
    example.text, example.findings, example.cluster, example.checked_text = text, [], 0, None
    if number > 1 and example.spans and example.chunk:  # what it says now is held against what it rests on
        weighed = weigh(example.chunk.text, (span["quote"] for span in example.spans), text.answer, text.question)
        example.support, example.doubts = weighed.support, list(weighed.doubts)
    example.save(update_fields=["text", "findings", "cluster", "checked_text", "support", "doubts"])


def _move(
    example: Example, verdict: str, by: Voice, reason: str, *, quality: int | None = None, comment: str = ""
) -> None:
    assert example.text is not None  # every kept example has a text
    Decision.objects.create(
        example=example,
        text=example.text,
        before=example.state,
        verdict=verdict,
        by=by.user,
        by_name="" if by.user else by.name,
        place=by.place,
        reason=reason[:300],
        quality=quality,
        comment=comment,
    )
    for name, value in {"state": verdict, **_decider(verdict, by)}.items():
        setattr(example, name, value)
    example.save(update_fields=["state", "decided_by", "decided_name", "decided_at"])


def _decider(verdict: str, by: Voice) -> dict[str, Any]:
    """A draft has nobody who decided."""
    if verdict == State.DRAFT:
        return {"decided_by": None, "decided_name": "", "decided_at": None}
    return {"decided_by": by.user, "decided_name": "" if by.user else by.name, "decided_at": timezone.now()}
