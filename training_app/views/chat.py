"""Chat: with a run's model beside its base, and with published models."""

from django.contrib import messages
from django.http import HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django.views.decorators.vary import vary_on_headers

from datasets_app.access import get_dataset
from finetune_site.projects.access import SignedInRequest, get_project, has_role
from finetune_site.projects.models import Project, Role
from training_app.access import get_answer, get_conversation, get_published_model, get_run, get_turn
from training_app.forms.chat import ChatForm, KeepForm
from training_app.models import ChatTurn, Conversation, PublishedModel, Run
from training_app.services import chat as services
from training_app.services.runs import TrainingError

SHOWN = 200


@require_GET
def conversation_list(request: SignedInRequest, project: int) -> HttpResponse:
    """One's own conversations, and with whom another can begin."""
    found = get_project(request.user, project)
    runs = Run.objects.filter(project=found, job__state="succeeded").select_related("base", "job")
    models = PublishedModel.objects.filter(project=found).exclude(current=None).select_related("server", "current")
    context = {"project": found, "section": "chat", "runs": runs, "models": models}
    return render(request, "training/conversation_list.html", context | _own(request, found))


@require_http_methods(["GET", "POST"])
def run_chat(request: SignedInRequest, pk: int) -> HttpResponse:
    return _begin(request, get_run(request.user, pk))


@require_http_methods(["GET", "POST"])
def model_chat(request: SignedInRequest, pk: int) -> HttpResponse:
    return _begin(request, get_published_model(request.user, pk))


@require_GET
@vary_on_headers("HX-Request")
def conversation(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_conversation(request.user, pk)
    return _page(request, found, ChatForm(conversation=found))


@require_POST
def conversation_ask(request: SignedInRequest, pk: int) -> HttpResponse:
    """Keep the question; the answers stream into the page, and are there after a reload too."""
    found, form = get_conversation(request.user, pk), ChatForm(request.POST)
    if not form.is_valid():
        return _page(request, found, form, form.problem)
    try:
        services.ask(actor=request.user, conversation=found, prompt=form.cleaned_data["prompt"], manner=form.manner)
    except TrainingError as error:
        return _page(request, found, form, str(error))
    return _fresh(request, found)


@require_POST
def conversation_again(request: SignedInRequest, pk: int) -> HttpResponse:
    """Have the last question answered anew, as the form says now."""
    found, form = get_conversation(request.user, pk), ChatForm(request.POST)
    last = found.turns.order_by("-pk").first()
    if not form.is_valid() or last is None:
        return _page(request, found, form, form.problem or "Nothing was asked yet.")
    try:
        services.ask_again(actor=request.user, turn=last, manner=form.manner)
    except TrainingError as error:
        return _page(request, found, form, str(error))
    return _fresh(request, found, form.cleaned_data["prompt"])


@require_POST
def conversation_save(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_conversation(request.user, pk)
    services.save(conversation=found)
    return redirect(found)


@require_POST
def conversation_discard(request: SignedInRequest, pk: int) -> HttpResponse:
    found = get_conversation(request.user, pk)
    services.discard(conversation=found)
    messages.success(request, "The conversation is forgotten.")
    return redirect("conversation_list", found.project_id)


@require_GET
def chat_turn(request: SignedInRequest, pk: int) -> HttpResponse:
    """A turn as it stands: what the page reads when it hears that the answers have grown."""
    turn = get_turn(request.user, pk)
    answers = {
        answer.side: {
            "text": answer.text,
            "note": "" if answer.text or not answer.is_open else services.prospect(answer),
        }
        for answer in turn.answers.all()
    }
    return JsonResponse({"is_open": turn.is_open, "answers": answers})


@require_GET
def chat_turn_card(request: SignedInRequest, pk: int) -> HttpResponse:
    return _card(request, get_turn(request.user, pk))


@require_POST
def chat_turn_stop(request: SignedInRequest, pk: int) -> HttpResponse:
    turn = get_turn(request.user, pk)
    services.stop(turn=turn)
    if not request.htmx:
        return redirect(turn.conversation)
    return _card(request, get_turn(request.user, pk))


@require_http_methods(["GET", "POST"])
def answer_keep(request: SignedInRequest, pk: int) -> HttpResponse:
    """Make an example of an answer."""
    answer = get_answer(request.user, pk, role=Role.TRAINER)
    talk = answer.turn.conversation
    earlier = services.messages_earlier(answer)
    form = KeepForm(
        request.POST or None, project=talk.project, has_earlier=bool(earlier), initial={"better": answer.text}
    )
    if form.is_valid():
        data = form.cleaned_data
        kept = {name: data.get(name, False) for name in ("verdict", "better", "with_earlier")}
        dataset = get_dataset(request.user, data["dataset"].pk, role=Role.TRAINER)
        try:
            services.keep_as_example(actor=request.user, answer=answer, dataset=dataset, **kept)
        except TrainingError as error:
            form.add_error(None, str(error))
        else:
            messages.success(request, f"Kept in {dataset}. It waits for review like every other example.")
            return redirect(talk)
    context = {"answer": answer, "conversation": talk, "project": talk.project, "section": "chat", "form": form}
    context["earlier"] = earlier
    return render(request, "training/answer_keep.html", context)


def _begin(request: SignedInRequest, partner: Run | PublishedModel) -> HttpResponse:
    """An empty conversation; its first question makes it."""
    form, problem = ChatForm(request.POST or None), ""
    if form.is_valid():
        try:
            turn = services.begin(
                actor=request.user, partner=partner, prompt=form.cleaned_data["prompt"], manner=form.manner
            )
            return redirect(turn.conversation)
        except TrainingError as error:
            problem = str(error)
    try:
        services.check_partner(partner)
        absent = ""
    except TrainingError as error:
        absent = str(error)
    context: dict[str, object] = {
        "partner": partner,
        "project": partner.project,
        "section": "chat",
        "form": form,
        "absent": absent,
    }
    context |= {"problem": problem or form.problem, "run": partner if isinstance(partner, Run) else None}
    return render(request, "training/conversation.html", context | _own(request, partner.project))


def _page(request: SignedInRequest, found: Conversation, form: ChatForm, problem: str = "") -> HttpResponse:
    template = "training/conversation.html#body" if request.htmx else "training/conversation.html"
    turns = found.turns.prefetch_related("answers__example").order_by("-pk")[:SHOWN]
    context = {
        "conversation": found,
        "partner": found.partner,
        "run": found.run,
        "project": found.project,
        "section": "chat",
        "turns": list(reversed(turns)),
        "form": form,
        "problem": problem,
        "may_keep": has_role(request.user, found.project, Role.TRAINER),
    }
    return render(request, template, context)


def _fresh(request: SignedInRequest, found: Conversation, draft: str = "") -> HttpResponse:
    if not request.htmx:
        return redirect(found)
    again = get_conversation(request.user, found.pk)
    return _page(request, again, ChatForm(conversation=again, draft=draft))


def _card(request: SignedInRequest, turn: ChatTurn) -> HttpResponse:
    talk = turn.conversation
    context = {"turn": turn, "conversation": talk, "may_keep": has_role(request.user, talk.project, Role.TRAINER)}
    return render(request, "training/turn.html", context)


def _own(request: SignedInRequest, project: Project) -> dict[str, object]:
    own = Conversation.objects.of(request.user).filter(project=project)
    return {"conversations": own.select_related("run", "model").prefetch_related("turns")[:SHOWN]}
