"""People's verdicts on the answers of an evaluation: one question at a time, by keyboard, blind unless asked otherwise.

Blind means that the page does not hold which answer is the base's: the answers stand in an order of their own for each
person and question, a verdict names the first or the second, and the server knows whose that is.
"""

import hashlib
from urllib.parse import urlencode

from django.contrib import messages
from django.db.models import Count, Q, QuerySet
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_POST

from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import SignedInRequest
from finetune_site.projects.models import Role
from training_app.access import get_evaluation, get_evaluation_row
from training_app.models import EvaluationRow, Side
from training_app.services import judging as services
from training_app.services.runs import TrainingError

FILTERS = ("set", "open")
PLACES = ("first", "second")
KEYS = {"first": ("1", "2", "3"), "second": ("4", "5", "6")}
LOOKS = (("right", "check", "green"), ("partly", "minus", "yellow"), ("wrong", "x", "red"))


@require_GET
def verdicts(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/verdicts.html", _context(request, pk))


@require_GET
def verdicts_card(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "training/verdicts.html#card", _context(request, pk))


@require_POST
def verdict_give(request: SignedInRequest, pk: int) -> HttpResponse:
    """Keep a verdict on one answer; when both have one, show the next question."""
    row = get_evaluation_row(request.user, pk, role=Role.REVIEWER)
    place, _, verdict = request.POST.get("verdict", "").partition(" ")
    side = dict(zip(PLACES, _order(request, row), strict=True)).get(place, "")
    try:
        services.give_verdict(
            actor=request.user, row=row, side=side, verdict=verdict, is_blind=not request.POST.get("open")
        )
    except TrainingError as error:
        messages.error(request, str(error))
    is_whole = row.verdicts.filter(by=request.user).count() == len(Side.values)
    query = urlencode({**_filter(request.POST), ("after" if is_whole else "show"): row.index})
    if request.htmx:
        request.GET = QueryDict(query)  # the card is that of the next address
        return render(request, "training/verdicts.html#card", _context(request, row.evaluation_id))
    return redirect(f"{reverse('verdicts', args=[row.evaluation_id])}?{query}")


def _context(request: SignedInRequest, pk: int) -> dict[str, object]:
    found = get_evaluation(request.user, pk, role=Role.REVIEWER)
    chosen = _filter(request.GET)
    rows = found.rows.filter(set=chosen["set"]) if "set" in chosen else found.rows.all()
    mine = Count("verdicts", filter=Q(verdicts__by=request.user))
    left = rows.annotate(mine=mine).filter(mine__lt=len(Side.values))
    row = _at(rows, left, request.GET)
    total = rows.count()
    return {
        "evaluation": found,
        "run": found.run,
        "project": found.run.project,
        "section": "runs",
        "row": row,
        "answers": _answers(request, row) if row else [],
        "is_open": "open" in chosen,
        "previous": rows.filter(index__lt=row.index).order_by("-index").first() if row else None,
        "next": rows.filter(index__gt=row.index).first() if row else None,
        "total": total,
        "judged": total - left.count(),
        "sets": found.sets,
        "filter": chosen,
        "query": urlencode(chosen),
    }


def _filter(query: QueryDict) -> dict[str, str]:
    return {name: str(query[name]) for name in FILTERS if query.get(name)}


def _at(rows: QuerySet[EvaluationRow], left: QuerySet[EvaluationRow], query: QueryDict) -> EvaluationRow | None:
    """The question that `?show=` names, else the next unjudged one after `?after=`, else the first such."""
    if (shown := whole_number(query.get("show", ""), -1)) >= 0:
        return rows.filter(index=shown).first()
    return left.filter(index__gt=whole_number(query.get("after", ""), -1)).first() or left.first()


def _answers(request: SignedInRequest, row: EvaluationRow) -> list[dict[str, object]]:
    """Both answers in the order of this person, each with its keys and the verdict given so far."""
    given = dict(row.verdicts.filter(by=request.user).values_list("side", "verdict"))
    return [
        {
            "place": place,
            "side": side,
            "text": row.base_answer if side == Side.BASE else row.tuned_answer,
            "given": given.get(side, ""),
            "buttons": [(*look, key) for look, key in zip(LOOKS, KEYS[place], strict=True)],
        }
        for place, side in zip(PLACES, _order(request, row), strict=True)
    ]


def _order(request: SignedInRequest, row: EvaluationRow) -> list[str]:
    """Base or tuned first: by chance, but always the same for one person and one question."""
    digest = hashlib.sha256(f"{row.pk}:{request.user.pk}".encode()).digest()
    return [Side.BASE, Side.TUNED] if digest[0] % 2 else [Side.TUNED, Side.BASE]
