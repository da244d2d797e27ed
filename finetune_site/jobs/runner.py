"""A runner: a detached process that holds one slot of a queue, does its jobs one after another, and leaves.

It outlives the task that started it, the cluster and the web server. What it does not survive, `dispatch` finds.
"""

import logging
import os
import signal
import threading
import time
import traceback
import uuid
from datetime import timedelta
from typing import IO

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from finetune_site.bucket import BucketError
from finetune_site.jobs import queue, slots
from finetune_site.jobs.handle import EngineFailed, Handle, JobCancelled, JobInputError, JobReleased
from finetune_site.jobs.kinds import get_kind
from finetune_site.jobs.models import Job, JobState
from finetune_site.jobs.services import wake
from finetune_site.lib.kernel import start_time
from finetune_site.lib.logs import bound

logger = logging.getLogger(__name__)
RETRY_WAIT_SECONDS = 60


class Runner:
    """`work` returns when nothing waits in the queue, or soon after `leave` was called (SIGTERM)."""

    def __init__(self, queue_name: str, slot: int) -> None:
        self.queue_name = queue_name
        self.slot = slot
        self._leaving = threading.Event()
        self._further: list[IO[str]] = []  # slots held beside ours for a job that needs several

    def leave(self, *_: object) -> None:
        self._leaving.set()

    def work(self) -> int:
        """Do the queue's jobs; returns how many. None are done when the slot is taken."""
        lock = slots.take(self.queue_name, self.slot)
        if lock is None:
            return 0
        signal.signal(signal.SIGTERM, self.leave)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the site, which tells us in order
        count = 0
        with lock:
            while not self._leaving.is_set():
                job = self._next()
                if job is None:
                    break
                self.do(job)
                count += 1
        if not self._leaving.is_set() and Job.objects.filter(queue=self.queue_name, state=JobState.QUEUED).exists():
            wake(self.queue_name)  # it came between our last look and the end of our lock
        return count

    def do(self, job: Job) -> None:
        """One attempt at a job, from claim to its last write."""
        with bound(job=job.pk, attempt=job.attempt):
            logger.info("job %s %s attempt %s starts", job.pk, job.kind, job.attempt)
            devices = devices_of(self.queue_name, self._held())
            with Handle(job, must_leave=self._leaving.is_set, devices=devices) as handle:
                end = _attempt(handle)
            self._write_end(end, job)
        self._let_go()
        wake(self.queue_name)

    def _next(self) -> Job | None:
        """The next job; waits for one whose retry is near. None: nothing to do."""
        while not self._leaving.is_set():
            try:
                wanted = self._wanted()
                if wanted and wanted > 1 and not self._gather(wanted):
                    return None  # another runner gathers: ours is one of the slots that it waits for
                started = start_time(os.getpid()) or 0
                job = queue.claim(
                    self.queue_name, pid=os.getpid(), pid_started=started, slots=wanted or 1, held=self._held()
                )
                if job or not self._retry_is_near():
                    return job
                self._let_go()
            except (OperationalError, InterfaceError):
                connection.close()
            self._leaving.wait(1)
        return None

    def _held(self) -> list[int]:
        return [self.slot, *(slots.number(stream) for stream in self._further)]

    def _wanted(self) -> int | None:
        return queue.slots_of_next(self.queue_name, settings.JOB_SLOTS[self.queue_name])

    def _gather(self, wanted: int) -> bool:
        """Hold as many slots as the next job wants; False when it cannot be."""
        still = lambda: not self._leaving.is_set() and self._wanted() == wanted  # noqa: E731
        found = slots.gather(self.queue_name, wanted - 1, still)
        self._further = found or []
        return found is not None

    def _let_go(self) -> None:
        for stream in self._further:
            stream.close()
        self._further = []

    def _retry_is_near(self) -> bool:
        soon = timezone.now() + timedelta(seconds=RETRY_WAIT_SECONDS)
        return Job.objects.filter(queue=self.queue_name, state=JobState.QUEUED, not_before__lte=soon).exists()

    def _write_end(self, end: "End", job: Job) -> None:
        while True:
            try:
                end(job)
                return
            except queue.LeaseLost:
                logger.warning("job %s is no longer ours; its end is not written", job.pk)
                return
            except (OperationalError, InterfaceError):
                connection.close()
                if self._leaving.is_set():
                    return  # the lease expires, and the job goes on from what it kept
                time.sleep(1)


def devices_of(queue_name: str, held: list[int]) -> str | None:
    """The devices that belong to some slots, as CUDA_VISIBLE_DEVICES names them; None: the operator named none."""
    named = settings.GPU_DEVICES
    return ",".join(named[slot] for slot in held) if queue_name == "gpu" and named else None


class End:
    """How an attempt ended: one of the moves of `queue`, with its arguments."""

    def __init__(self, move: str, state: JobState | None = None, **words: str) -> None:
        self.move, self.state, self.words = move, state, words

    def __call__(self, job: Job) -> None:
        if self.move == "release":
            queue.release(job, message=self.words["message"], is_attempt=False)
        elif self.move == "retry" and job.attempt < job.max_attempts:
            message = f"Attempt {job.attempt} of {job.max_attempts} ended: {self.words['text']} Trying again."
            queue.release(job, message=message, is_attempt=True)
        elif self.move == "retry":
            queue.finish(job, JobState.FAILED, code="error", text=self.words["text"])
        elif self.move == "finish":
            assert self.state is not None
            queue.finish(job, self.state, **self.words)


def _attempt(handle: Handle) -> End:
    """Run the kind's function and say how it ended. The one place where every exception is caught."""
    try:
        get_kind(handle.job.kind).work(handle)
    except JobInputError as error:
        logger.info("job %s: the input was refused", handle.job.pk)
        return End("finish", JobState.FAILED, code="input", text=str(error))
    except JobCancelled:
        return End("finish", JobState.CANCELLED, message="Stopped; what was done so far is kept")
    except JobReleased as error:
        return End("release", message=str(error))
    except queue.LeaseLost:
        return End("lost")
    except (EngineFailed, BucketError) as error:
        logger.warning("job %s: %s", handle.job.pk, error)
        return End("retry", text=str(error))
    except Exception:
        reference = uuid.uuid4().hex[:8]
        logger.error("job %s failed, reference %s\n%s", handle.job.pk, reference, traceback.format_exc())
        return End(
            "retry", text=f"Something went wrong on our side (reference {reference}); the operator finds it in the log."
        )
    return End("finish", JobState.SUCCEEDED)
