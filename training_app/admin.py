"""Base models for operators to add; runs to look at. Runs start, stop and resume on their pages and as jobs."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from training_app.models import BaseModel, Benchmark, Evaluation, Judgement, Publication, PublishedModel, Rubric, Run


@admin.register(BaseModel)
class BaseModelAdmin(admin.ModelAdmin):
    list_display = ["name", "title", "source", "location", "licence", "ready_at", "standing"]
    list_select_related = ["server__ollama_state"]
    readonly_fields = ["facts", "ready_at", "how", "server", "digest", "shapes", "compared_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """What decides which weights these are is changed on the page Base models, with all that hangs on it."""
        return [*self.readonly_fields, *(["name", "source", "location"] if obj else [])]


@admin.register(Run)
class RunAdmin(admin.ModelAdmin):
    list_display = ["name", "project", "version", "base", "method", "created_by", "created_at", "state"]
    list_filter = ["method", "project"]
    search_fields = ["name", "project__name"]
    list_select_related = ["project", "version__dataset", "base", "created_by", "job"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(Evaluation)
class EvaluationAdmin(RunAdmin):
    list_display = ["__str__", "created_by", "created_at", "summary"]
    list_filter = []
    search_fields = ["run__name"]
    list_select_related = ["run", "created_by"]


@admin.register(Judgement)
class JudgementAdmin(RunAdmin):
    list_display = ["__str__", "evaluation", "rubric", "server", "digest", "created_by", "created_at"]
    list_filter = ["server"]
    search_fields = ["model", "evaluation__run__name"]
    list_select_related = ["evaluation__run", "rubric", "server", "created_by"]


@admin.register(Rubric)
class RubricAdmin(RunAdmin):
    list_display = ["__str__", "project", "sha256", "created_by", "created_at"]
    list_filter = ["project"]
    search_fields = ["text"]
    list_select_related = ["project", "created_by"]


@admin.register(Benchmark)
class BenchmarkAdmin(RunAdmin):
    list_display = ["__str__", "tasks", "limit", "created_by", "created_at"]
    list_filter = []
    search_fields = ["run__name"]
    list_select_related = ["run", "created_by"]


@admin.register(PublishedModel)
class PublishedModelAdmin(RunAdmin):
    list_display = ["name", "server", "project", "current", "created_by", "created_at"]
    list_filter = ["server", "project"]
    search_fields = ["name", "project__name"]
    list_select_related = ["server", "project", "current__model", "created_by"]


@admin.register(Publication)
class PublicationAdmin(RunAdmin):
    list_display = ["__str__", "run", "format", "outcome", "digest", "created_by", "created_at"]
    list_filter = ["outcome", "format"]
    search_fields = ["model__name", "run__name"]
    list_select_related = ["model", "run", "created_by"]
