"""Review in Label Studio: a dataset's page, sending, syncing, conflicts, the project's list, and the hook."""

import hmac
import json
from dataclasses import asdict
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from datasets_app import access
from datasets_app.forms import LabelStudioSendForm
from datasets_app.models import Conflict, Dataset, LabelStudioLink, LabelStudioServer, LabelStudioTask
from datasets_app.services import labelstudio as services
from datasets_app.services.comparing import edits_of
from datasets_app.services.errors import DatasetError
from finetune_site.jobs.services import JobError
from finetune_site.lib.sealing import UnsealError
from finetune_site.projects.access import SignedInRequest, get_project, has_role
from finetune_site.projects.models import Role

SHOWN = 20
MAX_HOOK_BYTES = 64_000


@require_http_methods(["GET", "POST"])
def label_studio(request: SignedInRequest, pk: int) -> HttpResponse:
    """The page of a dataset's review there; posting sends examples."""
    dataset = access.get_dataset(request.user, pk, role=Role.TRAINER if request.method == "POST" else Role.VIEWER)
    form = LabelStudioSendForm(request.POST or None, dataset=dataset, initial={"state": "draft"})
    if form.is_valid():
        try:
            services.start_sending(actor=request.user, dataset=dataset, **form.arguments)
            return redirect("label_studio", pk)
        except DatasetError as error:
            form.add_error(None, str(error))
    return render(request, "datasets/label_studio.html", _context(request, dataset) | {"form": form})


@require_GET
def label_studio_body(request: SignedInRequest, pk: int) -> HttpResponse:
    dataset = access.get_dataset(request.user, pk)
    return render(request, "datasets/label_studio.html#body", _context(request, dataset))


@require_POST
def label_studio_sync(request: SignedInRequest, pk: int) -> HttpResponse:
    services.hint(_link(access.get_dataset(request.user, pk, role=Role.REVIEWER)), looks_whole=True)
    return redirect("label_studio", pk)


@require_POST
def label_studio_act(request: SignedInRequest, pk: int, act: str) -> HttpResponse:
    """One of the ways on: put the config back, begin anew, part."""
    link = _link(access.get_dataset(request.user, pk, role=Role.TRAINER))
    try:
        if act == "restore":
            services.restore_config(actor=request.user, link=link)
        elif act == "anew":
            services.begin_anew(actor=request.user, link=link)
            messages.success(request, "Begun anew: what was decided is kept. Send examples to make a project there.")
        else:
            services.part(actor=request.user, link=link)
            messages.success(request, "Disconnected from Label Studio. What was decided there stays here.")
    except (DatasetError, JobError) as error:
        messages.error(request, str(error))
    return redirect("label_studio", pk)


@require_POST
def conflict_resolve(request: SignedInRequest, pk: int) -> HttpResponse:
    conflict = access.get_conflict(request.user, pk, role=Role.REVIEWER)
    try:
        kept, text = request.POST.get("kept", ""), request.POST.get("text_id", "")
        services.resolve(actor=request.user, conflict=conflict, kept=kept, text=text)
    except DatasetError as error:
        messages.error(request, str(error))
    return redirect("label_studio", conflict.task.example.dataset_id)


@require_GET
def label_studio_list(request: SignedInRequest, project: int) -> HttpResponse:
    """The project's datasets that are reviewed there, with their counts; `?format=json` answers a program."""
    of = get_project(request.user, project)
    links = LabelStudioLink.objects.filter(dataset__project=of).select_related("dataset", "server").order_by("dataset")
    links = links.prefetch_related("projects")
    counts = services.counts([link.dataset for link in links])
    if request.GET.get("format") == "json":
        return JsonResponse({"datasets": [_told(request, link, counts[link.dataset_id]) for link in links]})
    rows = [{"link": link, "counts": counts[link.dataset_id]} for link in links]
    may_seal = has_role(request.user, of, Role.TRAINER)
    context = {"project": of, "section": "datasets", "rows": rows, "may_seal": may_seal}
    return render(request, "datasets/label_studio_list.html", context)


@csrf_exempt
@login_not_required
@require_POST
def label_studio_hook(request: HttpRequest, key: str) -> HttpResponse:
    """A hint from Label Studio that something changed. Only its kind is read; the sync asks for the rest."""
    link = get_object_or_404(LabelStudioLink, hook_key=key)
    if not _is_secret(link, request.headers.get(services.SECRET_HEADER, "")):
        return HttpResponse(status=403)
    services.hint(link, looks_whole=_action(request).endswith("_DELETED"))
    return HttpResponse(status=202)


def _link(dataset: Dataset) -> LabelStudioLink:
    return get_object_or_404(LabelStudioLink.objects.select_related("server", "dataset__project"), dataset=dataset)


def _is_secret(link: LabelStudioLink, told: str) -> bool:
    try:
        return hmac.compare_digest(told.encode(), link.hook_secret.encode())
    except UnsealError:  # the site's key has changed: the next sync gives the hook a new secret
        return False


def _action(request: HttpRequest) -> str:
    if int(request.headers.get("Content-Length") or 0) > MAX_HOOK_BYTES:
        return ""
    try:
        body = json.loads(request.body)
    except ValueError:
        return ""
    return str(body.get("action", "")) if isinstance(body, dict) else ""


def _told(request: SignedInRequest, link: LabelStudioLink, counts: services.ReviewCounts) -> dict[str, Any]:
    return {
        "dataset": link.dataset.name,
        "url": request.build_absolute_uri(link.dataset.get_absolute_url()),
        "server": link.server.name,
        "state": link.state,
        "problem": link.problem,
        "synced_at": link.synced_at,
        "projects": [link.server.link(there.path) for there in link.projects.all() if there.remote_id],
        **asdict(counts),
        "agreement": counts.agreement,
    }


def _context(request: SignedInRequest, dataset: Dataset) -> dict[str, object]:
    link = LabelStudioLink.objects.filter(dataset=dataset).select_related("server", "sync_job").first()
    tasks = LabelStudioTask.objects.filter(project__link__dataset=dataset).select_related(
        "project__link__server", "example__text"
    )
    troubled = tasks.exclude(problem="")
    conflicts = (
        Conflict.objects.open()
        .filter(task__project__link__dataset=dataset)
        .select_related("by", "task__example__text", "task__project__link__server")
    )
    return {
        "dataset": dataset,
        "project": dataset.project,
        "section": "datasets",
        "link": link,
        "servers": LabelStudioServer.objects.all(),
        "projects": services.projects_of(link) if link else [],
        "counts": services.counts([dataset])[dataset.pk],
        "sending": link.sendings.select_related("job").first() if link else None,
        "troubled": troubled[:SHOWN],
        "troubled_count": troubled.count(),
        "unknown": services.people_unknown(dataset),
        "conflicts": [{"row": row, "edits": _edits(row)} for row in conflicts[:SHOWN]],
        "conflict_count": conflicts.count(),
        "may_send": has_role(request.user, dataset.project, Role.TRAINER),
        "may_judge": has_role(request.user, dataset.project, Role.REVIEWER),
    }


def _edits(conflict: Conflict) -> Any:
    """The portal's text as it is now beside Label Studio's."""
    text = conflict.task.example.text
    assert text is not None
    return edits_of(text.content, conflict.content)
