"""What people did in Label Studio on its way into the portal: edits become texts, verdicts states, skips nothing.

The rules, which the page states in the same words: a side that alone changed wins; the same on both sides is in step;
different on both sides is a conflict that a person decides. Reading a change twice adds nothing.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta

from django.contrib.auth.models import User
from django.utils import timezone

from datasets_app.engine import labelling
from datasets_app.labelstudio import Annotation, Client, LabelStudioError, Person, RemoteTask, Trouble
from datasets_app.models import Conflict, Example, LabelStudioLink, LabelStudioProject, LabelStudioTask, State
from datasets_app.sending import GONE, Paused, check_project, ensure_hook, existing, text_key
from datasets_app.services import examples as services
from datasets_app.services.errors import DatasetError
from datasets_app.services.examples import Said, Voice
from datasets_app.services.labelstudio import PLACE, SyncRound
from finetune_site.jobs.handle import Handle
from finetune_site.lib.numbers import whole_number
from finetune_site.projects.access import has_role
from finetune_site.projects.models import Project, Role

OVERLAP = timedelta(minutes=2)  # clocks and transactions: what is read twice adds nothing
MAX_NAME, MAX_REASON = 200, 300
STATES = {"approve": State.APPROVED, "fix": State.DRAFT, "reject": State.REJECTED}
Outcome = LabelStudioTask.Outcome


def pull(handle: Handle, link: LabelStudioLink, client: Client, round_: SyncRound) -> int:
    """Take over what changed since the last time; returns in how many tasks. `Paused` where a person is needed."""
    count, people = 0, _People(client, link.dataset.project)
    for project in link.projects.exclude(remote_id=None):
        if round_.restores_config:
            _restore_config(handle, project, client)
        check_project(client, project)
        if round_.looks_whole:
            ensure_hook(handle, client, project)
            _look_whole(handle, project, client)
        count += _pull_project(handle, project, client, people, is_whole=round_.looks_whole)
    return count


def _restore_config(handle: Handle, project: LabelStudioProject, client: Client) -> None:
    """Put our config back; `Paused` when Label Studio refuses, as annotations hold what it does not know."""
    config = labelling.config(project.shape)
    remote = existing(client, project)
    try:
        client.restore_config(remote.id, config)
    except LabelStudioError as error:
        if error.trouble != Trouble.REFUSED:
            raise
        raise Paused(
            f"The labelling config cannot be put back: {error} Delete the annotations in Label Studio that were made "
            "with the changed config, then put it back; or begin anew."
        ) from None
    project.config = labelling.fingerprint(config)
    handle.write(lambda: project.save(update_fields=["config"]))


def _pull_project(
    handle: Handle, project: LabelStudioProject, client: Client, people: "_People", *, is_whole: bool
) -> int:
    """Read what was touched since the last time; whole: all that was ever judged, which finds what was missed."""
    assert project.remote_id is not None
    count, newest = 0, project.seen_until
    since = newest - OVERLAP if newest and not is_whole else None
    for task in _changed(project, client, since):
        handle.check()
        voices = {entry.by: people.voice(entry.by) for entry in task.annotations}
        count += handle.write(lambda task=task, voices=voices: _take(project, task, voices))  # type: ignore[misc]
        if task.updated_at and (newest is None or task.updated_at > newest):
            newest = task.updated_at
        handle.progress(count, unit="decisions")
    handle.write(lambda: LabelStudioProject.objects.filter(pk=project.pk).update(seen_until=newest))
    return count


def _changed(project: LabelStudioProject, client: Client, since: datetime | None) -> Iterator[RemoteTask]:
    """The judged tasks, then those that were judged and are not any more.

    So that the time follows the decisions: the many tasks that wait there were touched too, when they were sent.
    """
    assert project.remote_id is not None
    judged: set[int] = set()
    for remote in client.judged_since(project.remote_id, since):
        judged.add(remote.id)
        yield remote
    told = project.tasks.exclude(remote_id=None).exclude(annotation_id=None, outcome=Outcome.OPEN)
    told = told.exclude(outcome=Outcome.GONE)
    if since is not None and told.exists():
        told = told.filter(remote_id__in=client.bare_since(project.remote_id, since))
    for row in told.exclude(remote_id__in=judged):
        assert row.remote_id is not None
        try:
            yield client.task(row.remote_id)
        except LabelStudioError as error:
            if error.trouble != Trouble.GONE:
                raise  # a deleted task is found by the next whole look


def _take(project: LabelStudioProject, remote: RemoteTask, voices: Mapping[int | None, Voice]) -> int:
    """One task as it is there now; 1 when it says something new."""
    key = str(remote.data.get("example", ""))
    rows = project.tasks.select_for_update()
    task = rows.filter(example_id=whole_number(key)).first()
    if task is None or task.remote_id not in (None, remote.id):
        return 0  # none of ours, or a copy that somebody made there
    task.remote_id = remote.id
    annotation = remote.newest
    if annotation is None and task.annotation_id:
        _take_back(task)
        return 1
    if annotation is None:
        if task.outcome in (Outcome.OPEN, Outcome.SKIPPED):
            task.outcome = Outcome.SKIPPED if remote.annotations else Outcome.OPEN
        task.save(update_fields=["remote_id", "outcome"])
        return 0
    if (annotation.id, annotation.updated_at) == (task.annotation_id, task.annotated_at):
        return 0
    _count_annotators(task, remote)
    task.annotation_id, task.annotated_at, task.problem = annotation.id, annotation.updated_at, ""
    try:
        reading = labelling.read(project.shape, task.text.content, annotation.result)
        _decide(task, annotation, reading, voices[annotation.by])
    except (labelling.LabellingError, DatasetError) as error:
        task.outcome, task.problem = Outcome.UNCLEAR, str(error)[:300]
    task.save()
    return 1


def _decide(task: LabelStudioTask, annotation: Annotation, reading: labelling.Reading, voice: Voice) -> None:
    """Apply a verdict to its example, or keep it as a conflict."""
    example = Example.objects.select_for_update().get(pk=task.example_id)
    assert example.text is not None
    state = STATES[reading.verdict]
    is_same = example.text.content == reading.content and example.state == state
    is_ours_changed = example.text_id != task.text_id or example.state != task.known_state
    # They had the task open while we put another text into it: what they sent speaks of the text before.
    is_stale = bool(task.text_sent_at and annotation.opened_at and annotation.opened_at < task.text_sent_at)
    # What both hold alike is no conflict, nor is a verdict where here none has fallen.
    agrees = example.text.content == reading.content and State.DRAFT in (example.state, state)
    if (is_ours_changed or is_stale) and not (is_same or agrees):
        task.outcome = Outcome.CONFLICT
        _keep_conflict(task, example, reading, voice)
        return
    said = Said(state, _reason(reading), reading.quality, reading.comment)
    if not is_same or not services.is_known(example, voice, said):
        example = services.take_over(voice=voice, example=example, content=reading.content, said=said)
    task.outcome, task.text_id, task.known_state = Outcome.DECIDED, text_key(example), example.state
    Conflict.objects.open().filter(task=task).update(resolved_at=timezone.now(), kept=Conflict.THEIRS)


def _keep_conflict(task: LabelStudioTask, example: Example, reading: labelling.Reading, voice: Voice) -> None:
    Conflict.objects.update_or_create(
        task=task,
        resolved_at=None,
        defaults={
            "text_id": text_key(example),
            "content": reading.content,
            "verdict": STATES[reading.verdict],
            "reason": _reason(reading),
            "comment": reading.comment,
            "quality": reading.quality,
            "by": voice.user,
            "by_name": voice.name,
            "at": timezone.now(),
        },
    )


def _look_whole(handle: Handle, project: LabelStudioProject, client: Client) -> None:
    """Find the tasks that are gone there: no change of another tells."""
    assert project.remote_id is not None
    # Ours first: what is sent while we look would seem gone.
    rows = project.tasks.exclude(remote_id=None).exclude(outcome=Outcome.GONE)
    known = list(rows.values_list("pk", "remote_id"))
    there = client.task_ids(project.remote_id)
    gone = [pk for pk, remote_id in known if remote_id not in there]
    handle.write(lambda: LabelStudioTask.objects.filter(pk__in=gone).update(outcome=Outcome.GONE, problem=GONE))


def _take_back(task: LabelStudioTask) -> None:
    """The annotation was deleted there: its decision falls, unless somebody here has decided since."""
    example = Example.objects.select_for_update().get(pk=task.example_id)
    is_untouched = example.text_id == task.text_id and example.state == task.known_state
    if task.outcome == Outcome.DECIDED and is_untouched and example.state != State.DRAFT:
        services.withdraw(voice=Voice(None, PLACE, PLACE), example=example, reason="the annotation was deleted there")
        task.known_state = State.DRAFT
    Conflict.objects.open().filter(task=task).delete()
    task.outcome, task.problem, task.agree, task.annotators = Outcome.OPEN, "", None, 0
    task.annotation_id = task.annotated_at = None
    task.save()


def _count_annotators(task: LabelStudioTask, remote: RemoteTask) -> None:
    """How many people judged it, and whether all of them alike. Of one person the last word counts."""
    verdicts: dict[int | None, str] = {}
    for entry in sorted(remote.annotations, key=lambda entry: entry.updated_at):
        if entry.is_skipped:
            continue
        try:
            verdicts[entry.by] = labelling.read(task.project.shape, task.text.content, entry.result).verdict
        except labelling.LabellingError:
            continue
    task.annotators = len(verdicts)
    task.agree = len(set(verdicts.values())) == 1 if len(verdicts) > 1 else None


def _reason(reading: labelling.Reading) -> str:
    words = ["needs another pass"] if reading.verdict == "fix" else []
    return ", ".join([*words, *reading.issues])[:MAX_REASON]


class _People:
    """Who is who: users there matched by e-mail with the project's reviewers here; others keep their name."""

    def __init__(self, client: Client, project: Project) -> None:
        self._client, self._project = client, project
        self._known: dict[int | None, Voice] = {}
        self._people: dict[int, Person] | None = None

    def voice(self, pk: int | None) -> Voice:
        if pk not in self._known:
            self._known[pk] = self._find(pk)
        return self._known[pk]

    def _find(self, pk: int | None) -> Voice:
        if pk is None:
            return Voice(None, "somebody unknown", PLACE)
        if self._people is None:
            self._people = self._client.people()
        person = self._people.get(pk)
        if person is None:
            return Voice(None, f"user {pk}", PLACE)
        matches = list(User.objects.filter(email__iexact=person.email, is_active=True)[:2]) if person.email else []
        if len(matches) == 1 and has_role(matches[0], self._project, Role.REVIEWER):
            return Voice(matches[0], "", PLACE)
        named = person.email and person.name != person.email
        return Voice(None, (f"{person.name} ({person.email})" if named else person.name)[:MAX_NAME], PLACE)
