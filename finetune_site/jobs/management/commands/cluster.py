"""`manage.py cluster NAME …`: Django-Q2 clusters under a watchdog. Containers run this instead of `qcluster`.

An idle worker that is killed hangs its cluster for good, and a killed parent leaves workers that nobody rules: so a
task that waits too long, or a parent that ended, means the whole process group is ended and started anew.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone
from django_q.models import OrmQ

from finetune_site.jobs import machines, slots
from finetune_site.jobs.dispatch import keep_schedules, reconcile
from finetune_site.jobs.queue import HOST
from finetune_site.jobs.services import wake
from finetune_site.lib.process import end_with_parent

TICK_SECONDS = 15
STUCK_SECONDS = 45
STOP_SECONDS = 10


class Cluster:
    """One task cluster: a process group that is started anew when it ends or is stuck."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._start()

    def tick(self) -> None:
        """Queue a dispatch for each queue served here: the heartbeat of the cluster, and useful work at that."""
        self._is_stuck = False
        with contextlib.suppress(DatabaseError, InterfaceError):  # Postgres is away: nobody's fault here
            connection.close()
            self._is_stuck = self._waits_too_long()
            for queue in self._queues():
                wake(queue)
            if self.name == "gpu":
                machines.report()
        alive_file(self.name).touch()

    def is_well(self) -> bool:
        return not self._is_stuck and self._process.poll() is None

    def start_anew(self) -> str:
        """End what is left and begin again; says why."""
        why = "stuck" if self._is_stuck else "ended"
        self.end()
        self._start()
        return why

    def end(self) -> None:
        """Ask the parent alone (a signal to the whole group hangs it), then end what is left of the group."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _waits_too_long(self) -> bool:
        due = OrmQ.objects.filter(key=self.name, lock__lt=timezone.now() - timedelta(seconds=STUCK_SECONDS))
        return time.monotonic() - self._started > STUCK_SECONDS and due.exists()

    def _queues(self) -> list[str]:
        return ["gpu"] if self.name == "gpu" else [queue for queue in settings.JOB_SLOTS if queue != "gpu"]

    def _start(self) -> None:
        self._started, self._is_stuck = time.monotonic(), False
        self._process = subprocess.Popen(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "qcluster"],
            env={**os.environ, "Q_CLUSTER_NAME": self.name},
            start_new_session=True,
            # Killed without a word, we would leave it at work beside the one that is started in our place.
            preexec_fn=end_with_parent,
        )


class Command(BaseCommand):
    help = "Run task clusters (default, gpu, or both in one container) and restart one that is stuck."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("names", nargs="+", choices=["default", "gpu"], metavar="default|gpu")
        parser.add_argument("--stop-runners", action="store_true", help="in a container: at the end let runners save")

    def handle(self, *args: Any, **options: Any) -> None:
        self.is_stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        slots.open_all()
        keep_schedules()
        reconcile()
        alive_file("").parent.mkdir(parents=True, exist_ok=True)
        clusters = [Cluster(name) for name in dict.fromkeys(options["names"])]
        while not self.is_stopping:
            for cluster in clusters:
                cluster.tick()
            self._watch(clusters)
        for cluster in clusters:
            cluster.end()
            alive_file(cluster.name).unlink(missing_ok=True)
        if options["stop_runners"]:
            slots.stop_holders(self.stderr.write)

    def _watch(self, clusters: list[Cluster]) -> None:
        deadline = time.monotonic() + TICK_SECONDS
        while not self.is_stopping and time.monotonic() < deadline:
            for cluster in clusters:
                if not cluster.is_well():
                    self.stderr.write(f"cluster {cluster.name}: {cluster.start_anew()}, started anew")
            time.sleep(0.5)

    def _stop(self, *_: object) -> None:
        self.is_stopping = True


def alive_file(name: str) -> Path:
    """Its time of change says that the watchdog of a cluster on this machine lives: a container's health check."""
    return Path(settings.DATA_DIR) / "run" / f"alive-{name}-{HOST}"
