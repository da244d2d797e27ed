"""Documents, datasets and model servers for operators. States move through the services, never by hand here."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from datasets_app.forms import LabelStudioServerForm, ModelServerForm
from datasets_app.models import (
    Dataset,
    DatasetVersion,
    Document,
    Generation,
    LabelStudioServer,
    ModelServer,
    Recipe,
)
from datasets_app.services import labelstudio as label_studio
from finetune_site.projects.admin import ReadOnly


@admin.register(Document)
class DocumentAdmin(ReadOnly):
    list_display = ["name", "project", "media_type", "size", "pages", "uploaded_by", "uploaded_at", "parsed_at"]
    list_filter = ["media_type", "project"]
    search_fields = ["name", "sha256"]


@admin.register(Dataset)
class DatasetAdmin(ReadOnly):
    list_display = ["name", "project", "created_by", "created_at"]
    list_filter = ["project"]
    search_fields = ["name"]


@admin.register(DatasetVersion)
class DatasetVersionAdmin(ReadOnly):
    list_display = ["__str__", "sealed_at", "created_by", "size", "sha256"]
    search_fields = ["dataset__name", "sha256"]


@admin.register(Generation)
class GenerationAdmin(ReadOnly):
    list_display = ["__str__", "generator", "created_by", "created_at", "counts"]


@admin.register(Recipe)
class RecipeAdmin(ReadOnly):
    list_display = ["name", "project", "kind", "created_by", "created_at", "retired_at"]
    list_filter = ["kind", "project"]
    search_fields = ["name"]


@admin.register(ModelServer)
class ModelServerAdmin(admin.ModelAdmin):
    form = ModelServerForm
    list_display = ["name", "provider", "base_url", "context_window", "parallel", "takes_models"]

    def save_model(self, request: HttpRequest, obj: ModelServer, form: Any, change: bool) -> None:
        if form.cleaned_data["forgets_key"]:
            obj.key = ""
        if key := form.cleaned_data["key"]:
            obj.key = key
        super().save_model(request, obj, form, change)


@admin.register(LabelStudioServer)
class LabelStudioServerAdmin(admin.ModelAdmin):
    """Saving tries the connection; so does the action. The answer stands in the list within seconds."""

    form = LabelStudioServerForm
    list_display = ["name", "url", "state", "problem", "account", "version", "checked_at"]
    readonly_fields = ["state", "problem", "account", "version", "checked_at"]
    actions = ["test_connection"]

    def save_model(self, request: HttpRequest, obj: LabelStudioServer, form: Any, change: bool) -> None:
        if token := form.cleaned_data["token"]:
            obj.token = token
        obj.state, obj.problem = LabelStudioServer.State.UNTRIED, ""
        super().save_model(request, obj, form, change)
        self._test(request, [obj])

    @admin.action(description="Test the connection", permissions=["change"])
    def test_connection(self, request: HttpRequest, queryset: "QuerySet[LabelStudioServer]") -> None:
        self._test(request, list(queryset))

    def _test(self, request: HttpRequest, servers: list[LabelStudioServer]) -> None:
        for server in servers:
            label_studio.test_connection(server)
        messages.info(request, "The connection is being tested. Load the list again in some seconds to see the answer.")
