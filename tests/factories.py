"""Makers of rows that many tests need, and a way to run a job here and now through the real runner."""

import os
import re
import subprocess
import time
from collections.abc import Callable

from django.contrib.auth.models import User
from django.http import HttpResponse

from finetune_site.jobs import queue
from finetune_site.jobs.models import Job, JobState
from finetune_site.jobs.runner import Runner
from finetune_site.lib.kernel import start_time

PASSWORD = "a-password-for-tests"


def make_user(name: str) -> User:
    return User.objects.create_user(name, f"{name}@example.org", PASSWORD)


def words(response: HttpResponse) -> str:
    """What a person reads on a page, in one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", response.content.decode()))


def claim(job: Job) -> Job:
    """Claim a waiting job as a runner does; it must be the next of its queue."""
    claimed = queue.claim(job.queue, pid=os.getpid(), pid_started=start_time(os.getpid()) or 0, slots=job.slots)
    assert claimed is not None, "no job waits"
    assert claimed.pk == job.pk, f"another job is first: {claimed}"
    return claimed


def run_job(job: Job) -> Job:
    """Run one attempt of a waiting job in this process; returns it as it ended."""
    Runner(job.queue, 0).do(claim(job))
    return Job.objects.get(pk=job.pk)


def run_all(queue_name: str = "default") -> None:
    """Run everything that waits in a queue."""
    while job := Job.objects.filter(queue=queue_name, state=JobState.QUEUED, not_before=None).order_by("pk").first():
        claimed = queue.claim(queue_name, pid=os.getpid(), pid_started=start_time(os.getpid()) or 0)
        assert claimed is not None, f"{job} waits but cannot be claimed"
        Runner(queue_name, 0).do(claimed)


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    """Wait for something that a runner of its own brings about, in order to kill it then."""
    while not condition():
        assert process.poll() is None, "the runner ended before it was killed"
        time.sleep(0.02)
