"""Figures for Prometheus: request times as the web processes measured them; queues, jobs and devices as Postgres knows
them at the moment of asking, in a fixed number of queries over indexes.

Of several web processes (`WEB_CONCURRENCY`) each keeps its own in files of one folder, and whichever is asked adds them
up: https://prometheus.github.io/client_python/multiprocess/
"""

import os
import shutil
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.db.models import Count, Min, Q, QuerySet
from django.db.models.functions import Now
from django.utils import timezone
from django_q.models import OrmQ
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Histogram, generate_latest, multiprocess
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from finetune_site.jobs.live import hub
from finetune_site.jobs.models import FINISHED, UNFINISHED, Job, JobState, Machine
from finetune_site.lib.kernel import start_time

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
FIGURES = os.environ.get("PROMETHEUS_MULTIPROC_DIR", "")
if FIGURES:
    Path(FIGURES).mkdir(parents=True, exist_ok=True)
VIEWERS = Gauge("finetune_live_viewers", "Pages that are kept live", multiprocess_mode="livesum")
POOL = Gauge("finetune_database_pool", "Connections of the web processes' pools", ["what"], multiprocess_mode="livesum")
REQUESTS = Histogram(
    "finetune_request_seconds",
    "Time until the answer began, by view, method and status",
    ["view", "method", "status"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)


def note_request(view: str, method: str, status: int, seconds: float) -> None:
    # Labels from a closed set: what a stranger types must not make a new series.
    REQUESTS.labels(view or "none", method if method in METHODS else "other", status).observe(seconds)
    VIEWERS.set(hub.viewer_count)
    if settings.DATABASE_POOL:
        told = connection.pool.get_stats()  # type: ignore[attr-defined]  # of Django's Postgres backend
        for what in ("pool_size", "pool_available", "requests_waiting"):
            POOL.labels(what).set(told.get(what, 0))


def exposition() -> bytes:
    """All figures in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(SiteFigures())
    measured = REGISTRY
    if FIGURES:
        _forget_the_dead()
        measured = CollectorRegistry()
        multiprocess.MultiProcessCollector(measured)
    return generate_latest(measured) + generate_latest(registry)


def _forget_the_dead() -> None:
    """What a process that ended had open is open no more; what it counted counts."""
    for path in Path(FIGURES).glob("gauge_livesum_*.db"):
        if start_time(int(path.stem.rsplit("_", 1)[1])) is None:
            path.unlink(missing_ok=True)


class SiteFigures(Collector):
    """What the database and the disk say now."""

    def collect(self) -> Iterable[GaugeMetricFamily]:
        yield from _queues()
        yield from _ended()
        yield from _tasks()
        yield from _machines()
        yield from _disk()


def waiting_and_running() -> "QuerySet[Job, dict[str, Any]]":
    """Per queue and state of unfinished jobs: how many, and since when the oldest is there."""
    unfinished = Job.objects.filter(queue__in=settings.JOB_SLOTS, state__in=UNFINISHED)
    found: QuerySet[Job, Any] = (
        unfinished.order_by().values("queue", "state").annotate(count=Count("pk"), oldest=Min("created_at"))
    )
    return found


def _queues() -> Iterable[GaugeMetricFamily]:
    counts = GaugeMetricFamily("finetune_jobs", "Unfinished jobs by queue and state", labels=["queue", "state"])
    oldest = GaugeMetricFamily("finetune_oldest_waiting_seconds", "Age of the oldest waiting job", labels=["queue"])
    found = {(row["queue"], row["state"]): row for row in waiting_and_running()}
    for queue in settings.JOB_SLOTS:
        for state in UNFINISHED:
            counts.add_metric([queue, state], found.get((queue, state), {}).get("count", 0))
        row = found.get((queue, JobState.QUEUED))
        oldest.add_metric([queue], (timezone.now() - row["oldest"]).total_seconds() if row else 0)
    return counts, oldest


def _ended() -> Iterable[GaugeMetricFamily]:
    """Of the last hour: a bounded part of the table, however many years of jobs it holds."""
    counts = GaugeMetricFamily(
        "finetune_jobs_ended_last_hour", "Jobs that ended within the last hour", labels=["kind", "state"]
    )
    seconds = GaugeMetricFamily(
        "finetune_job_seconds_last_hour", "How long their last attempts took", labels=["kind", "state", "quantile"]
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "select kind, state, count(*), percentile_cont(array[0.5, 0.95]) within group "
            "(order by extract(epoch from finished_at - started_at)::float8) "
            "from jobs_job where finished_at > now() - interval '1 hour' and state = any(%s) group by 1, 2",
            [[str(state) for state in FINISHED]],
        )
        for kind, state, count, quantiles in cursor.fetchall():
            counts.add_metric([kind, state], count)
            for name, value in zip(("0.5", "0.95"), quantiles or (), strict=False):
                if value is not None:
                    seconds.add_metric([kind, state, name], value)
    return counts, seconds


def _tasks() -> Iterable[GaugeMetricFamily]:
    """Django-Q's short tasks: one that is due for long means that a cluster does not work."""
    counts = GaugeMetricFamily("finetune_tasks_waiting", "Short tasks of a cluster not yet done", labels=["cluster"])
    late = GaugeMetricFamily("finetune_tasks_late", "Of these, due for more than a minute", labels=["cluster"])
    is_late = Q(lock__lt=Now() - timedelta(minutes=1))
    for row in OrmQ.objects.order_by().values("key").annotate(count=Count("pk"), late=Count("pk", filter=is_late)):
        counts.add_metric([row["key"]], row["count"])
        late.add_metric([row["key"]], row["late"])
    return counts, late


def _machines() -> Iterable[GaugeMetricFamily]:
    seen = GaugeMetricFamily("finetune_machine_silent_seconds", "Since its last report", labels=["host"])
    total = GaugeMetricFamily("finetune_device_memory_bytes", "Memory of a device", labels=["host", "device"])
    used = GaugeMetricFamily("finetune_device_memory_used_bytes", "In use", labels=["host", "device"])
    busy = GaugeMetricFamily("finetune_device_use_ratio", "How busy a device is, 0 to 1", labels=["host", "device"])
    for machine in Machine.objects.all():
        seen.add_metric([machine.host], machine.silent_seconds)
        processor = machine.facts["processor"]
        devices = {"cpu": {**processor, "use": processor["load"] / processor["cores"]}}
        devices |= {f"gpu{gpu['number']}": gpu for gpu in machine.facts["gpus"]}
        for name, device in devices.items():
            total.add_metric([machine.host, name], device["memory_total"])
            used.add_metric([machine.host, name], device["memory_used"])
            if device["use"] is not None:
                busy.add_metric([machine.host, name], device["use"])
    return seen, total, used, busy


def _disk() -> Iterable[GaugeMetricFamily]:
    disk = shutil.disk_usage(settings.DATA_DIR)
    yield GaugeMetricFamily("finetune_disk_free_bytes", "Free space under FINETUNE_DATA_DIR", value=disk.free)
    yield GaugeMetricFamily("finetune_disk_bytes", "Size of that disk", value=disk.total)
