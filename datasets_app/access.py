"""Who may see and change what documents and datasets hold. A stranger gets 404, a member below the role 403."""

from typing import TypeVar
from uuid import UUID

from django.contrib.auth.models import User
from django.db import models
from django.shortcuts import get_object_or_404

from datasets_app.models import (
    Conflict,
    Dataset,
    DatasetVersion,
    Document,
    Example,
    Generation,
    ImportBatch,
    LabelStudioImport,
    Recipe,
    Upload,
)
from finetune_site.projects.access import require_role
from finetune_site.projects.models import Project, Role

Row = TypeVar("Row", bound=models.Model)


def get_document(user: User, pk: int, *, role: Role = Role.VIEWER) -> Document:
    document = get_object_or_404(Document.objects.visible_to(user).select_related("project", "job"), pk=pk)
    require_role(user, document.project, role)
    return document


def get_upload(user: User, key: UUID) -> Upload:
    upload = get_object_or_404(Upload.objects.visible_to(user).select_related("project"), pk=key)
    require_role(user, upload.project, Role.TRAINER)
    return upload


def get_dataset(user: User, pk: int, *, role: Role = Role.VIEWER) -> Dataset:
    dataset = get_object_or_404(Dataset.objects.visible_to(user).select_related("project", "check_job"), pk=pk)
    require_role(user, dataset.project, role)
    return dataset


def get_version(user: User, pk: int, *, role: Role = Role.VIEWER) -> DatasetVersion:
    versions = DatasetVersion.objects.visible_to(user).select_related("dataset__project", "job", "created_by")
    version = get_object_or_404(versions, pk=pk)
    require_role(user, version.dataset.project, role)
    return version


def get_example(user: User, pk: int, *, role: Role = Role.VIEWER) -> Example:
    examples = Example.objects.visible_to(user).select_related(
        "dataset__project", "text", "chunk", "document", "decided_by", "author", "call"
    )
    example = get_object_or_404(examples, pk=pk)
    require_role(user, example.dataset.project, role)
    return example


def get_generation(user: User, pk: int, *, role: Role = Role.VIEWER) -> Generation:
    found = _of_dataset(user, Generation.objects.select_related("dataset__project", "job", "created_by"), pk)
    require_role(user, found.dataset.project, role)
    return found


def get_recipe(user: User, pk: int, *, role: Role = Role.VIEWER) -> Recipe:
    found = get_object_or_404(Recipe.objects.visible_to(user).select_related("project"), pk=pk)
    require_role(user, found.project, role)
    return found


def get_import(user: User, pk: int, *, role: Role = Role.VIEWER) -> ImportBatch:
    found = _of_dataset(user, ImportBatch.objects.select_related("dataset__project", "job", "created_by"), pk)
    require_role(user, found.dataset.project, role)
    return found


def _of_dataset(user: User, rows: "models.QuerySet[Row]", pk: int) -> Row:
    return get_object_or_404(rows.filter(dataset__project__in=Project.objects.visible_to(user)), pk=pk)


def get_label_studio_import(user: User, pk: int) -> LabelStudioImport:
    entries = LabelStudioImport.objects.select_related("dataset__project", "server", "job", "batch")
    entry = _of_dataset(user, entries, pk)
    require_role(user, entry.dataset.project, Role.TRAINER)
    return entry


def get_conflict(user: User, pk: int, *, role: Role = Role.VIEWER) -> Conflict:
    conflicts = Conflict.objects.visible_to(user).select_related("task__example__dataset__project", "by")
    conflict = get_object_or_404(conflicts, pk=pk)
    require_role(user, conflict.task.example.dataset.project, role)
    return conflict
