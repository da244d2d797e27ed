"""When a waiting job will run: the queue's claims played forward, by the rule of `queue.claim`.

How long a job takes is what it expects of itself, else what the last ones of its kind took. Where neither is known the
order still is, the time is not.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from django.conf import settings
from django.db.models import F, Max
from django.utils import timezone

from finetune_site.jobs.models import UNFINISHED, Job, JobState

MEASURED_JOBS = 50
FAR_AWAY = 1e9


@dataclass(frozen=True)
class Turn:
    """A waiting job's place in its queue, from 1, and the seconds until it starts; None where nobody can say."""

    place: int
    seconds: float | None


def forecast(queue: str) -> dict[int, Turn]:
    """The turn of every waiting job of a queue, by its key, in the order in which they will run."""
    jobs = list(Job.objects.filter(queue=queue, state__in=UNFINISHED).order_by("pk"))
    waiting = [job for job in jobs if job.state == JobState.QUEUED and not job.cancel_requested]
    if not waiting:
        return {}
    usual = _usual_seconds(queue)
    busy = [(_left(job, usual), job.owner_id, job.slots) for job in jobs if job.state == JobState.RUNNING]
    heapq.heapify(busy)
    slots = max(settings.JOB_SLOTS[queue], sum(needed for _, _, needed in busy))
    started = _last_starts(queue)
    turns: dict[int, Turn] = {}
    now = 0.0
    while waiting:
        job = _next(waiting, Counter(owner for _, owner, _ in busy), started)
        if busy and slots - sum(needed for _, _, needed in busy) < job.slots:
            now = max(now, heapq.heappop(busy)[0])
            continue  # with one job less the turns may be others
        waiting.remove(job)
        turns[job.pk] = Turn(len(turns) + 1, None if math.isinf(now) else now)
        started[job.owner_id] = timezone.now().timestamp() + (FAR_AWAY if math.isinf(now) else now)
        heapq.heappush(busy, (now + _expected(job, usual), job.owner_id, job.slots))
    return turns


def _next(waiting: list[Job], running: Counter[int], started: dict[int, float]) -> Job:
    """Owners take turns: the one served least and longest ago comes first; within one owner, the oldest job."""
    return min(waiting, key=lambda job: (-job.priority, running[job.owner_id], started[job.owner_id], job.pk))


def _last_starts(queue: str) -> dict[int, float]:
    """When each owner was last served, as a timestamp; long ago for who never was."""
    rows = Job.objects.filter(queue=queue).values_list("owner").annotate(last=Max("started_at")).order_by()
    return defaultdict(lambda: -math.inf, {owner: last.timestamp() for owner, last in rows if last})


def _left(job: Job, usual: dict[str, float]) -> float:
    if job.seconds_left is not None:
        return job.seconds_left
    passed = (timezone.now() - job.started_at).total_seconds() if job.started_at else 0.0
    return max(0.0, _expected(job, usual) - passed)


def _expected(job: Job, usual: dict[str, float]) -> float:
    return job.expected_seconds if job.expected_seconds is not None else usual.get(job.kind, math.inf)


def _usual_seconds(queue: str) -> dict[str, float]:
    """The mean of the last jobs of each kind that succeeded."""
    ended = Job.objects.filter(queue=queue, state=JobState.SUCCEEDED).annotate(took=F("finished_at") - F("started_at"))
    ended = ended.exclude(took=None)
    taken: dict[str, list[float]] = defaultdict(list)
    for kind, took in ended.order_by("-pk").values_list("kind", "took")[:MEASURED_JOBS]:
        taken[kind].append(took.total_seconds())
    return {kind: sum(seconds) / len(seconds) for kind, seconds in taken.items()}


def forecasts(jobs: Iterable[Job]) -> dict[int, Turn]:
    """The turns of all queues in which one of `jobs` waits."""
    found: dict[int, Turn] = {}
    for queue in sorted({job.queue for job in jobs if job.state == JobState.QUEUED}):
        found |= forecast(queue)
    return found
