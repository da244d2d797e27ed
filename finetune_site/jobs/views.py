"""The queue page, one job's page, stop and start again, and the stream of live updates."""

from typing import Protocol

from asgiref.sync import sync_to_async
from django.contrib import messages
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db import connection
from django.http import HttpResponse, StreamingHttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_GET, require_POST

from finetune_site.jobs import services
from finetune_site.jobs.access import get_job, may_control, require_control
from finetune_site.jobs.forecast import forecasts
from finetune_site.jobs.live import event_stream, hub
from finetune_site.jobs.machines import reports
from finetune_site.jobs.models import FINISHED, Job, JobState
from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import SignedInRequest, get_project, require_operator

PAGE_SIZE = 30
LOG_KINDS = ("state", "log", "warning", "checkpoint")  # what has words of its own


class Act(Protocol):
    def __call__(self, *, actor: User, job: Job) -> None: ...


@require_GET
def job_list(request: SignedInRequest) -> HttpResponse:
    """Everything that runs, waits and ended, in all projects the user sees."""
    return render(request, "jobs/job_list.html", _list_context(request))


@require_GET
def job_list_table(request: SignedInRequest) -> HttpResponse:
    return render(request, "jobs/job_list.html#table", _list_context(request))


@require_GET
def device_list(request: SignedInRequest) -> HttpResponse:
    """Every machine that works for the site: its devices, how busy they are, and what runs on them."""
    return render(request, "jobs/device_list.html", {"section": "devices", "reports": reports(request.user)})


@require_GET
def device_list_table(request: SignedInRequest) -> HttpResponse:
    return render(request, "jobs/device_list.html#table", {"reports": reports(request.user)})


@require_GET
def job_detail(request: SignedInRequest, pk: int) -> HttpResponse:
    job = get_job(request.user, pk)
    return render(request, "jobs/job_detail.html", _detail_context(request, job))


@require_GET
def job_detail_body(request: SignedInRequest, pk: int) -> HttpResponse:
    job = get_job(request.user, pk)
    return render(request, "jobs/job_detail.html#body", _detail_context(request, job))


@require_GET
def job_progress(request: SignedInRequest, pk: int) -> HttpResponse:
    """The progress component alone: what a page polls when the stream is not to be had."""
    return render(request, "components/job_progress.html", {"job": get_job(request.user, pk)})


@require_POST
def job_cancel(request: SignedInRequest, pk: int) -> HttpResponse:
    return _act(request, pk, services.cancel)


@require_POST
def job_requeue(request: SignedInRequest, pk: int) -> HttpResponse:
    return _act(request, pk, services.requeue)


@require_POST
def job_run_next(request: SignedInRequest, pk: int) -> HttpResponse:
    job = get_job(request.user, pk)
    require_operator(request.user, "let a job overtake others")
    return _answer(request, job, services.run_next)


async def live(request: SignedInRequest, pk: int) -> StreamingHttpResponse:
    """Server-sent events of a project; `?jobs=1,2` narrows it, `Last-Event-ID` or `?last=` goes on from there."""
    await sync_to_async(_check_and_let_go)(request, pk)
    jobs = frozenset(map(whole_number, request.GET.get("jobs", "").split(","))) - {0}
    last = request.headers.get("Last-Event-ID") or request.GET.get("last", "")
    return event_stream(hub.watch(pk, jobs, whole_number(last) or None))


def _check_and_let_go(request: SignedInRequest, pk: int) -> None:
    # A stream lives for hours: it must not keep the database connection of its first second.
    try:
        get_project(request.user, pk)
    finally:
        connection.close()


def _act(request: SignedInRequest, pk: int, act: Act) -> HttpResponse:
    job = get_job(request.user, pk)
    require_control(request.user, job)
    return _answer(request, job, act)


def _answer(request: SignedInRequest, job: Job, act: Act) -> HttpResponse:
    try:
        act(actor=request.user, job=job)
    except services.JobError as error:
        messages.error(request, str(error))
    return redirect(job)


def _list_context(request: SignedInRequest) -> dict[str, object]:
    jobs = Job.objects.visible_to(request.user).select_related("project", "owner")
    state = request.GET.get("state", "")
    ended = jobs.filter(state=state) if state in FINISHED else jobs.filter(state__in=FINISHED)
    waiting = list(jobs.filter(state=JobState.QUEUED).order_by("pk"))
    turns = forecasts(waiting)
    return {
        "running": jobs.filter(state=JobState.RUNNING).order_by("started_at"),
        "waiting": sorted(waiting, key=lambda job: (job.queue, turns[job.pk].place if job.pk in turns else 0)),
        "job_turns": turns,
        "ended": Paginator(ended, PAGE_SIZE).get_page(request.GET.get("page")),
        "state": state,
    }


def _detail_context(request: SignedInRequest, job: Job) -> dict[str, object]:
    return {
        "job": job,
        "project": job.project,
        "events": job.events.filter(kind__in=LOG_KINDS).order_by("-pk")[:200],
        "may_control": may_control(request.user, job),
    }
