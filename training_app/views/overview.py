"""The project's first page."""

from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from datasets_app.models import DatasetVersion, Document, Example, State
from finetune_site.jobs.models import JobState
from finetune_site.projects.access import SignedInRequest, get_project, role_of
from finetune_site.projects.models import Role
from training_app.models import Run


@require_GET
def project(request: SignedInRequest, pk: int) -> HttpResponse:
    """The journey as a line with counts, what runs, what failed, and what comes next."""
    found = get_project(request.user, pk)
    jobs = found.jobs.select_related("owner", "project")
    role = role_of(request.user, found)
    context = {
        "project": found,
        "section": "overview",
        "stages": _stages(found.pk),
        "running": jobs.filter(state=JobState.RUNNING),
        "waiting": jobs.filter(state=JobState.QUEUED).count(),
        "failed": jobs.filter(state=JobState.FAILED)[:5],
        "recent": found.audit_entries.select_related("actor")[:8],
        "is_owner": role == Role.OWNER,
    }
    return render(request, "training/project.html", context)


def _stages(project: int) -> dict[str, int]:
    examples = Example.objects.filter(dataset__project=project).aggregate(
        total=Count("pk"), drafts=Count("pk", Q(state=State.DRAFT)), approved=Count("pk", Q(state=State.APPROVED))
    )
    documents = Document.objects.filter(project=project)
    runs = Run.objects.filter(project=project)
    return {
        "documents": documents.count(),
        "parsed": documents.parsed().count(),
        **examples,
        "versions": DatasetVersion.objects.filter(dataset__project=project).sealed().count(),
        "runs": runs.count(),
        "done": runs.filter(job__state=JobState.SUCCEEDED).count(),
    }
