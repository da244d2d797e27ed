"""Documents, datasets and model servers for operators. States move through the services, never by hand here."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from datasets_app.models import Dataset, DatasetVersion, Document, Generation, ModelServer


class ReadOnly(admin.ModelAdmin):
    """Looked at, not changed."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


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


@admin.register(ModelServer)
class ModelServerAdmin(admin.ModelAdmin):
    list_display = ["name", "provider", "base_url", "context_window"]
