"""Examples on their way into Label Studio: each once, whatever dies or gets lost between the two.

A row with a push's mark is written before anything is sent, and the mark travels in the task. After a lost answer or a
killed worker the mark tells which tasks are there already. One sending of a dataset goes at a time.
"""

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from django.db.models import F, Q
from django.utils.html import format_html

from datasets_app.engine import labelling
from datasets_app.labelstudio import Client, LabelStudioError, RemoteProject, RemoteTask, Trouble
from datasets_app.models import (
    Conflict,
    Example,
    LabelStudioLink,
    LabelStudioProject,
    LabelStudioSending,
    LabelStudioTask,
    State,
)
from datasets_app.services import labelstudio as services
from finetune_site.jobs.handle import Handle

BATCH = 100
SETTLE_SECONDS = (0.5, 1, 2, 4, 8, 15)  # a server that took the request but lost our line is done by then
TURN_SECONDS = 1.0
Outcome = LabelStudioTask.Outcome
MARK = "finetune-site:"  # in the description of every project that a portal made
_SHOWN = (
    "example__text", "example__chunk", "example__author", "example__decided_by", "text", "project__link__server",
)  # fmt: skip
GONE = "The task was deleted in Label Studio; send the example again to have it there."


class Paused(Exception):
    """Something there needs a person; the message says what to do."""


def send(handle: Handle, sending: LabelStudioSending, client: Client) -> None:
    """Send the chosen examples; how many were sent, updated and left alone stands with the sending, batch by batch."""
    link = sending.link
    while not handle.write(lambda: services.take_turn(link, handle.job)):
        handle.check()
        time.sleep(TURN_SECONDS)
    known = list(link.projects.exclude(remote_id=None))
    for project in known:
        check_project(client, project)
        ensure_hook(handle, client, project)
    count = Counter[str](sending.counts or {"sent": 0, "updated": 0, "left": 0})
    count["sent"] += _adopt(handle, client, link)
    keys = list(sending.examples.filter(pk__gt=sending.sent_until).order_by("pk").values_list("pk", flat=True))
    total = sum(sending.counts.values()) + len(keys)
    for start in range(0, len(keys), BATCH):
        handle.check()
        part = keys[start : start + BATCH]
        count.update(_send_part(handle, client, link, part))
        handle.write(lambda: services.note_sent(sending, count, part[-1]))  # noqa: B023  called at once
        handle.progress(total - len(keys) + start + len(part), total, unit="examples")


def check_project(client: Client, project: LabelStudioProject) -> None:
    """`Paused` when the project is gone there, is another one, or its config is another than we sent."""
    remote = existing(client, project)
    if labelling.fingerprint(remote.config) != project.config:
        raise Paused(
            f"The labelling config was changed in Label Studio, in the project “{remote.title}”, so answers may no "
            "longer fit. Put it back as it was; annotations stay."
        )


def existing(client: Client, project: LabelStudioProject) -> RemoteProject:
    """The project as it is there; `Paused` when it is gone, or the number names one that we did not make."""
    assert project.remote_id is not None
    way_on = "What was decided is kept here. Begin anew, then send again: that makes another project there."
    try:
        remote = client.project(project.remote_id)
    except LabelStudioError as error:
        if error.trouble != Trouble.GONE:
            raise
        raise Paused(f"The project {project.remote_id} was deleted in Label Studio. {way_on}") from None
    if _mark(project) not in remote.description:
        raise Paused(
            f"The project {project.remote_id} in Label Studio is not the one that was made for this dataset: its "
            f"description lacks “{_mark(project)}”. If somebody only changed the description, put that back. {way_on}"
        )
    return remote


def is_ours(remote: RemoteProject) -> bool:
    """A portal made it from a dataset, which not everybody may see."""
    return MARK in remote.description


def tell_decided(handle: Handle, client: Client, link: LabelStudioLink) -> int:
    """Show in the tasks what was edited and decided here meanwhile: in open ones so that nobody judges twice or what
    is gone, in decided ones so that nobody takes what they show for what counts. Returns in how many."""
    tasks = LabelStudioTask.objects.filter(project__link=link).exclude(remote_id=None).select_related(*_SHOWN)
    has_moved = ~Q(text=F("example__text")) | ~Q(known_state=F("example__state")) | ~Q(told_state="")
    is_open = Q(outcome__in=(Outcome.OPEN, Outcome.SKIPPED)) & (has_moved | ~Q(example__state=State.DRAFT))
    is_decided = Q(outcome=Outcome.DECIDED) & (has_moved | Q(conflicts__kept=Conflict.OURS))
    count = 0
    for task in tasks.filter(is_open | is_decided).distinct().iterator(chunk_size=200):
        if task.outcome != Outcome.DECIDED and _is_behind(task):
            handle.check()
            count += _refresh(handle, client, task)
        elif task.outcome == Outcome.DECIDED and task.told_state != (told := _told_since(task)):
            handle.check()
            count += _tell(handle, client, task, told)
    return count


def _send_part(handle: Handle, client: Client, link: LabelStudioLink, keys: list[int]) -> Counter[str]:
    """Send some examples, each into the project it is in already, else into the one of its layout."""
    chosen = Example.objects.filter(pk__in=keys).select_related("text", "chunk", "author", "decided_by")
    tasks = LabelStudioTask.objects.filter(project__link=link, example__in=keys).exclude(remote_id=None)
    known = {task.example_id: task for task in tasks.select_related("project__link__server", "text")}
    count, fresh = Counter[str](), []
    for example in chosen:
        task = known.get(example.pk)
        if task is None or task.outcome == Outcome.GONE or _has_outgrown(task, example):
            fresh.append(example)
            continue
        task.example = example
        is_open = task.outcome in (Outcome.OPEN, Outcome.SKIPPED)
        count["updated" if is_open and _is_behind(task) and _refresh(handle, client, task) else "left"] += 1
    for name, members in groupby(sorted(fresh, key=_layout_name), key=_layout_name):
        project = _ensure_project(handle, client, link, labelling.LAYOUTS[name])
        count["sent"] += _send_fresh(handle, client, project, list(members), known)
    return count


def _is_behind(task: LabelStudioTask) -> bool:
    """Whether the task shows another text or state than the example has by now."""
    return task.text_id != task.example.text_id or task.told_state != _told_state(task.example)


def _has_outgrown(task: LabelStudioTask, example: Example) -> bool:
    """An open task whose project cannot show the example's present text: a question that became a conversation."""
    assert example.text is not None
    is_open = task.outcome in (Outcome.OPEN, Outcome.SKIPPED)
    return is_open and not labelling.fits(task.project.shape, example.text.content)


def _send_fresh(
    handle: Handle,
    client: Client,
    project: LabelStudioProject,
    members: list[Example],
    known: dict[int, LabelStudioTask],
) -> int:
    mark = uuid.uuid4()
    former = [known[example.pk] for example in members if example.pk in known]
    for task in former:
        if task.outcome != Outcome.GONE:
            _delete(client, task)

    def write_down() -> None:
        LabelStudioTask.objects.filter(pk__in=[task.pk for task in former]).delete()
        LabelStudioTask.objects.bulk_create([_row(project, example, mark) for example in members])

    handle.write(write_down)
    _deliver(handle, client, project, list(project.tasks.filter(push_id=mark).select_related(*_SHOWN)))
    return len(members)


def _adopt(handle: Handle, client: Client, link: LabelStudioLink) -> int:
    """Finish what an attempt before us had begun; returns how many examples that were."""
    count = 0
    begun = LabelStudioTask.objects.filter(project__link=link, remote_id=None).exclude(project__remote_id=None)
    for project_id, mark in begun.order_by("project_id", "push_id").values_list("project_id", "push_id").distinct():
        project = LabelStudioProject.objects.select_related("link__server", "link__dataset").get(pk=project_id)
        tasks = list(project.tasks.filter(push_id=mark, remote_id=None).select_related(*_SHOWN))
        _deliver_rest(handle, client, project, tasks)
        count += len(tasks)
    return count


def _deliver(handle: Handle, client: Client, project: LabelStudioProject, tasks: Sequence[LabelStudioTask]) -> None:
    """Import tasks of one push and keep their ids; after a lost answer look which are there before trying again."""
    assert project.remote_id is not None
    try:
        ids = client.import_tasks(project.remote_id, [_data(task) for task in tasks])
    except LabelStudioError as error:
        if error.trouble != Trouble.UNCERTAIN:
            raise
        _deliver_rest(handle, client, project, tasks)
        return
    _keep_ids(handle, zip(tasks, ids, strict=True))


def _deliver_rest(
    handle: Handle, client: Client, project: LabelStudioProject, tasks: Sequence[LabelStudioTask]
) -> None:
    """Nobody knows whether a push arrived: look for it until it would be there, then import what is missing.

    A push is imported whole or not at all, but somebody there may have deleted some of its tasks since.
    """
    assert project.remote_id is not None
    missing = _adopt_found(handle, client, project, tasks)
    for pause in SETTLE_SECONDS:
        if len(missing) < len(tasks):
            break
        handle.check()
        time.sleep(pause)
        missing = _adopt_found(handle, client, project, tasks)
    if missing:
        ids = client.import_tasks(project.remote_id, [_data(task) for task in missing])
        _keep_ids(handle, zip(missing, ids, strict=True))


def _adopt_found(
    handle: Handle, client: Client, project: LabelStudioProject, tasks: Sequence[LabelStudioTask]
) -> list[LabelStudioTask]:
    """Keep the ids of those that are there, remove doubles; returns those that are not there."""
    assert project.remote_id is not None
    found = client.tasks_of_push(project.remote_id, str(tasks[0].push_id)) if tasks else {}
    kept = {key: _only_one(client, ids) for key, ids in found.items()}
    _keep_ids(handle, [(task, kept[key]) for task in tasks if (key := str(task.example_id)) in kept])
    return [task for task in tasks if str(task.example_id) not in kept]


def _only_one(client: Client, ids: list[int]) -> int:
    """Of several tasks of one example the one that somebody has judged, else the first; the others are deleted."""
    if len(ids) == 1:
        return ids[0]
    kept = next((pk for pk in ids if client.task(pk).annotations), ids[0])
    for pk in ids:
        if pk != kept:
            client.delete_task(pk)
    return kept


def _keep_ids(handle: Handle, pairs: Iterable[tuple[LabelStudioTask, int]]) -> None:
    kept = list(pairs)
    for task, remote_id in kept:
        task.remote_id = remote_id
    if kept:
        handle.write(lambda: LabelStudioTask.objects.bulk_update([task for task, _ in kept], ["remote_id"]))


def _refresh(handle: Handle, client: Client, task: LabelStudioTask) -> bool:
    """Put the example's present text and state into its task, unless somebody has judged it or begun to by now."""
    example, known = task.example, {"text_id": task.text_id, "outcome": task.outcome}
    assert example.text is not None
    remote = _same_task(handle, client, task)
    if remote is None or remote.has_draft or any(not entry.is_skipped for entry in remote.annotations):
        return False  # the next sync finds what was said
    if not labelling.fits(task.project.shape, example.text.content):
        return False  # sending it again makes another task
    task.text, task.told_state = example.text, _told_state(example)
    told = {"text": task.text, "known_state": example.state, "told_state": task.told_state}
    at = client.update_task(remote.id, _data(task))
    # A sync may have decided it between our look and here: then its word stands.
    rows = LabelStudioTask.objects.filter(pk=task.pk, **known)
    return bool(handle.write(lambda: rows.update(**told, text_sent_at=at)))


def _tell(handle: Handle, client: Client, task: LabelStudioTask, told: str) -> bool:
    """Change the one line of a judged task that speaks of the portal; its texts stay as they were judged."""
    remote = _same_task(handle, client, task)
    if remote is None:
        return False
    client.update_task(remote.id, {**remote.data, "portal_state": told})
    handle.write(lambda: LabelStudioTask.objects.filter(pk=task.pk).update(told_state=told))
    return True


def _same_task(handle: Handle, client: Client, task: LabelStudioTask) -> RemoteTask | None:
    """The task as it is there; None, and noted, when it is gone or its number names another one by now."""
    assert task.remote_id is not None
    try:
        remote = client.task(task.remote_id)
    except LabelStudioError as error:
        if error.trouble != Trouble.GONE:
            raise
        remote = None
    if remote is not None and remote.data.get("push_id") == str(task.push_id):
        return remote
    handle.write(lambda: LabelStudioTask.objects.filter(pk=task.pk).update(outcome=Outcome.GONE, problem=GONE))
    return None


def _delete(client: Client, task: LabelStudioTask) -> None:
    assert task.remote_id is not None
    try:
        if client.task(task.remote_id).data.get("push_id") == str(task.push_id):
            client.delete_task(task.remote_id)
    except LabelStudioError as error:
        if error.trouble != Trouble.GONE:
            raise


def _ensure_project(
    handle: Handle, client: Client, link: LabelStudioLink, layout: labelling.Layout
) -> LabelStudioProject:
    """The project of a layout, made there if there is none; an attempt that died between finds its own by its mark."""
    project, _ = LabelStudioProject.objects.get_or_create(link=link, layout=layout.name)
    project.link = link
    if project.remote_id is not None:
        return project
    config, mark = labelling.config(layout), _mark(project)
    remote = next((found for found in client.projects() if mark in found.description), None)
    if remote is None:
        title = f"{link.dataset} · {layout.title}"
        description = f"Examples of the dataset “{link.dataset}”, {layout.title}. Do not remove: {mark}"
        remote = client.create_project(title=title, description=description, config=config)
    project.remote_id, project.config = remote.id, labelling.fingerprint(config)
    handle.write(lambda: project.save(update_fields=["remote_id", "config"]))
    ensure_hook(handle, client, project)
    return project


def ensure_hook(handle: Handle, client: Client, project: LabelStudioProject) -> None:
    """See that the project tells us of changes, where this site has an address for it."""
    link = project.link
    if not link.server.hooks_to or project.remote_id is None:
        return
    secret = handle.write(lambda: services.readable_secret(link))
    url = f"{link.server.hooks_to}/label-studio/hooks/{link.hook_key}"
    client.ensure_hook(project.remote_id, url=url, secret_header=services.SECRET_HEADER, secret=secret)


def _mark(project: LabelStudioProject) -> str:
    """What tells the project of one dataset and layout among all."""
    return f"{MARK}{project.link.hook_key}:{project.layout}"


def _row(project: LabelStudioProject, example: Example, mark: uuid.UUID) -> LabelStudioTask:
    return LabelStudioTask(
        project=project,
        example=example,
        push_id=mark,
        text_id=text_key(example),
        known_state=example.state,
        told_state=_told_state(example),
    )


def text_key(example: Example) -> int:
    """The key of its present text: every kept example has one."""
    assert example.text_id is not None
    return example.text_id


def _layout_name(example: Example) -> str:
    assert example.text is not None
    return labelling.layout_of(example.text.content).name


def _data(task: LabelStudioTask) -> dict[str, str]:
    """What the task holds there. Every key that the config names has a text."""
    example, server = task.example, task.project.link.server
    link = "This example in the portal"
    if server.portal_url:
        address = server.portal_url.rstrip("/") + example.get_absolute_url()
        link = format_html('<a href="{}" target="_blank" rel="noopener">This example in the portal</a>', address)
    return {
        "example": str(example.pk),
        "push_id": str(task.push_id),
        "source_title": _source_title(example),
        "source_text": (example.chunk.text if example.chunk else example.quote) or "There is no source passage.",
        "portal_link": link,
        "portal_state": task.told_state,
        **labelling.to_values(task.project.shape, task.text.content),
    }


def _source_title(example: Example) -> str:
    if not example.document_name:
        return f"Written by {example.author}"
    page = f", page {example.pages}" if example.pages else ""
    section = f" · {' › '.join(example.section)}" if example.section else ""
    return f"{example.document_name}{page}{section}"


def _told_state(example: Example) -> str:
    if example.state == State.DRAFT:
        return ""
    return f"Decided in the portal: {example.state} by {example.decider}"[:200]


def _told_since(task: LabelStudioTask) -> str:
    """What a task that was judged there should say of what the portal holds by now; empty where both hold the same."""
    example = task.example
    stands = "open again" if example.state == State.DRAFT else f"{example.state} by {example.decider}"
    if task.text_id != example.text_id:
        return f"Since then in the portal: another text, {stands}"[:200]
    if task.known_state != example.state:
        return f"Since then in the portal: {stands}"[:200]
    if task.conflicts.filter(kept=Conflict.OURS, resolved_at__gt=task.annotated_at).exists():
        return f"The portal kept its own: {stands}"[:200]
    return ""
