"""Base models for operators to add; runs to look at. Runs start, stop and resume on their pages and as jobs."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat

from finetune_site.jobs.models import FINISHED
from finetune_site.projects.access import require_operator
from finetune_site.projects.admin import ProjectAdmin, ReadOnly
from finetune_site.projects.models import Project
from training_app.models import BaseModel, Benchmark, Evaluation, Judgement, Publication, PublishedModel, Rubric, Run
from training_app.services.housekeeping import purge_run
from training_app.services.runs import TrainingError
from training_app.services.use import measure_projects

PURGE = "Purge: delete checkpoints and exported files of runs that have ended"


@admin.register(BaseModel)
class BaseModelAdmin(admin.ModelAdmin):
    list_display = ["name", "title", "source", "location", "licence", "ready_at", "standing"]
    list_select_related = ["server__ollama_state"]
    readonly_fields = ["facts", "ready_at", "how", "server", "digest", "shapes", "compared_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """What decides which weights these are is changed on the page Base models, with all that hangs on it."""
        return [*self.readonly_fields, *(["name", "source", "location"] if obj else [])]


@admin.register(Run)
class RunAdmin(ReadOnly):
    list_display = ["name", "project", "version", "base", "method", "created_by", "created_at", "state", "disk"]
    list_filter = ["method", "project"]
    search_fields = ["name", "project__name"]
    list_select_related = ["project", "version__dataset", "base", "created_by", "job"]
    actions = ["purge"]

    @admin.display(description="disk", ordering="disk_bytes")
    def disk(self, run: Run) -> str:
        return filesizeformat(run.disk_bytes)

    @admin.action(description=PURGE)
    def purge(self, request: HttpRequest, queryset: QuerySet[Run]) -> None:
        _purge(request, queryset)


admin.site.unregister(Project)


@admin.register(Project)
class PurgingProjectAdmin(ProjectAdmin):
    """Projects with what only this floor can do to them."""

    actions = ["purge"]

    @admin.action(description=PURGE)
    def purge(self, request: HttpRequest, queryset: QuerySet[Project]) -> None:
        _purge(request, Run.objects.filter(project__in=queryset, job__state__in=FINISHED))


def _purge(request: HttpRequest, runs: QuerySet[Run]) -> None:
    actor = require_operator(request.user, "purge files")
    freed = 0
    for run in runs.select_related("project"):
        try:
            freed += purge_run(actor=actor, run=run)
        except TrainingError as error:
            messages.warning(request, f"{run}: {error}")
    measure_projects()
    messages.success(request, f"{filesizeformat(freed)} are free again.")


@admin.register(Evaluation)
class EvaluationAdmin(ReadOnly):
    list_display = ["__str__", "created_by", "created_at", "summary"]
    list_filter = []
    search_fields = ["run__name"]
    list_select_related = ["run", "created_by"]


@admin.register(Judgement)
class JudgementAdmin(ReadOnly):
    list_display = ["__str__", "evaluation", "rubric", "server", "digest", "created_by", "created_at"]
    list_filter = ["server"]
    search_fields = ["model", "evaluation__run__name"]
    list_select_related = ["evaluation__run", "rubric", "server", "created_by"]


@admin.register(Rubric)
class RubricAdmin(ReadOnly):
    list_display = ["__str__", "project", "sha256", "created_by", "created_at"]
    list_filter = ["project"]
    search_fields = ["text"]
    list_select_related = ["project", "created_by"]


@admin.register(Benchmark)
class BenchmarkAdmin(ReadOnly):
    list_display = ["__str__", "tasks", "limit", "created_by", "created_at"]
    list_filter = []
    search_fields = ["run__name"]
    list_select_related = ["run", "created_by"]


@admin.register(PublishedModel)
class PublishedModelAdmin(ReadOnly):
    list_display = ["name", "server", "project", "current", "created_by", "created_at"]
    list_filter = ["server", "project"]
    search_fields = ["name", "project__name"]
    list_select_related = ["server", "project", "current__model", "created_by"]


@admin.register(Publication)
class PublicationAdmin(ReadOnly):
    list_display = ["__str__", "run", "format", "outcome", "digest", "created_by", "created_at"]
    list_filter = ["outcome", "format"]
    search_fields = ["model__name", "run__name"]
    list_select_related = ["model", "run", "created_by"]
