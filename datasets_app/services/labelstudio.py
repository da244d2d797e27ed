"""What people do with review in Label Studio: send examples, bring decisions back, decide conflicts, part again."""

import hashlib
import json
import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, Q
from django.utils import timezone
from django_q.tasks import async_task

from datasets_app.engine.labelling import LAYOUTS
from datasets_app.models import (
    Conflict,
    Dataset,
    Decision,
    ImportBatch,
    LabelStudioImport,
    LabelStudioLink,
    LabelStudioProject,
    LabelStudioSending,
    LabelStudioServer,
    LabelStudioTask,
    State,
)
from datasets_app.services import examples
from datasets_app.services.datasets import DatasetError
from datasets_app.services.examples import Voice
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import FINISHED, Job, JobState
from finetune_site.lib.sealing import seal
from finetune_site.projects.services import audit

SYNC = "datasets.label_studio_sync"
PLACE = "Label Studio"


def test_connection(server: LabelStudioServer) -> None:
    """Ask a worker to meet the server; what it says stands with the server. The web process loads no client."""
    async_task("datasets_app.meeting.meet", server.pk, cluster="default")


@transaction.atomic
def start_sending(
    *, actor: User, dataset: Dataset, server: LabelStudioServer, chosen: dict[str, str]
) -> LabelStudioSending:
    """Send the examples of a filter, in the background; the first time links the dataset to the server."""
    link = LabelStudioLink.objects.select_for_update().filter(dataset=dataset).first()
    if link is None:
        secret = seal(secrets.token_urlsafe(32), settings.SECRET_KEY)
        link = LabelStudioLink.objects.create(
            dataset=dataset, server=server, created_by=actor, sealed_hook_secret=secret
        )
    if link.server_id != server.pk:
        raise DatasetError(f"The dataset is reviewed in {link.server} already. Part from it first, then send it here.")
    if link.sendings.exclude(job=None).exclude(job__state__in=FINISHED).exists():
        raise DatasetError("Examples of this dataset are being sent already. Wait until that is done.")
    sending = LabelStudioSending.objects.create(link=link, chosen=chosen, created_by=actor)
    if not sending.examples.exists():
        raise DatasetError("No example fits this choice. Choose others, or generate some first.")
    sending.job = jobs.enqueue(
        project=dataset.project,
        owner=actor,
        kind="datasets.label_studio_send",
        label=f"{dataset} to {server}",
        url=link.get_absolute_url(),
    )
    sending.save(update_fields=["job"])
    audit(dataset.project, actor, "sent to Label Studio", dataset, after={"server": str(server), "chosen": chosen})
    return sending


@transaction.atomic
def hint(link: LabelStudioLink, *, looks_whole: bool = False) -> None:
    """Something may have changed there: sync soon. While a sync runs, it goes round once more."""
    locked = LabelStudioLink.objects.select_for_update().get(pk=link.pk)
    locked.looks_whole = locked.looks_whole or looks_whole
    locked.is_hinted = True
    if locked.sync_job is None or locked.sync_job.is_finished:
        _forget_syncs(locked)
        locked.sync_job = jobs.enqueue(
            project=locked.dataset.project,
            owner=locked.created_by,
            kind=SYNC,
            label=str(locked.dataset),
            url=locked.get_absolute_url(),
        )
    locked.save(update_fields=["looks_whole", "is_hinted", "sync_job"])


def sync_all() -> int:
    """The schedule: look at every linked dataset. Once an hour everything is compared, which finds what is gone."""
    links = LabelStudioLink.objects.filter(projects__remote_id__isnull=False).distinct()
    is_whole = timezone.now().minute < settings.LABEL_STUDIO_MINUTES
    for link in links:
        hint(link, looks_whole=is_whole)
    return len(links)


@transaction.atomic
def end_sync(link: LabelStudioLink) -> bool:
    """True when the sync may end; False when a hint came in meanwhile, and it goes round once more."""
    locked = LabelStudioLink.objects.select_for_update().get(pk=link.pk)
    if locked.is_hinted:
        return False
    LabelStudioLink.objects.filter(pk=link.pk).update(sync_job=None)
    return True


def note_trouble(server: LabelStudioServer, link: LabelStudioLink | None, problem: str, *, is_servers: bool) -> None:
    """Label Studio does not do what it should for now; syncs go on by themselves when it does again."""
    if link is not None:
        state = LabelStudioLink.State.WAITING
        LabelStudioLink.objects.filter(pk=link.pk).update(state=state, problem=problem)
    if is_servers:
        note_check(server, problem=problem)


def note_pause(link: LabelStudioLink, problem: str) -> None:
    LabelStudioLink.objects.filter(pk=link.pk).update(state=LabelStudioLink.State.PAUSED, problem=problem)


def note_check(server: LabelStudioServer, *, problem: str = "", account: str = "", version: str = "") -> None:
    """How a server was met just now; without a problem it works."""
    found = {"account": account, "version": version} if account else {}
    state = LabelStudioServer.State.FAILING if problem else LabelStudioServer.State.WORKING
    LabelStudioServer.objects.filter(pk=server.pk).update(
        state=state, problem=problem, checked_at=timezone.now(), **found
    )


def send_on(link: LabelStudioLink) -> None:
    """Label Studio is there again: what could not be sent meanwhile is sent now."""
    note_check(link.server)
    for sending in link.sendings.filter(job__state=JobState.FAILED).exclude(job__error_code="input"):
        assert sending.job is not None
        jobs.requeue(actor=sending.created_by, job=sending.job)


@transaction.atomic
def restore_config(*, actor: User, link: LabelStudioLink) -> None:
    """Put our labelling config back in every project there."""
    LabelStudioLink.objects.filter(pk=link.pk).update(restores_config=True)
    audit(link.dataset.project, actor, "put the labelling config back of", link.dataset)
    hint(link)


@transaction.atomic
def begin_anew(*, actor: User, link: LabelStudioLink) -> None:
    """Forget which tasks there were; what was decided stays. The next sending makes new projects."""
    audit(link.dataset.project, actor, "began anew in Label Studio with", link.dataset)
    link.projects.all().delete()
    LabelStudioLink.objects.filter(pk=link.pk).update(state=LabelStudioLink.State.IN_STEP, problem="")


@transaction.atomic
def part(*, actor: User, link: LabelStudioLink) -> None:
    """End the review there. What was decided stays here, the projects stay there; hooks of theirs find nothing."""
    audit(link.dataset.project, actor, "parted from Label Studio", link.dataset, before={"server": str(link.server)})
    Job.objects.filter(label_studio_link=link, state=JobState.QUEUED).delete()
    link.delete()


@transaction.atomic
def resolve(*, actor: User, conflict: Conflict, kept: str) -> None:
    """Decide a conflict: keep the portal's text and state, or take Label Studio's over."""
    if kept not in (Conflict.OURS, Conflict.THEIRS):
        raise DatasetError("Choose whose text counts.")
    moved = (
        Conflict.objects.open().filter(pk=conflict.pk).update(resolved_by=actor, resolved_at=timezone.now(), kept=kept)
    )
    if not moved:
        raise DatasetError("Somebody has decided this already.")
    task = LabelStudioTask.objects.select_for_update().get(pk=conflict.task_id)
    example = task.example
    if kept == Conflict.THEIRS:
        example = examples.take_over(
            voice=Voice(conflict.by, conflict.by_name, PLACE),
            example=example,
            content=conflict.content,
            verdict=conflict.verdict,
            reason=conflict.reason,
            quality=conflict.quality,
            comment=conflict.comment,
        )
    task.text_id, task.known_state = example.text_id, example.state  # type: ignore[assignment]  # it has a text
    task.outcome = LabelStudioTask.Outcome.DECIDED
    task.save(update_fields=["text", "known_state", "outcome"])
    audit(example.dataset.project, actor, "decided the conflict over", example, after={"kept": kept})


@transaction.atomic
def start_import(*, actor: User, dataset: Dataset, server: LabelStudioServer) -> LabelStudioImport:
    """Begin to import a project of a server: which projects there are is asked in the background."""
    if not server.allows_import:
        raise DatasetError(f"Projects of {server} may not be imported. An operator can allow it in the administration.")
    made = LabelStudioImport.objects.create(dataset=dataset, server=server, created_by=actor)
    _look(actor, made)
    return made


@transaction.atomic
def choose_project(*, actor: User, entry: LabelStudioImport, remote_id: int, layout: str) -> None:
    """Take one of the projects found, and look at its first tasks."""
    title = next((found["title"] for found in entry.found if found["id"] == remote_id), None)
    if title is None or layout not in LAYOUTS:
        raise DatasetError("Choose one of the projects, and what its tasks hold.")
    entry.remote_id, entry.title, entry.layout, entry.first_tasks = remote_id, title[:120], layout, []
    entry.save(update_fields=["remote_id", "title", "layout", "first_tasks"])
    _look(actor, entry)


@transaction.atomic
def import_project(*, actor: User, entry: LabelStudioImport, mapping: dict[str, str]) -> ImportBatch:
    """Read every task of the chosen project as an example; what cannot be used is listed with its task."""
    locked = LabelStudioImport.objects.select_for_update().get(pk=entry.pk)
    if locked.batch_id is not None:
        raise DatasetError("This project is being imported already. Begin another import to have it again.")
    batch = ImportBatch.objects.create(
        dataset=locked.dataset,
        name=f"{locked.title} in {locked.server}"[:255],
        sha256=hashlib.sha256(json.dumps([locked.remote_id, mapping], sort_keys=True).encode()).hexdigest(),
        format="label studio",
        created_by=actor,
    )
    batch.job = jobs.enqueue(
        project=locked.dataset.project,
        owner=actor,
        kind="datasets.label_studio_import",
        label=batch.name,
        url=batch.get_absolute_url(),
    )
    batch.save(update_fields=["job"])
    locked.mapping, locked.batch = mapping, batch
    locked.save(update_fields=["mapping", "batch"])
    audit(locked.dataset.project, actor, "imported from Label Studio into", locked.dataset, after={"from": batch.name})
    return batch


def _look(actor: User, entry: LabelStudioImport) -> None:
    entry.job = jobs.enqueue(
        project=entry.dataset.project,
        owner=actor,
        kind="datasets.label_studio_look",
        label=f"{entry.title or 'projects'} in {entry.server}",
        url=entry.get_absolute_url(),
    )
    entry.save(update_fields=["job"])


def counts(dataset: Dataset) -> dict[str, Any]:
    """How the review of a dataset stands: its examples by state, and the agreement of two or more annotators."""
    states = dict(dataset.examples.order_by().values_list("state").annotate(count=Count("pk")))
    tasks = LabelStudioTask.objects.filter(project__link__dataset=dataset).aggregate(
        sent=Count("pk", filter=Q(remote_id__isnull=False)),
        decided=Count("pk", filter=Q(outcome=LabelStudioTask.Outcome.DECIDED)),
        conflicts=Count("pk", filter=Q(outcome=LabelStudioTask.Outcome.CONFLICT)),
        doubly=Count("pk", filter=Q(agree__isnull=False)),
        agreed=Count("pk", filter=Q(agree=True)),
    )
    return {
        "approved": states.get(State.APPROVED, 0),
        "rejected": states.get(State.REJECTED, 0),
        "open": states.get(State.DRAFT, 0),
        **tasks,
        "agreement": tasks["agreed"] / tasks["doubly"] if tasks["doubly"] else None,
    }


def projects_of(link: LabelStudioLink) -> list[LabelStudioProject]:
    """The projects there with their server, for addresses."""
    return list(link.projects.exclude(remote_id=None).select_related("link__server"))


def people_unknown(dataset: Dataset) -> list[tuple[str, int]]:
    """Names of those who decided there and are nobody here, each with the number of decisions."""
    decisions = Decision.objects.filter(example__dataset=dataset, by=None, place=PLACE).exclude(by_name=PLACE)
    return list(decisions.order_by().values_list("by_name").annotate(count=Count("pk")).order_by("-count", "by_name"))


def _forget_syncs(link: LabelStudioLink) -> None:
    """Syncs come by schedule: of those that ended well one row is enough."""
    Job.objects.filter(kind=SYNC, url=link.get_absolute_url(), state=JobState.SUCCEEDED).delete()
