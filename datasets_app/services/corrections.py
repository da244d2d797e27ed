"""People correct what was read: a text, a kind, a piece or a page left out. Each is kept and survives a new reading."""

from collections.abc import Collection
from typing import Any

from django.contrib.auth.models import User
from django.db import transaction

from datasets_app.engine import elements as kinds
from datasets_app.engine import personal
from datasets_app.engine.elements import Element as Piece
from datasets_app.engine.elements import clean
from datasets_app.models import Correction, Document, Element
from datasets_app.services import readings
from datasets_app.services.documents import DocumentError, enqueue_cut
from finetune_site.projects.services import audit

KINDS = (
    kinds.TITLE, kinds.TEXT, kinds.LIST_ITEM, kinds.TABLE, kinds.CODE, kinds.CAPTION, kinds.HEADER, kinds.FOOTER
)  # fmt: skip
MAX_CHARACTERS = 20_000
MAX_DEPTH = 5


@transaction.atomic
def correct_element(
    *, actor: User, document: Document, index: int, text: str, kind: str, depth: int | None = None
) -> Element:
    """Give a piece another text or kind. `DocumentError` for a text that is empty or too long, or no kind."""
    text = clean(text)
    if not text or len(text) > MAX_CHARACTERS:
        raise DocumentError(f"A piece takes between 1 and {MAX_CHARACTERS:,} characters. Leave it out to be rid of it.")
    if depth is not None and not 0 <= depth <= MAX_DEPTH:
        raise DocumentError(f"A heading's depth lies between 0 and {MAX_DEPTH}.")
    locked, element, correction = _hold(document, index, actor)
    if kind not in {*KINDS, correction.kind}:
        raise DocumentError(f"The kind must be one of {', '.join(KINDS)}.")
    correction.new_text = text if text != correction.text else ""
    is_as_read = kind == correction.kind and (kind != kinds.TITLE or depth in (None, correction.depth))
    correction.new_kind = "" if is_as_read else kind
    correction.new_depth = (depth or 0) if kind == kinds.TITLE and not is_as_read else None
    return _apply(actor, locked, element, correction, "corrected a piece of")


@transaction.atomic
def leave_element_out(*, actor: User, document: Document, index: int, is_out: bool) -> Element:
    """Leave a piece out of every passage, or take it in again."""
    locked, element, correction = _hold(document, index, actor)
    if not is_out and element.page in locked.excluded_pages:
        raise DocumentError(f"Its page {element.page} is left out. Take the page in first.")
    correction.is_left_out = is_out
    return _apply(actor, locked, element, correction, "left a piece out of" if is_out else "took a piece into")


@transaction.atomic
def restore_element(*, actor: User, document: Document, index: int) -> Element:
    """As it was read."""
    locked, element, correction = _hold(document, index, actor)
    correction.new_text = correction.new_kind = ""
    correction.new_depth, correction.is_left_out = None, False
    return _apply(actor, locked, element, correction, "took back a correction of")


@transaction.atomic
def mask_personal(*, actor: User, document: Document, names: Collection[str] | None = None) -> int:
    """Replace personal data by the name of its kind, piece by piece, as corrections that a person can take back:
    `names` of those that were found in the document, or what its form gives away. Returns in how many pieces."""
    chosen = {each["text"]: each["kind"] for each in document.health.get("names", ()) if each["text"] in (names or ())}
    locked = Document.objects.select_for_update().get(pk=document.pk)
    known = {correction.element_index: correction for correction in locked.corrections.all()}
    changed = 0
    for element in locked.elements.filter(is_left_out=False).order_by("index"):
        text = personal.masked(element.text) if names is None else personal.without(element.text, chosen)
        if text != element.text:
            correction = known.get(element.index) or _first_correction(locked, element)
            correction.by, correction.new_text = actor, text if text != correction.text else ""
            _write(locked, element, correction)
            changed += 1
    if changed:  # one entry, and without the texts: the trail must not keep what was masked
        audit(locked.project, actor, "masked personal data in", locked, after={"pieces": changed})
        enqueue_cut(actor, locked)
    return changed


@transaction.atomic
def leave_page_out(*, actor: User, document: Document, page: int, is_out: bool) -> None:
    """Leave a whole page out of every passage, or take it in again."""
    locked = Document.objects.select_for_update().get(pk=document.pk)
    if not 1 <= page <= locked.pages:
        raise DocumentError(f"The document has no {locked.page_word} {page}.")
    before = locked.excluded_pages
    after = sorted({*before, page} if is_out else set(before) - {page})
    if after == before:
        return
    locked.excluded_pages = after
    locked.save(update_fields=["excluded_pages"])
    locked.elements.filter(page=page).update(is_left_out=is_out)
    if not is_out:
        alone = locked.corrections.filter(is_left_out=True, element_index__isnull=False).values("element_index")
        locked.elements.filter(page=page, index__in=alone).update(is_left_out=True)
    verb = f"left {locked.page_word} {page} out of" if is_out else f"took {locked.page_word} {page} into"
    audit(locked.project, actor, verb, locked)
    enqueue_cut(actor, locked)


@transaction.atomic
def forget_correction(*, actor: User, document: Document, key: int) -> None:
    """Give up a correction whose piece was not found again."""
    for lost in document.corrections.filter(pk=key, element_index=None):
        audit(document.project, actor, "gave up a correction of", document, before=_told(lost))
        lost.delete()


def _hold(document: Document, index: int, actor: User) -> tuple[Document, Element, Correction]:
    """The document, until the transaction ends; its piece, and the correction of it as it is or would begin."""
    locked = Document.objects.select_for_update().get(pk=document.pk)
    element = locked.elements.filter(index=index).first()
    if element is None:
        raise DocumentError("The document was read anew meanwhile; this piece is not there any more. Look again.")
    correction = locked.corrections.filter(element_index=index).first() or _first_correction(locked, element)
    correction.by = actor
    return locked, element, correction


def _first_correction(document: Document, element: Element) -> Correction:
    return Correction(
        document=document,
        element_index=element.index,
        page=element.page,
        text=element.text,
        kind=element.kind,
        depth=element.depth,
        html=element.html,
        box=element.box,
        occurrence=_before(document, element),
    )


def _before(document: Document, element: Element) -> int:
    """How many pieces before it on its page were read as the same text."""
    changed = dict(document.corrections.filter(element_index__isnull=False).values_list("element_index", "text"))
    others = document.elements.filter(page=element.page, index__lt=element.index).values_list("index", "text")
    return sum(changed.get(index, text) == element.text for index, text in others)


def _apply(actor: User, document: Document, element: Element, correction: Correction, verb: str) -> Element:
    before = {"text": element.text[:500], "kind": element.kind}
    _write(document, element, correction)
    after = {"text": element.text[:500], "kind": element.kind}
    changed = {"before": before, "after": after} if before != after else {"after": _told(correction)}
    audit(document.project, actor, verb, document, **changed)
    enqueue_cut(actor, document)
    return element


def _write(document: Document, element: Element, correction: Correction) -> None:
    """The piece as it is corrected, and the correction if it changes anything."""
    as_read = Piece(
        index=element.index,
        kind=correction.kind,
        text=correction.text,
        page=element.page,
        depth=correction.depth,
        html=correction.html,
        is_left_out=element.page in document.excluded_pages,
    )
    wanted = readings.as_engine_knows_it(correction).applied_to(as_read)
    for name in ("text", "kind", "depth", "html", "is_left_out"):
        setattr(element, name, getattr(wanted, name))
    element.save(update_fields=["text", "kind", "depth", "html", "is_left_out"])
    if correction.new_text or correction.new_kind or correction.is_left_out:
        correction.save()
    elif correction.pk:
        correction.delete()


def _told(correction: Correction) -> dict[str, Any]:
    return {"page": correction.page, "text": correction.text[:500]}
