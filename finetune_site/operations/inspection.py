"""The state of the whole site as an operator reads it: every line is fine or says what to do.

Nothing here asks another server, but for the bucket: of Ollama, Label Studio and other machines it is told what workers
last learned.
"""

import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from django.conf import settings
from django.core.checks import ERROR, run_checks
from django.db import connection
from django.db.models import Count, Min
from django.db.models.functions import Now
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from django.utils.timesince import timesince
from django_q.models import OrmQ, Schedule

from datasets_app.models import LabelStudioServer
from finetune_site.jobs.models import UNFINISHED, Job, JobState, Machine
from finetune_site.operations.backup import kept
from finetune_site.operations.checks import TAG
from finetune_site.operations.health import readiness
from finetune_site.operations.metrics import waiting_and_running
from finetune_site.operations.schedules import TASK_DAYS
from finetune_site.projects.templatetags.ui import duration
from training_app.services import servers

PACKAGES = ("finetune-site", "django", "django-q2", "psycopg", "uvicorn", "torch", "transformers", "peft")
LEAST_FREE_SHARE, LEAST_FREE_BYTES = 0.05, 5 * 1024**3
MOST_CLOCK_SECONDS = 2.0
LATE = timedelta(minutes=3)


@dataclass(frozen=True)
class Line:
    """One thing and how it is: `state` is "fine", "look" (soon a problem), "broken", or "" where it only informs."""

    name: str
    state: str
    text: str


@dataclass(frozen=True)
class Section:
    title: str
    lines: list[Line]

    @property
    def worst(self) -> str:
        """The state to show above all lines: empty when nothing is to be done."""
        states = {line.state for line in self.lines}
        return next((state for state in ("broken", "look") if state in states), "")


def inspect() -> list[Section]:
    """All sections; a page of a few dozen lines in a fixed number of queries."""
    return [
        Section("Ground", list(_ground())),
        Section("Work", list(_work())),
        Section("Machines", list(_machines())),
        Section("Connections", list(_connections())),
        Section("Backups", [_backup()]),
        Section("Kept for how long", list(_retention())),
        Section("Versions", list(_versions())),
    ]


def _ground() -> Iterator[Line]:
    for name, sentence in readiness().items():
        yield Line(name.capitalize(), "broken" if sentence else "fine", sentence or _ready_text(name))
    with connection.cursor() as cursor:
        cursor.execute(
            "select pg_database_size(current_database()), (select count(*) from pg_stat_activity), "
            "current_setting('max_connections')::int, extract(epoch from clock_timestamp())::float8"
        )
        size, connections, most, clock = cursor.fetchone()
    yield Line("Database size", "", filesizeformat(size))
    text = f"{connections} of at most {most} connections"
    if connections > 0.8 * most:
        yield Line("Connections", "look", f"{text}. Raise PostgreSQL's max_connections, or run fewer runners.")
    else:
        yield Line("Connections", "fine", text)
    yield _clock("Clock of this machine", timezone.now().timestamp() - clock)
    yield _disk("Free space", shutil.disk_usage(settings.DATA_DIR)._asdict())
    for found in run_checks(tags=[TAG]):
        yield Line("Settings", "broken" if found.level >= ERROR else "look", f"{found.msg} {found.hint}")


def _ready_text(name: str) -> str:
    return {
        "database": "answers",
        "migrations": "all applied",
        "cache": "can be read",
        "storage": f"{settings.DATA_DIR} can be written",
        "bucket": f"{settings.S3_BUCKET} can be written and read",
    }[name]


def _clock(name: str, seconds: float) -> Line:
    if abs(seconds) > MOST_CLOCK_SECONDS:
        way = "ahead of" if seconds > 0 else "behind"
        text = f"{abs(seconds):.0f} s {way} PostgreSQL's. Turn on time synchronisation (NTP) there."
        return Line(name, "look", text)
    return Line(name, "fine", "agrees with PostgreSQL's")


def _disk(name: str, disk: dict[str, int]) -> Line:
    text = f"{filesizeformat(disk['free'])} of {filesizeformat(disk['total'])}"
    if disk["free"] < max(LEAST_FREE_BYTES, LEAST_FREE_SHARE * disk["total"]):
        text += ". Clean up checkpoints, run manage.py purge, or give FINETUNE_DATA_DIR a larger disk."
        return Line(name, "look", text)
    return Line(name, "fine", text)


def _work() -> Iterator[Line]:
    reconcile = Schedule.objects.filter(name="reconcile").first()
    if reconcile is None or reconcile.next_run < timezone.now() - LATE:
        text = "No cluster takes tasks. Start manage.py cluster default; one that just started needs half a minute."
        yield Line("Task cluster", "broken", text)
    else:
        yield Line("Task cluster", "fine", "takes its tasks on time")
    late = OrmQ.objects.filter(lock__lt=Now() - timedelta(minutes=1)).order_by()
    for row in late.values("key").annotate(count=Count("pk"), oldest=Min("lock")):
        text = f"{row['count']} due since {timesince(row['oldest'])}. Start manage.py cluster {row['key']}."
        yield Line(f"Tasks of {row['key']}", "broken", text)
    found = {(row["queue"], row["state"]): row for row in waiting_and_running()}
    for queue in settings.JOB_SLOTS:
        waiting, running = (found.get((queue, state)) for state in UNFINISHED)
        yield _queue(queue, waiting, running)
    expired = Job.objects.filter(state=JobState.RUNNING, queue__in=settings.JOB_SLOTS, lease_until__lt=Now())
    for job in expired.select_related("project")[:20]:
        text = f"its runner on {job.host} does not tell of itself. It is brought back by itself within some minutes."
        yield Line(f"Job {job.pk}", "look", text)


def _queue(queue: str, waiting: dict[str, Any] | None, running: dict[str, Any] | None) -> Line:
    text = f"{running['count'] if running else 0} running, {waiting['count'] if waiting else 0} waiting"
    if not waiting:
        return Line(f"Queue {queue}", "fine", text)
    text += f", the oldest for {timesince(waiting['oldest'])}"
    is_stuck = not running and waiting["oldest"] < timezone.now() - LATE
    if is_stuck:
        cluster = "gpu" if queue == "gpu" else "default"
        return Line(f"Queue {queue}", "look", f"{text}, and none runs. Look whether manage.py cluster {cluster} runs.")
    return Line(f"Queue {queue}", "fine", text)


def _machines() -> Iterator[Line]:
    held = Machine.objects.all()
    for machine in held:
        if machine.is_silent:
            text = f"silent for {duration(machine.silent_seconds)}. Start manage.py cluster gpu there."
            yield Line(machine.host, "look", text)
        else:
            gpus = len(machine.facts["gpus"])
            yield Line(machine.host, "fine", f"{gpus} GPUs" if gpus else "computes on its processor")
        if "clock_off" in machine.facts:  # written by machines of this version on
            yield _clock(f"Clock of {machine.host}", machine.facts["clock_off"])
            yield _disk(f"Free space of {machine.host}", machine.facts["disk"])
    if not held:
        yield Line("Machines", "broken", "None has told of itself. Start manage.py cluster gpu.")


def _connections() -> Iterator[Line]:
    for state in servers.states():
        name = f"Ollama {state.server}"
        if state.problem:
            yield Line(name, "broken", state.problem)
        else:
            yield Line(
                name, "fine" if state.seen_at else "", f"version {state.version}" if state.seen_at else "asked now"
            )
    for server in LabelStudioServer.objects.all():
        if server.state == LabelStudioServer.State.FAILING:
            yield Line(f"Label Studio {server}", "broken", server.problem)
        else:
            is_working = server.state == LabelStudioServer.State.WORKING
            yield Line(f"Label Studio {server}", "fine" if is_working else "", server.get_state_display())
    if settings.CAN_MAIL:
        text = f"goes over {settings.EMAIL_HOST}:{settings.EMAIL_PORT}; manage.py sendtestemail tries it"
    else:
        text = "none is sent: links are passed on by hand. Set FINETUNE_SMTP_HOST, and people hear of their work."
    yield Line("Mail", "", text)


def _backup() -> Line:
    if not settings.BACKUP_DIR:
        return Line("Newest", "look", "None is made by itself. Set FINETUNE_BACKUP_DIR, or run manage.py backup.")
    archives = kept()
    if not archives:
        return Line("Newest", "look", f"{settings.BACKUP_DIR} holds none yet.")
    made = datetime.fromtimestamp(archives[0].stat().st_mtime, tz=UTC)
    text = f"{archives[0].name}, {timesince(made)} old, {filesizeformat(archives[0].stat().st_size)}"
    if timezone.now() - made > timedelta(hours=2 * settings.BACKUP_HOURS):
        return Line("Newest", "broken", f"{text}. Look at the job “Back up” in the list of jobs.")
    return Line("Newest", "fine", text)


def _retention() -> Iterator[Line]:
    days = settings.CHECKPOINT_DAYS
    yield Line("Checkpoints", "", f"of runs that ended well go after {days} days" if days else "people clean up")
    yield Line("Conversations", "", f"that nobody saved go after {settings.CHAT_DAYS} days")
    days = settings.JOB_LOG_DAYS
    yield Line("Lines of ended jobs", "", f"go after {days} days" if days else "stay")
    yield Line("Sessions, failed tasks", "", f"when they expire; after {TASK_DAYS} days")
    yield Line("Files of deleted projects", "", "go with manage.py purge")


def _versions() -> Iterator[Line]:
    yield Line("Python", "", platform.python_version())
    with connection.cursor() as cursor:
        cursor.execute("show server_version")
        yield Line("PostgreSQL", "", cursor.fetchone()[0])
    for package in PACKAGES:
        try:
            yield Line(package, "", version(package))
        except PackageNotFoundError:
            yield Line(package, "", "not installed on this machine")
