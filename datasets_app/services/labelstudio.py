"""What people do with review in Label Studio: send examples, bring decisions back, decide conflicts, part again."""

import contextlib
import hashlib
import json
import secrets
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.utils import timezone
from django_q.tasks import async_task

from datasets_app.engine.labelling import LAYOUTS
from datasets_app.models import (
    Conflict,
    Dataset,
    Decision,
    Example,
    ImportBatch,
    LabelStudioImport,
    LabelStudioLink,
    LabelStudioProject,
    LabelStudioSending,
    LabelStudioServer,
    LabelStudioTask,
    Tally,
)
from datasets_app.services import examples
from datasets_app.services.errors import DatasetError
from datasets_app.services.examples import Said, Voice
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import FINISHED, UNFINISHED, Job, JobState
from finetune_site.lib.sealing import UnsealError, seal
from finetune_site.projects.services import audit

SYNC = "datasets.label_studio_sync"
PLACE = "Label Studio"
SECRET_HEADER = "X-Finetune-Site-Secret"  # noqa: S105  the header's name


@dataclass(frozen=True)
class SyncRound:
    """What one round of a sync does beside reading what changed."""

    looks_whole: bool
    restores_config: bool


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
        link = LabelStudioLink.objects.create(
            dataset=dataset, server=server, created_by=actor, sealed_hook_secret=_new_secret()
        )
    if link.server_id != server.pk:
        raise DatasetError(f"The dataset is reviewed in {link.server} already. Disconnect it there, then send it here.")
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
    has_something = Q(projects__remote_id__isnull=False) | Q(sendings__waits=True)
    links = LabelStudioLink.objects.filter(has_something).distinct()
    is_whole = timezone.now().minute < settings.LABEL_STUDIO_MINUTES
    for link in links:
        with contextlib.suppress(LabelStudioLink.DoesNotExist):  # parted from at this very moment
            hint(link, looks_whole=is_whole)
    return len(links)


@transaction.atomic
def begin_round(link: LabelStudioLink) -> SyncRound:
    """Take what was wished for; hints that come from now on ask for another round."""
    locked = LabelStudioLink.objects.select_for_update().get(pk=link.pk)
    LabelStudioLink.objects.filter(pk=link.pk).update(is_hinted=False, looks_whole=False, restores_config=False)
    return SyncRound(locked.looks_whole, locked.restores_config)


def put_back(link: LabelStudioLink, round_: SyncRound) -> None:
    """The round came to nothing, as Label Studio was away: the next one does what it was to do."""
    wishes = {"looks_whole": round_.looks_whole, "restores_config": round_.restores_config}
    LabelStudioLink.objects.filter(pk=link.pk).update(**{name: True for name, wished in wishes.items() if wished})


@transaction.atomic
def end_sync(link: LabelStudioLink) -> bool:
    """True when the sync may end; False when a hint came in meanwhile, and it goes round once more."""
    locked = LabelStudioLink.objects.select_for_update().get(pk=link.pk)
    if locked.is_hinted:
        return False
    LabelStudioLink.objects.filter(pk=link.pk).update(sync_job=None)
    return True


def take_turn(link: LabelStudioLink, job: Job) -> bool:
    """Whether it is this job's turn to send; only one job of a link sends at a time, the others wait."""
    locked = LabelStudioLink.objects.select_for_update().get(pk=link.pk)
    holder = locked.sending_job
    if holder and holder.pk != job.pk and holder.state == JobState.RUNNING:
        return False
    LabelStudioLink.objects.filter(pk=link.pk).update(sending_job=job)
    return True


def note_sent(sending: LabelStudioSending, counts: Mapping[str, int], until: int) -> None:
    """Examples up to that key were looked at: where the next attempt goes on."""
    LabelStudioSending.objects.filter(pk=sending.pk).update(counts=dict(counts), sent_until=until, waits=False)


def note_in_step(link: LabelStudioLink) -> None:
    """Both sides hold the same as of now."""
    LabelStudioLink.objects.filter(pk=link.pk).update(
        state=LabelStudioLink.State.IN_STEP, problem="", synced_at=timezone.now()
    )


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
    """Label Studio is there again: what could not be sent meanwhile is sent now, one sending after the other."""
    note_check(link.server)
    if link.sendings.exclude(job=None).exclude(job__state__in=FINISHED).exists():
        return
    sending = link.sendings.filter(waits=True, job__state=JobState.FAILED).order_by("pk").first()
    if sending is not None and sending.job is not None:
        LabelStudioSending.objects.filter(pk=sending.pk).update(waits=False)
        jobs.requeue(actor=None, job=sending.job)


def readable_secret(link: LabelStudioLink) -> str:
    """The secret of its webhooks; a new one where the site's key is another than when it was made."""
    try:
        return link.hook_secret
    except UnsealError:
        link.sealed_hook_secret = _new_secret()
        link.save(update_fields=["sealed_hook_secret"])
        return link.hook_secret


@transaction.atomic
def restore_config(*, actor: User, link: LabelStudioLink) -> None:
    """Put our labelling config back in every project there."""
    LabelStudioLink.objects.filter(pk=link.pk).update(restores_config=True)
    audit(link.dataset.project, actor, "put the labelling config back of", link.dataset)
    hint(link)


@transaction.atomic
def begin_anew(*, actor: User, link: LabelStudioLink) -> None:
    """Forget which tasks there were; what was decided stays. The next sending makes new projects: the former ones no
    longer bear our mark, and their hooks find nothing.
    """
    if link.sendings.filter(job__state__in=UNFINISHED).exists():
        raise DatasetError("Examples are being sent at this moment. Wait until that is done, then begin anew.")
    audit(link.dataset.project, actor, "began anew in Label Studio with", link.dataset)
    link.projects.all().delete()
    LabelStudioLink.objects.filter(pk=link.pk).update(
        state=LabelStudioLink.State.IN_STEP, problem="", hook_key=uuid.uuid4(), restores_config=False
    )


@transaction.atomic
def part(*, actor: User, link: LabelStudioLink) -> None:
    """End the review there. What was decided stays here, the projects stay there; hooks of theirs find nothing."""
    audit(link.dataset.project, actor, "parted from Label Studio", link.dataset, before={"server": str(link.server)})
    of_link = Q(label_studio_link=link) | Q(label_studio_sending__link=link)
    Job.objects.filter(of_link, state=JobState.QUEUED).delete()
    link.delete()


@transaction.atomic
def resolve(*, actor: User, conflict: Conflict, kept: str, text: str = "") -> None:
    """Decide a conflict: keep the portal's text and state, or take Label Studio's over. `text` is the key of the
    portal's text that was read: when it is another one by now, nothing is decided.
    """
    if kept not in (Conflict.OURS, Conflict.THEIRS):
        raise DatasetError("Choose whose text counts.")
    # The same order as a sync's: task, example, conflict.
    task = LabelStudioTask.objects.select_for_update().get(pk=conflict.task_id)
    example = Example.objects.select_for_update().get(pk=task.example_id)
    if text and text != str(example.text_id):
        raise DatasetError("Somebody has edited the portal's text meanwhile. Read both again, then decide.")
    moved = (
        Conflict.objects.open().filter(pk=conflict.pk).update(resolved_by=actor, resolved_at=timezone.now(), kept=kept)
    )
    if not moved:
        raise DatasetError("Somebody has decided this already.")
    if kept == Conflict.THEIRS:
        example = examples.take_over(
            voice=Voice(conflict.by, conflict.by_name, PLACE),
            example=example,
            content=conflict.content,
            said=Said(conflict.verdict, conflict.reason, conflict.quality, conflict.comment),
        )
    told = {Conflict.OURS: "the portal's kept", Conflict.THEIRS: "Label Studio's taken"}[kept]
    examples.remark(actor=actor, example=example, reason=f"conflict with {_person(conflict)} decided: {told}")
    task.text_id, task.known_state = example.text_id, example.state  # type: ignore[assignment]  # it has a text
    task.outcome = LabelStudioTask.Outcome.DECIDED
    task.save(update_fields=["text", "known_state", "outcome"])
    audit(example.dataset.project, actor, "decided the conflict over", example, after={"kept": kept})


def _person(conflict: Conflict) -> str:
    return str(conflict.by or conflict.by_name)


@transaction.atomic
def start_import(*, actor: User, dataset: Dataset, server: LabelStudioServer) -> LabelStudioImport:
    """Begin to import a project of a server: which projects there are is asked in the background."""
    _check_allowed(server)
    made = LabelStudioImport.objects.create(dataset=dataset, server=server, created_by=actor)
    _look(actor, made)
    return made


@transaction.atomic
def choose_project(*, actor: User, entry: LabelStudioImport, remote_id: int, layout: str) -> None:
    """Take one of the projects found, and look at its first tasks."""
    _check_allowed(entry.server)
    title = next((found["title"] for found in entry.found if found["id"] == remote_id), None)
    if title is None or layout not in LAYOUTS:
        raise DatasetError("Choose one of the projects, and what its tasks hold.")
    entry.remote_id, entry.title, entry.layout, entry.first_tasks = remote_id, title[:120], layout, []
    entry.save(update_fields=["remote_id", "title", "layout", "first_tasks"])
    _look(actor, entry)


@transaction.atomic
def look_again(*, actor: User, entry: LabelStudioImport) -> None:
    """Ask the server once more, after it could not be reached."""
    _check_allowed(entry.server)
    if entry.job is None or entry.job.is_finished:
        _look(actor, entry)


@transaction.atomic
def import_project(*, actor: User, entry: LabelStudioImport, mapping: dict[str, str]) -> ImportBatch:
    """Read every task of the chosen project as an example; what cannot be used is listed with its task."""
    locked = LabelStudioImport.objects.select_for_update().get(pk=entry.pk)
    _check_allowed(locked.server)
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


def _check_allowed(server: LabelStudioServer) -> None:
    if not server.allows_import:
        raise DatasetError(f"Projects of {server} may not be imported. An operator can allow it in the administration.")


def _look(actor: User, entry: LabelStudioImport) -> None:
    entry.job = jobs.enqueue(
        project=entry.dataset.project,
        owner=actor,
        kind="datasets.label_studio_look",
        label=f"{entry.title or 'projects'} in {entry.server}",
        url=entry.get_absolute_url(),
    )
    entry.save(update_fields=["job"])


@dataclass(frozen=True)
class ReviewCounts:
    """How the review of a dataset stands: its examples by state, its tasks there, and how far annotators agree."""

    approved: int = 0
    rejected: int = 0
    open: int = 0
    sent: int = 0
    decided: int = 0
    conflicts: int = 0
    doubly: int = 0
    agreed: int = 0

    @property
    def agreement(self) -> float | None:
        """The share of the tasks with two or more annotators in which all gave one verdict."""
        return self.agreed / self.doubly if self.doubly else None


def counts(datasets: Iterable[Dataset]) -> dict[int, ReviewCounts]:
    """The counts of each dataset by its key, in two queries however many there are."""
    keys, outcome = [dataset.pk for dataset in datasets], LabelStudioTask.Outcome
    states = Tally.objects.counts(keys)
    tasks = _sums(
        LabelStudioTask.objects.filter(example__dataset__in=keys),
        "example__dataset",
        sent=Q(remote_id__isnull=False) & ~Q(outcome=outcome.GONE),
        decided=Q(outcome=outcome.DECIDED),
        conflicts=Q(outcome=outcome.CONFLICT),
        doubly=Q(agree__isnull=False),
        agreed=Q(agree=True),
    )
    return {
        key: ReviewCounts(
            approved=states[key].approved, rejected=states[key].rejected, open=states[key].draft, **tasks.get(key, {})
        )
        for key in keys
    }


def _sums(rows: QuerySet[Any], key: str, **conditions: Q) -> dict[int, dict[str, int]]:
    """Of each group of rows how many meet each condition."""
    named = {f"{name}_count": Count("pk", condition) for name, condition in conditions.items()}
    found = rows.order_by().values(key).annotate(**named)
    return {row[key]: {name: row[f"{name}_count"] for name in conditions} for row in found}


def projects_of(link: LabelStudioLink) -> list[LabelStudioProject]:
    """The projects there with their server, for addresses."""
    return list(link.projects.exclude(remote_id=None).select_related("link__server"))


def people_unknown(dataset: Dataset) -> list[tuple[str, int]]:
    """Names of those who decided there and are nobody here, each with the number of decisions."""
    decisions = Decision.objects.filter(example__dataset=dataset, by=None, place=PLACE).exclude(by_name=PLACE)
    return list(decisions.order_by().values_list("by_name").annotate(count=Count("pk")).order_by("-count", "by_name"))


def _new_secret() -> str:
    return seal(secrets.token_urlsafe(32), settings.SECRET_KEY)


def _forget_syncs(link: LabelStudioLink) -> None:
    """Syncs come by schedule: of those that ended well one row is enough."""
    Job.objects.filter(kind=SYNC, url=link.get_absolute_url(), state=JobState.SUCCEEDED).delete()
