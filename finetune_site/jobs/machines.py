"""The machines that work for the site: each tells what it has and how busy it is; a page shows what runs where."""

import shutil
from dataclasses import dataclass
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone

from finetune_site.jobs.models import Job, JobState, Machine
from finetune_site.jobs.queue import HOST
from finetune_site.lib.devices import read_devices


@dataclass(frozen=True)
class Slot:
    """A place for one training: the device behind it, and the job that holds it (`is_hidden`: of a foreign project)."""

    number: int
    device: dict[str, Any] | None
    job: Job | None
    is_hidden: bool


@dataclass(frozen=True)
class Report:
    """A machine as it last told of itself."""

    machine: Machine
    slots: list[Slot]


def report() -> None:
    """Write down what this machine has now."""
    disk = shutil.disk_usage(settings.DATA_DIR)
    facts = {
        **read_devices(),
        "slots": settings.JOB_SLOTS["gpu"],
        "devices": settings.GPU_DEVICES,
        "disk": {"free": disk.free, "total": disk.total},
        "clock_off": _clock_off(),
    }
    Machine.objects.update_or_create(host=HOST, defaults={"facts": facts, "seen_at": timezone.now()})


def _clock_off() -> float:
    """Seconds by which this machine's clock is ahead of Postgres's."""
    with connection.cursor() as cursor:
        cursor.execute("select extract(epoch from clock_timestamp())::float8")
        return timezone.now().timestamp() - float(cursor.fetchone()[0])


def most_memory() -> int:
    """Bytes of the machine that has the most: its memory, or that of its devices together; 0 where none has told."""
    held = (
        max(facts["processor"]["memory_total"], sum(gpu["memory_total"] for gpu in facts["gpus"]))
        for facts in Machine.objects.values_list("facts", flat=True)
    )
    return max(held, default=0)


def reports(user: User) -> list[Report]:
    """All machines, with the jobs on their slots; of a job that `user` may not see only that it is there."""
    running = list(Job.objects.filter(queue="gpu", state=JobState.RUNNING).select_related("project", "owner"))
    seen = set(Job.objects.visible_to(user).filter(pk__in=[job.pk for job in running]).values_list("pk", flat=True))
    return [Report(machine, _slots(machine, running, seen)) for machine in Machine.objects.all()]


def _slots(machine: Machine, running: list[Job], seen: set[int]) -> list[Slot]:
    held = {slot: job for job in running if job.host == machine.host for slot in job.held_slots}
    return [
        Slot(
            number,
            _device(machine.facts, number),
            held.get(number),
            number in held and held[number].pk not in seen,
        )
        for number in range(machine.facts["slots"])
    ]


def _device(facts: dict[str, Any], slot: int) -> dict[str, Any] | None:
    """The device that the operator has given a slot, else the only one there is; None: the processor, or whichever."""
    gpus, named = facts["gpus"], facts["devices"]
    if slot < len(named):
        return next((gpu for gpu in gpus if named[slot] in (gpu["number"], gpu["uuid"])), None)
    return gpus[0] if len(gpus) == 1 else None
