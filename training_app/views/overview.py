"""The first pages: one's projects, where each of them stands, and what is found by its words."""

from typing import Any

from django.db.models import Count, Q, QuerySet, Sum
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from datasets_app.models import State, Tally
from finetune_site.jobs.models import Job, JobState
from finetune_site.projects.access import SignedInRequest, get_project, role_of
from finetune_site.projects.models import Project, Role
from training_app.finding import search as find
from training_app.finding import words_of
from training_app.journey import journey


@require_GET
def home(request: SignedInRequest) -> HttpResponse:
    """The projects one is in, and what waits and works in each."""
    mine = Project.objects.visible_to(request.user).filter(is_desk=False)
    # The model's own order is dropped where rows are counted.
    projects = Project.objects.filter(pk__in=mine.values("pk")).annotate(members=Count("memberships")).order_by("name")
    context = {
        "projects": projects,
        "section": "projects",
        "jobs": _jobs_by_project(mine),
        "drafts": _drafts_by_project(mine),
    }
    return render(request, "training/home.html", context)


@require_GET
def project(request: SignedInRequest, pk: int) -> HttpResponse:
    """The journey as a line with counts, what waits for this person, what runs, what failed, and what comes next."""
    found = get_project(request.user, pk)
    jobs = found.jobs.select_related("owner", "project")
    role = role_of(request.user, found) or Role.VIEWER
    context = {
        "project": found,
        "section": "overview",
        "journey": journey(found, request.user, role),
        "running": jobs.filter(state=JobState.RUNNING),
        "waiting": jobs.filter(state=JobState.QUEUED).count(),
        "failed": jobs.filter(state=JobState.FAILED)[:5],
        "recent": found.audit_entries.select_related("actor")[:8],
        "is_owner": role == Role.OWNER,
    }
    return render(request, "training/project.html", context)


@require_GET
def search(request: SignedInRequest) -> HttpResponse:
    """Everything one may see that has all the words asked for."""
    asked = request.GET.get("q", "").strip()
    words = words_of(asked)
    groups = find(request.user, words) if words else []
    return render(request, "training/search.html", {"asked": asked, "words": words, "groups": groups})


def _jobs_by_project(projects: QuerySet[Project]) -> dict[int, Any]:
    jobs = Job.objects.filter(project__in=projects.values("pk")).unfinished().order_by().values("project")
    running = Count("pk", Q(state=JobState.RUNNING))
    return {row["project"]: row for row in jobs.annotate(running=running, waiting=Count("pk") - running)}


def _drafts_by_project(projects: QuerySet[Project]) -> dict[int, int]:
    drafts = Tally.objects.filter(dataset__project__in=projects.values("pk"), state=State.DRAFT).order_by()
    return dict(drafts.values_list("dataset__project").annotate(Sum("change")))
