"""What can be done to a project's recipes."""

from typing import Any

from django.contrib.auth.models import User
from django.db import transaction
from django.utils import timezone

from datasets_app.models import Recipe, RecipeVersion
from datasets_app.services.datasets import check_recipe
from datasets_app.services.errors import DatasetError
from finetune_site.projects.models import Project
from finetune_site.projects.services import audit


@transaction.atomic
def create_recipe(
    *, actor: User, project: Project, name: str, kind: str, template: str, settings: dict[str, Any]
) -> Recipe:
    """A recipe with its first version. Its name is the only one of its kind in the project."""
    check_recipe({"kind": kind, "template": template, "settings": settings})
    if Recipe.objects.filter(project=project, name=name).exists():
        raise DatasetError(f"The project has a recipe named “{name}” already, perhaps a retired one. Choose another.")
    recipe = Recipe.objects.create(project=project, name=name, kind=kind, created_by=actor)
    first = recipe.versions.create(number=1, template=template, settings=settings, created_by=actor)
    audit(project, actor, "made the recipe", recipe, after=first.fields)
    return recipe


@transaction.atomic
def edit_recipe(*, actor: User, recipe: Recipe, template: str, settings: dict[str, Any]) -> RecipeVersion:
    """Its next version; the same one where nothing differs."""
    locked = Recipe.objects.select_for_update().get(pk=recipe.pk)
    last = locked.newest
    if (last.template, last.settings) == (template, settings):
        return last
    check_recipe({"kind": locked.kind, "template": template, "settings": settings})
    made = locked.versions.create(number=last.number + 1, template=template, settings=settings, created_by=actor)
    audit(locked.project, actor, "changed the recipe", locked, before=last.fields, after=made.fields)
    return made


@transaction.atomic
def retire_recipe(*, actor: User, recipe: Recipe, is_offered: bool = False) -> None:
    """Offer it no more, or (`is_offered`) again. What was made with it keeps it."""
    locked = Recipe.objects.select_for_update().get(pk=recipe.pk)
    if is_offered == (locked.retired_at is None):
        return
    locked.retired_at = None if is_offered else timezone.now()
    locked.save(update_fields=["retired_at"])
    audit(locked.project, actor, "offered again the recipe" if is_offered else "retired the recipe", locked)
