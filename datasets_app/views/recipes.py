"""Recipes: what a model makes of passages, worked out on real ones."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from datasets_app.access import get_recipe
from datasets_app.engine import recipes as engine
from datasets_app.engine.chunks import Chunk as EngineChunk
from datasets_app.forms import SAMPLES, RecipeForm
from datasets_app.models import Chunk, Document, Recipe
from datasets_app.services import recipes as services
from datasets_app.services.errors import DatasetError
from finetune_site.lib.channel import InputError
from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import SignedInRequest, get_project, has_role
from finetune_site.projects.models import Project, Role

# Where a project has no document yet.
SAMPLE = EngineChunk(0, "The Brannick gearbox takes 23 litres of oil. It is changed every 1,400 hours.", 4, 4, [
    "The Brannick gearbox"
], "")  # fmt: skip


@require_GET
def recipe_list(request: SignedInRequest, project: int) -> HttpResponse:
    """Those that are shipped, and the project's own."""
    of = get_project(request.user, project)
    own = Recipe.objects.filter(project=of).select_related("created_by")
    context = {
        "project": of,
        "section": "datasets",
        "kinds": engine.KINDS.values(),
        "own": own,
        "may_change": has_role(request.user, of, Role.TRAINER),
    }
    return render(request, "datasets/recipe_list.html", context)


@require_http_methods(["GET", "POST"])
def recipe_create(request: SignedInRequest, project: int, kind: str) -> HttpResponse:
    """`preview` shows what a model would be told about a passage; `keep` keeps the recipe."""
    of = get_project(request.user, project, role=Role.TRAINER)
    if kind not in engine.KINDS:
        raise Http404
    initial = RecipeForm.initial_of(engine.KINDS[kind].template, {})
    form = RecipeForm(request.POST or None, kind=kind, is_new=True, initial=initial)
    if form.is_valid() and request.POST.get("act") == "keep":
        name, template = form.cleaned_data["name"], form.cleaned_data["template"]
        try:
            made = services.create_recipe(
                actor=request.user, project=of, name=name, kind=kind, template=template, settings=form.settings
            )
            messages.success(request, "The recipe is kept. Choose it where examples are generated.")
            return redirect(made)
        except DatasetError as error:
            form.add_error("name", str(error))
    return _page(request, of, form, {"may_change": True})


@require_http_methods(["GET", "POST"])
def recipe(request: SignedInRequest, pk: int) -> HttpResponse:
    """A recipe as it is, with its earlier versions; `keep` makes the next one."""
    found = get_recipe(request.user, pk, role=Role.TRAINER if request.method == "POST" else Role.VIEWER)
    may_change = has_role(request.user, found.project, Role.TRAINER)
    versions = list(found.versions.select_related("created_by"))
    shown = next((each for each in versions if str(each.number) == request.GET.get("version")), versions[-1])
    initial = RecipeForm.initial_of(shown.template, shown.settings)
    form = RecipeForm(request.POST or None, kind=found.kind, is_new=False, initial=initial)
    if form.is_valid() and request.POST.get("act") == "keep":
        made = services.edit_recipe(
            actor=request.user, recipe=found, template=form.cleaned_data["template"], settings=form.settings
        )
        messages.success(request, f"Version {made.number} is used from now on.")
        return redirect(found)
    context = {"recipe": found, "versions": versions[::-1], "shown": shown, "may_change": may_change}
    return _page(request, found.project, form, context)


@require_POST
def recipe_retire(request: SignedInRequest, pk: int) -> HttpResponse:
    """Offer it no more, or again."""
    found = get_recipe(request.user, pk, role=Role.TRAINER)
    services.retire_recipe(actor=request.user, recipe=found, is_offered="again" in request.POST)
    return redirect(found)


def _page(request: SignedInRequest, project: Project, form: RecipeForm, context: dict[str, Any]) -> HttpResponse:
    documents = Document.objects.filter(project=project).usable()
    chosen = documents.filter(pk=whole_number(request.POST.get("of", "")) or 0).first() or documents.first()
    chunks = Chunk.objects.filter(document=chosen).order_by("index")
    place = min(max(whole_number(request.POST.get("passage", "")) or 1, 1), chunks.count() or 1)
    found = chunks.filter(index__gte=place - 1).first()
    passage = (
        EngineChunk(found.index, found.text, found.page_start, found.page_end, found.section, found.section_key)
        if found
        else SAMPLE
    )
    recipe = form.recipe if form.is_bound else _as_shown(context, form.kind.key)
    context |= {
        "project": project,
        "section": "datasets",
        "form": form,
        "kind": form.kind,
        "documents": documents[:200],
        "chosen": chosen,
        "place": place,
        "passages": chunks.count(),
        "prompt": recipe.prompt(passage, str(chosen or "manual.pdf")) if recipe else "",
    }
    if request.method == "POST" and request.htmx:
        return render(request, "datasets/recipe.html#preview", context)
    return render(request, "datasets/recipe.html", context, status=422 if form.is_bound and form.errors else 200)


def _as_shown(context: dict[str, Any], kind: str) -> engine.Recipe | None:
    """The version on the page, or of a new one what is shipped; None for one that cannot be used any more."""
    if "shown" not in context:
        return engine.Recipe(kind, settings=SAMPLES.get(kind, {}))
    try:
        return engine.Recipe(**context["shown"].fields)
    except InputError:
        return None
