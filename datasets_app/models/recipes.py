"""Recipes of a project: what a model makes of passages. A version is never changed; another wording is another one."""

from typing import Any

from django.conf import settings as site
from django.contrib.auth.models import AnonymousUser, User
from django.db import models
from django.urls import reverse
from django.utils import timezone

from datasets_app.engine import recipes as engine
from finetune_site.projects.models import Project


class RecipeQuerySet(models.QuerySet["Recipe"]):
    def visible_to(self, user: User | AnonymousUser) -> "RecipeQuerySet":
        return self.filter(project__in=Project.objects.visible_to(user))

    def offered(self) -> "RecipeQuerySet":
        """Those that can be chosen."""
        return self.filter(retired_at=None)


class Recipe(models.Model):
    """A way to make examples that people of a project worked out. Retired, it stays for what was made with it."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="recipes")
    name = models.CharField(max_length=30)
    kind = models.CharField(max_length=20)
    created_by = models.ForeignKey(site.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    retired_at = models.DateTimeField(null=True)

    objects = RecipeQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="one_recipe_per_name"),
            models.CheckConstraint(condition=models.Q(kind__in=list(engine.KINDS)), name="known_recipe_kind"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("recipe", args=[self.pk])

    @property
    def title(self) -> str:
        """What kind it is, as people call it."""
        return engine.KINDS[self.kind].title

    @property
    def newest(self) -> "RecipeVersion":
        """The version that is used from now on."""
        found = self.versions.last()
        assert found is not None  # a recipe is made with its first
        return found


class RecipeVersion(models.Model):
    recipe = models.ForeignKey(Recipe, models.CASCADE, related_name="versions")
    number = models.PositiveIntegerField()
    template = models.TextField()
    settings = models.JSONField(default=dict, help_text="Where they differ from the usual")
    created_by = models.ForeignKey(site.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["recipe", "number"], name="one_recipe_version_per_number")]

    def __str__(self) -> str:
        return f"{self.recipe} {self.number}"

    @property
    def fields(self) -> dict[str, Any]:
        """All of it, as a generation keeps it and the generator reads it."""
        return {
            "kind": self.recipe.kind,
            "template": self.template,
            "settings": self.settings,
            "name": self.recipe.name,
            "number": self.number,
        }
