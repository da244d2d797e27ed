"""Review: one example beside its source, judged by keyboard; the list; decisions in bulk; an example's history."""

from dataclasses import asdict
from urllib.parse import urlencode

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from datasets_app import access
from datasets_app.engine.quality import FINDINGS
from datasets_app.forms import ConversationForm, PreferenceForm, TextForm, TurnsForm
from datasets_app.models import Dataset, Document, Example, State, Tally
from datasets_app.models.examples import ExampleQuerySet, Kind, Origin, Support
from datasets_app.services import examples as services
from datasets_app.services.errors import DatasetError
from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import SignedInRequest, has_role
from finetune_site.projects.models import Role

MOST_DOCUMENTS = 200
FILTERS = ("state", "document", "on_page", "support", "tag", "finding", "alike", "origin", "text")


@require_GET
def review(request: SignedInRequest, pk: int) -> HttpResponse:
    """The first example of the filter, or the one after `?after=`; drafts unless the filter says otherwise."""
    return render(request, "datasets/review.html", _review_context(request, pk))


@require_GET
def review_card(request: SignedInRequest, pk: int) -> HttpResponse:
    return render(request, "datasets/review.html#card", _review_context(request, pk))


@require_POST
def example_judge(request: SignedInRequest, pk: int) -> HttpResponse:
    """Judge and show the next one."""
    example = access.get_example(request.user, pk, role=Role.REVIEWER)
    try:
        services.judge(
            actor=request.user,
            example=example,
            verdict=request.POST.get("verdict", ""),
            reason=request.POST.get("reason", ""),
            text=request.POST.get("text_id", ""),
        )
    except DatasetError as error:
        messages.error(request, str(error))
        return _next(request, example.dataset_id, show=example.pk)
    return _next(request, example.dataset_id, after=example.pk)


@require_POST
def review_undo(request: SignedInRequest, pk: int) -> HttpResponse:
    """Take one's last decision back and show that example again."""
    dataset = access.get_dataset(request.user, pk, role=Role.REVIEWER)
    example = services.undo(actor=request.user, dataset=dataset)
    if example is None:
        messages.info(request, "There is no decision of yours to take back.")
        return _next(request, pk)
    return _next(request, pk, show=example.pk)


@require_GET
def example_list(request: SignedInRequest, pk: int) -> HttpResponse:
    dataset = access.get_dataset(request.user, pk)
    chosen = _chosen(dataset, request.GET)
    pages = Paginator(chosen.select_related("text", "decided_by"), 50)
    pages.count = _count(dataset, chosen, request.GET)
    context = _context(request, dataset) | {
        "page": pages.get_page(request.GET.get("page")),
        "count": pages.count,
        "filter": {name: request.GET.get(name, "") for name in FILTERS},
        "query": _query(request.GET),
    }
    return render(request, "datasets/example_list.html", context)


@require_POST
def judge_all(request: SignedInRequest, pk: int) -> HttpResponse:
    """Decide on everything the filter shows; `count` is what the person saw and must still hold."""
    dataset = access.get_dataset(request.user, pk, role=Role.REVIEWER)
    chosen, verdict = _chosen(dataset, request.POST), request.POST.get("verdict", "")
    back = f"{reverse('example_list', args=[pk])}?{_query(request.POST)}"
    if verdict not in (State.APPROVED, State.REJECTED):
        messages.error(request, "Choose whether to approve or reject.")
    elif request.POST.get("count") != str(chosen.count()):
        messages.error(request, f"Meanwhile the filter finds {chosen.count()} examples. Look again, then decide.")
    else:
        count = services.judge_all(actor=request.user, dataset=dataset, examples=chosen, verdict=verdict)
        messages.success(request, f"{count} examples are {verdict}.")
    return redirect(back)


@require_GET
def example(request: SignedInRequest, pk: int) -> HttpResponse:
    found = access.get_example(request.user, pk)
    context = _context(request, found.dataset) | {
        "example": found,
        "texts": found.texts.select_related("author"),
        "decisions": found.decisions.select_related("by", "text"),
        "there": found.label_studio_tasks.exclude(remote_id=None).select_related("project__link__server").first(),
    }
    return render(request, "datasets/example.html", context)


@require_http_methods(["GET", "POST"])
def example_edit(request: SignedInRequest, pk: int) -> HttpResponse:
    found = access.get_example(request.user, pk, role=Role.REVIEWER)
    form = _edit_form(found, request.POST or None)
    form.fields[list(form.fields)[-1]].widget.attrs["autofocus"] = True  # most edits mend the answer, which comes last
    if form.is_valid():
        try:
            services.edit_example(actor=request.user, example=found, content=form.content)
            back = f"{reverse('review', args=[found.dataset_id])}?{_query(request.GET)}&show={found.pk}"
            return redirect(back if "review" in request.GET else found.get_absolute_url())
        except DatasetError as error:
            form.add_error(None, str(error))
    context = _context(request, found.dataset) | {"form": form, "example": found, "query": request.GET.urlencode()}
    return render(request, "datasets/example_form.html", context)


def _edit_form(found: Example, typed: QueryDict | None) -> "ConversationForm | PreferenceForm | TextForm | TurnsForm":
    """The form that fits an example, filled with its current text."""
    assert found.text is not None
    if found.kind == Kind.PREFERENCE:
        return PreferenceForm(typed, initial=found.text.content)
    if found.kind == Kind.TEXT:
        return TextForm(typed, initial=found.text.content)
    turns = found.text.messages
    roles = [message["role"] for message in turns]
    if roles in (["user", "assistant"], ["system", "user", "assistant"]):
        system = turns[0]["content"] if roles[0] == "system" else ""
        initial = {"system": system, "question": turns[-2]["content"], "answer": turns[-1]["content"]}
        return ConversationForm(typed, initial=initial)
    return TurnsForm(typed, messages=turns)


def _chosen(dataset: Dataset, query: QueryDict) -> ExampleQuerySet:
    return dataset.examples.all().chosen_by(**{name: str(query.get(name, "")) for name in FILTERS})


def _count(dataset: Dataset, chosen: ExampleQuerySet, query: QueryDict) -> int:
    """How many the filter lets through; of a state alone Postgres has it counted."""
    if any(query.get(name) for name in FILTERS if name != "state"):
        return chosen.count()
    counts = Tally.objects.counts_of(dataset)
    return asdict(counts).get(str(query.get("state", "")), counts.total)


def _query(query: QueryDict) -> str:
    return urlencode({name: query[name] for name in FILTERS if query.get(name)})


def _next(request: SignedInRequest, dataset: int, *, after: int = 0, show: int = 0) -> HttpResponse:
    """The review page at its next example: the card alone for htmx, the whole page for a plain form."""
    place = {"after": after} if after else {"show": show} if show else {}
    query = urlencode({**{name: request.POST[name] for name in FILTERS if request.POST.get(name)}, **place})
    if request.htmx:
        request.GET = QueryDict(query)  # the card is that of the next address
        return render(request, "datasets/review.html#card", _review_context(request, dataset))
    return redirect(f"{reverse('review', args=[dataset])}?{query}")


def _review_context(request: SignedInRequest, pk: int) -> dict[str, object]:
    dataset = access.get_dataset(request.user, pk)
    chosen = _chosen(dataset, request.GET)
    if "state" not in request.GET:
        chosen = chosen.filter(state=State.DRAFT)
    example = _at(dataset, chosen, request.GET)
    counts = Tally.objects.counts_of(dataset)
    return _context(request, dataset) | {
        "example": example,
        "previous": chosen.filter(pk__lt=example.pk).order_by("-pk").first() if example else None,
        "left": counts.draft,
        "judged": counts.total - counts.draft,
        "total": counts.total,
        "filter": {name: request.GET.get(name, "") for name in FILTERS},
        "query": _query(request.GET),
    }


def _at(dataset: Dataset, chosen: ExampleQuerySet, query: QueryDict) -> Example | None:
    rows = Example.objects.select_related("text", "chunk", "document", "decided_by", "author", "call")
    if shown := whole_number(query.get("show", "")):
        return rows.filter(dataset=dataset, pk=shown).first()
    after = whole_number(query.get("after", ""))
    first = chosen.filter(pk__gt=after).order_by("pk").first() or chosen.order_by("pk").first()
    return rows.get(pk=first.pk) if first else None


def _context(request: SignedInRequest, dataset: Dataset) -> dict[str, object]:
    return {
        "dataset": dataset,
        "project": dataset.project,
        "section": "datasets",
        "states": State.choices,
        "origins": Origin.choices,
        "supports": Support.choices,
        "findings": FINDINGS.items(),
        "documents": _documents(dataset),
        "may_judge": has_role(request.user, dataset.project, Role.REVIEWER),
    }


def _documents(dataset: Dataset) -> list[Document]:
    """The documents to choose from: those that examples were made of, as far as a list is of use; beyond that people
    type a part of the name."""
    found = Document.objects.filter(generations__dataset=dataset).distinct().order_by("name", "pk")
    documents = list(found[: MOST_DOCUMENTS + 1])
    return documents if len(documents) <= MOST_DOCUMENTS else []
