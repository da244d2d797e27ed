"""Examples on their way into Label Studio: each once, whatever dies or gets lost between the two.

A row with a push's mark is written before anything is sent, and the mark travels in the task. After a lost answer or a
killed worker the mark tells which tasks are there already.
"""

import time
import uuid
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from django.db.models import F, Q
from django.utils import timezone
from django.utils.html import format_html

from datasets_app.engine import labelling
from datasets_app.labelstudio import Client, LabelStudioError, RemoteProject, Trouble
from datasets_app.models import (
    Conflict,
    Example,
    LabelStudioLink,
    LabelStudioProject,
    LabelStudioSending,
    LabelStudioTask,
    State,
)
from finetune_site.jobs.handle import Handle

BATCH = 100
SETTLE_SECONDS = (0.5, 1, 2, 4, 8, 15)  # a server that took the request but lost our line is done by then
Outcome = LabelStudioTask.Outcome
MARK = "finetune-site:"  # in the description of every project that a portal made
SECRET_HEADER = "X-Finetune-Site-Secret"  # noqa: S105  the header's name


class Paused(Exception):
    """Something there needs a person; the message says what to do."""


def send(handle: Handle, sending: LabelStudioSending, client: Client) -> dict[str, int]:
    """Send the chosen examples; returns how many were sent, updated, and left alone."""
    link, counts = sending.link, Counter[str](sent=0, updated=0, left=0)
    for project in link.projects.exclude(remote_id=None):
        check_project(client, project)
    counts["sent"] += _adopt(handle, client, link)
    keys = list(sending.examples.order_by("pk").values_list("pk", flat=True))
    for start in range(0, len(keys), BATCH):
        handle.check()
        chosen = Example.objects.filter(pk__in=keys[start : start + BATCH]).select_related(
            "text", "chunk", "author", "decided_by"
        )
        for name, members in groupby(sorted(chosen, key=_layout_name), key=_layout_name):
            project = _ensure_project(handle, client, link, labelling.LAYOUTS[name])
            counts.update(_send_batch(handle, client, project, list(members)))
        handle.progress(min(start + BATCH, len(keys)), len(keys), unit="examples")
    return dict(counts)


def check_project(client: Client, project: LabelStudioProject) -> None:
    """`Paused` when the project is gone there or its config is another than we sent."""
    assert project.remote_id is not None
    try:
        remote = client.project(project.remote_id)
    except LabelStudioError as error:
        if error.trouble != Trouble.GONE:
            raise
        raise Paused(
            f"The project {project.remote_id} was deleted in Label Studio. What was decided is kept here. Begin anew, "
            "then send again: that makes another project there."
        ) from None
    if labelling.fingerprint(remote.config) != project.config:
        raise Paused(
            "The labelling config was changed in Label Studio, so answers may no longer fit. Put it back as it was; "
            "annotations stay."
        )


def is_ours(remote: RemoteProject) -> bool:
    """A portal made it from a dataset, which not everybody may see."""
    return MARK in remote.description


def tell_decided(handle: Handle, client: Client, link: LabelStudioLink) -> int:
    """Show in the tasks what was decided here meanwhile: in open ones so that nobody judges twice, in decided ones so
    that nobody takes what they show for what counts. Returns in how many."""
    tasks = LabelStudioTask.objects.filter(project__link=link).exclude(remote_id=None).select_related(*_SHOWN)
    has_moved = ~Q(text=F("example__text")) | ~Q(known_state=F("example__state")) | ~Q(told_state="")
    is_open = Q(outcome__in=(Outcome.OPEN, Outcome.SKIPPED)) & (~Q(example__state=State.DRAFT) | ~Q(told_state=""))
    is_decided = Q(outcome=Outcome.DECIDED) & (has_moved | Q(conflicts__kept=Conflict.OURS))
    count = 0
    for task in tasks.filter(is_open | is_decided).distinct().iterator(chunk_size=200):
        if task.outcome != Outcome.DECIDED and task.told_state != _told_state(task.example):
            handle.check()
            count += _refresh(handle, client, task)
        elif task.outcome == Outcome.DECIDED and task.told_state != (told := _told_since(task)):
            handle.check()
            count += _tell(handle, client, task, told)
    return count


def _send_batch(handle: Handle, client: Client, project: LabelStudioProject, members: list[Example]) -> Counter[str]:
    known = {task.example_id: task for task in project.tasks.filter(example__in=members).select_related("text")}
    fresh = [example for example in members if example.pk not in known]
    gone = [known[example.pk] for example in members if example.pk in known and known[example.pk].outcome == "gone"]
    counts = Counter(sent=len(fresh) + len(gone))
    mark = uuid.uuid4()
    rows = [_row(project, example, mark) for example in fresh]

    def write_down() -> None:
        LabelStudioTask.objects.bulk_create(rows)
        for task in gone:
            _begin_again(task, mark)

    if fresh or gone:
        handle.write(write_down)
        _deliver(handle, client, project, list(project.tasks.filter(push_id=mark).select_related(*_SHOWN)))
    for example in members:
        task = known.get(example.pk)
        if task is None or task in gone:
            continue
        task.example = example
        is_open = task.outcome in (Outcome.OPEN, Outcome.SKIPPED)
        differs = task.text_id != example.text_id or task.told_state != _told_state(example)
        counts["updated" if is_open and differs and _refresh(handle, client, task) else "left"] += 1
    return counts


_SHOWN = ("example__text", "example__chunk", "example__author", "example__decided_by", "text")


def _adopt(handle: Handle, client: Client, link: LabelStudioLink) -> int:
    """Finish what an attempt before us had begun; returns how many examples that were."""
    count = 0
    begun = LabelStudioTask.objects.filter(project__link=link, remote_id=None).exclude(project__remote_id=None)
    for project_id, mark in begun.order_by("project_id", "push_id").values_list("project_id", "push_id").distinct():
        project = LabelStudioProject.objects.select_related("link__server", "link__dataset").get(pk=project_id)
        tasks = list(project.tasks.filter(push_id=mark, remote_id=None).select_related(*_SHOWN))
        missing = _adopt_found(handle, client, project, tasks)
        _deliver(handle, client, project, missing)
        count += len(tasks)
    return count


def _deliver(handle: Handle, client: Client, project: LabelStudioProject, tasks: Sequence[LabelStudioTask]) -> None:
    """Import tasks of one push and keep their ids; after a lost answer look which are there before trying again."""
    if not tasks:
        return
    assert project.remote_id is not None
    try:
        ids = client.import_tasks(project.remote_id, [_data(task) for task in tasks])
    except LabelStudioError as error:
        if error.trouble != Trouble.UNCERTAIN:
            raise
        for pause in SETTLE_SECONDS:
            time.sleep(pause)
            if not (missing := _adopt_found(handle, client, project, tasks)):
                return
        ids = client.import_tasks(project.remote_id, [_data(task) for task in missing])
        tasks = missing
    _keep_ids(handle, zip(tasks, ids, strict=True))


def _adopt_found(
    handle: Handle, client: Client, project: LabelStudioProject, tasks: Sequence[LabelStudioTask]
) -> list[LabelStudioTask]:
    """Keep the ids of those that are there, remove doubles; returns those that are not there."""
    assert project.remote_id is not None
    found = client.tasks_of_push(project.remote_id, str(tasks[0].push_id)) if tasks else {}
    for ids in found.values():
        for double in ids[1:]:
            client.delete_task(double)
    _keep_ids(handle, [(task, found[key][0]) for task in tasks if (key := str(task.example_id)) in found])
    return [task for task in tasks if str(task.example_id) not in found]


def _keep_ids(handle: Handle, pairs: Iterable[tuple[LabelStudioTask, int]]) -> None:
    kept = list(pairs)
    for task, remote_id in kept:
        task.remote_id = remote_id
    if kept:
        handle.write(lambda: LabelStudioTask.objects.bulk_update([task for task, _ in kept], ["remote_id"]))


def _refresh(handle: Handle, client: Client, task: LabelStudioTask) -> bool:
    """Put the example's present text and state into its task, unless somebody has annotated it by now."""
    assert task.remote_id is not None
    try:
        if any(not entry.is_skipped for entry in client.task(task.remote_id).annotations):
            return False  # the next sync finds what was said
        is_new_text = task.text_id != task.example.text_id
        assert task.example.text is not None
        task.text, task.known_state = task.example.text, task.example.state
        task.told_state = _told_state(task.example)
        client.update_task(task.remote_id, _data(task))
    except LabelStudioError as error:
        if error.trouble != Trouble.GONE:
            raise
        handle.write(lambda: LabelStudioTask.objects.filter(pk=task.pk).update(outcome=Outcome.GONE))
        return False
    if is_new_text:
        task.text_sent_at = timezone.now()
    handle.write(lambda: task.save(update_fields=["text", "known_state", "told_state", "text_sent_at"]))
    return True


def _tell(handle: Handle, client: Client, task: LabelStudioTask, told: str) -> bool:
    """Change the one line of a judged task that speaks of the portal; its texts stay as they were judged."""
    assert task.remote_id is not None
    try:
        client.update_task(task.remote_id, {**client.task(task.remote_id).data, "portal_state": told})
    except LabelStudioError as error:
        if error.trouble != Trouble.GONE:
            raise
        handle.write(lambda: LabelStudioTask.objects.filter(pk=task.pk).update(outcome=Outcome.GONE))
        return False
    handle.write(lambda: LabelStudioTask.objects.filter(pk=task.pk).update(told_state=told))
    return True


def _ensure_project(
    handle: Handle, client: Client, link: LabelStudioLink, layout: labelling.Layout
) -> LabelStudioProject:
    """The project of a layout, made there if there is none; an attempt that died between finds its own by its mark."""
    project, _ = LabelStudioProject.objects.get_or_create(link=link, layout=layout.name)
    project.link = link
    if project.remote_id is None:
        config, mark = labelling.config(layout), f"{MARK}{link.hook_key}:{layout.name}"
        remote = next((found for found in client.projects() if mark in found.description), None)
        if remote is None:
            title = f"{link.dataset} · {layout.title}"
            description = f"Examples of the dataset “{link.dataset}”, {layout.title}. Do not remove: {mark}"
            remote = client.create_project(title=title, description=description, config=config)
        project.remote_id, project.config = remote.id, labelling.fingerprint(remote.config)
        handle.write(lambda: project.save(update_fields=["remote_id", "config"]))
    ensure_hook(client, project)
    return project


def ensure_hook(client: Client, project: LabelStudioProject) -> None:
    """See that the project tells us of changes, where this site has an address for it."""
    link = project.link
    if not link.server.portal_url or project.remote_id is None:
        return
    url = f"{link.server.portal_url.rstrip('/')}/label-studio/hooks/{link.hook_key}"
    client.ensure_hook(project.remote_id, url=url, secret_header=SECRET_HEADER, secret=link.hook_secret)


def _row(project: LabelStudioProject, example: Example, mark: uuid.UUID) -> LabelStudioTask:
    return LabelStudioTask(
        project=project,
        example=example,
        push_id=mark,
        text_id=text_key(example),
        known_state=example.state,
        told_state=_told_state(example),
    )


def _begin_again(task: LabelStudioTask, mark: uuid.UUID) -> None:
    """A task that was deleted there is sent as a new one."""
    example = Example.objects.get(pk=task.example_id)
    task.push_id, task.remote_id, task.outcome, task.problem = mark, None, Outcome.OPEN, ""
    task.annotation_id = task.annotated_at = task.text_sent_at = None
    task.text_id = text_key(example)
    task.known_state, task.told_state = example.state, _told_state(example)
    task.save()


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
        **labelling.to_values(task.text.content),
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
