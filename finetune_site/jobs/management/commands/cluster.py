"""`manage.py cluster NAME`: a Django-Q2 cluster under a watchdog. Containers run this instead of `qcluster`.

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
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, InterfaceError, connection
from django.utils import timezone
from django_q.models import OrmQ

from finetune_site.jobs import machines, slots
from finetune_site.jobs.dispatch import keep_schedules, reconcile
from finetune_site.jobs.services import wake
from finetune_site.lib.process import end_with_parent

TICK_SECONDS = 15
STUCK_SECONDS = 45
STOP_SECONDS = 10


class Command(BaseCommand):
    help = "Run a task cluster (default or gpu) and restart it when it is stuck."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", choices=["default", "gpu"])
        parser.add_argument("--stop-runners", action="store_true", help="in a container: at the end let runners save")

    def handle(self, *args: Any, **options: Any) -> None:
        self.name = options["name"]
        self.is_stopping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        keep_schedules()
        reconcile()
        self._start()
        while not self.is_stopping:
            self._tick()
        self._end()
        if options["stop_runners"]:
            slots.stop_holders(self.stderr.write)

    def _tick(self) -> None:
        """Queue a dispatch for each queue served here: the heartbeat of the cluster, and useful work at that."""
        try:
            connection.close()
            stuck = self._is_stuck()
            for queue in self._queues():
                wake(queue)
            if self.name == "gpu":
                machines.report()
        except (DatabaseError, InterfaceError):
            stuck = False  # Postgres is away: nobody's fault here
        deadline = time.monotonic() + TICK_SECONDS
        while not self.is_stopping and time.monotonic() < deadline:
            if stuck or self.process.poll() is not None:
                self.stderr.write(f"cluster {self.name}: {'stuck' if stuck else 'ended'}, starting it anew")
                self._end()
                self._start()
                return
            time.sleep(0.5)

    def _is_stuck(self) -> bool:
        due = OrmQ.objects.filter(key=self.name, lock__lt=timezone.now() - timedelta(seconds=STUCK_SECONDS))
        return time.monotonic() - self.started > STUCK_SECONDS and due.exists()

    def _queues(self) -> list[str]:
        return ["gpu"] if self.name == "gpu" else [queue for queue in settings.JOB_SLOTS if queue != "gpu"]

    def _start(self) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(settings.BASE_DIR / "manage.py"), "qcluster"],
            env={**os.environ, "Q_CLUSTER_NAME": self.name},
            start_new_session=True,
            # Killed without a word, we would leave it at work beside the one that is started in our place.
            preexec_fn=end_with_parent,
        )

    def _end(self) -> None:
        """Ask the parent alone (a signal to the whole group hangs it), then end what is left of the group."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _stop(self, *_: object) -> None:
        self.is_stopping = True
