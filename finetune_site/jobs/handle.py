"""What the function of a job kind receives: progress, log, stop requests, fenced writes, a supervised engine.

A thread renews the lease also while the function is silent. While Postgres is away the work goes on, and writes wait.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextvars import copy_context
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.utils import timezone

from finetune_site.jobs import queue
from finetune_site.jobs.events import record
from finetune_site.jobs.models import Job, JobState
from finetune_site.lib.kernel import Limits
from finetune_site.lib.process import Engine, Outcome

logger = logging.getLogger(__name__)
Result = TypeVar("Result")
PROGRESS_SECONDS = 0.3


class JobInputError(Exception):
    """The person can mend it: the job fails with this message and is not tried again."""


class JobCancelled(Exception):
    """The person asked to stop; what was done so far is kept."""


class JobReleased(Exception):
    """The runner has to leave; the job goes back to the queue and goes on later."""


class EngineFailed(Exception):
    """The engine ended by a crash, a kill or an error of ours: the job is tried again while it has attempts."""


class Handle:
    """One attempt at one job. Every write carries the fencing token: `queue.LeaseLost` means it is no longer ours."""

    def __init__(self, job: Job, *, must_leave: Callable[[], bool] = lambda: False, devices: str | None = None) -> None:
        self.job = job
        self._devices = devices
        self._must_leave = must_leave
        self._lost = threading.Event()
        self._cancel = threading.Event()
        self._done = threading.Event()
        self._contact = time.monotonic()
        self._progress_at = 0.0
        self._total: int | None = None
        # In our context, so that its log lines name the job too.
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._heartbeat,), daemon=True, name="heartbeat"
        )

    def __enter__(self) -> "Handle":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(settings.JOB_HEARTBEAT_SECONDS + 5)

    @property
    def should_stop(self) -> bool:
        """True when the function should save what it has and call `check`."""
        return self._lost.is_set() or self._cancel.is_set() or self._must_leave() or self._is_cut_off()

    def check(self) -> None:
        """Raise what ends the function, if anything does. Call it between units of work."""
        if self._lost.is_set():
            raise queue.LeaseLost
        if self._cancel.is_set():
            raise JobCancelled
        if self._must_leave():
            raise JobReleased("The site is restarting; the work goes on by itself.")
        if self._is_cut_off():
            raise JobReleased("The database could not be reached for long; the work goes on by itself.")

    def progress(
        self,
        done: int,
        total: int | None = None,
        *,
        unit: str | None = None,
        message: str | None = None,
        seconds_left: float | None = None,
    ) -> None:
        """Tell how far the work is. Written at most a few times a second, but the first and last of a total are.

        `seconds_left`: from work that knows better than its mean pace so far.
        """
        now = time.monotonic()
        is_last = total is not None and done >= total
        is_first = total is not None and total != self._total
        if now - self._progress_at < PROGRESS_SECONDS and not is_last and not is_first:
            return
        self._progress_at = now
        named = {"done": done, "total": total, "unit": unit, "message": message and message[:300]}
        fields = {name: value for name, value in named.items() if value is not None}

        count: dict[str, Any] = {"counted_from": done, "counted_at": timezone.now()} if is_first else {}
        if seconds_left is not None:
            count["ends_at"] = timezone.now() + timedelta(seconds=seconds_left)
        self._total = total if is_first else self._total

        def write() -> None:
            queue.update(self.job, **fields, **count)
            record(self.job, "progress", fields)

        self.write(write)

    def log(self, line: str) -> None:
        """Add a line for people to the job's log. No document text, no prompt, no token."""
        self.write(lambda: record(self.job, "log", {"line": line}))

    def publish(self, kind: str, payload: dict[str, Any]) -> None:
        """Append a domain event that live pages listen for."""
        self.write(lambda: record(self.job, kind, payload))

    def write(self, change: Callable[[], Result]) -> Result:
        """Run `change` in a transaction in which the job is surely ours. While Postgres is away it is tried again, so
        `change` must do nothing but write rows. `queue.LeaseLost` when the job is no longer ours."""
        while True:
            try:
                with transaction.atomic():
                    self._hold()
                    return change()
            except (OperationalError, InterfaceError):
                connection.close()
                if self._is_cut_off() or self._lost.is_set():
                    raise
                time.sleep(0.5)

    def run_engine(
        self,
        module: str,
        arguments: list[str],
        *,
        log_path: Path,
        on_event: Callable[[dict[str, Any]], None],
        limits: Limits | None = None,
        env: Mapping[str, str] | None = None,
        preload: str | None = None,
    ) -> Outcome:
        """Run an engine to its end and return how it ended, when it ended well. `preload`: see `Engine`.

        Raises `JobInputError` (exit 2), `JobCancelled`, `JobReleased` or `LeaseLost` when it was told to stop, and
        `EngineFailed` for a crash or a kill.
        """
        pinned = {"CUDA_VISIBLE_DEVICES": self._devices} if self._devices is not None else {}
        env = {**pinned, **(env or {})}
        with Engine(module, arguments, log_path=log_path, limits=limits, env=env, preload=preload) as engine:
            self.adopt(engine)
            outcome = engine.run(on_event, lambda: self.should_stop)
        if outcome.returncode == 0:
            return outcome
        self.check()
        if outcome.returncode == 2:
            raise JobInputError(outcome.failure.get("message", "The input was refused without a reason."))
        raise EngineFailed(describe(outcome))

    def adopt(self, engine: Engine) -> None:
        """Write down which process works for this job, so that whoever takes the job over can end it first."""
        self.write(lambda: queue.update(self.job, engine_pid=engine.pid, engine_started=engine.started))

    def _hold(self) -> None:
        held = Job.objects.select_for_update().filter(pk=self.job.pk, token=self.job.token, state=JobState.RUNNING)
        if not held.exists():
            self._lost.set()
            raise queue.LeaseLost

    def _is_cut_off(self) -> bool:
        return time.monotonic() - self._contact > settings.JOB_CUTOFF_SECONDS

    def _heartbeat(self) -> None:
        while not self._done.wait(settings.JOB_HEARTBEAT_SECONDS):
            try:
                beat = queue.renew(self.job)
            except (OperationalError, InterfaceError):
                connection.close()
                logger.warning("job %s: no heartbeat, Postgres does not answer", self.job.pk)
                continue
            self._contact = time.monotonic()
            if not beat.is_ours:
                self._lost.set()
            if beat.cancel_requested:
                self._cancel.set()
        connection.close()


def describe(outcome: Outcome) -> str:
    """Why an engine ended badly, in one sentence."""
    if outcome.timed_out:
        return "The work took longer than allowed and was ended."
    if outcome.returncode < 0:
        return f"The working process was killed (signal {-outcome.returncode}); often that means too little memory."
    return str(outcome.failure.get("message") or f"The working process ended with code {outcome.returncode}.")
