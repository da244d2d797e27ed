"""Drives a running site through every loss a run must survive, and prints what it saw as JSON. Started by
test_recovery.py with the site's data folder in its environment."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import django
import psutil

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "finetune_site.settings")
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth.models import User  # noqa: E402
from django.db import InterfaceError, OperationalError, connection  # noqa: E402

from datasets_app.models import DatasetVersion  # noqa: E402
from datasets_app.services import datasets, examples  # noqa: E402
from finetune_site.jobs.models import Job, JobState  # noqa: E402
from finetune_site.lib.postgres import home  # noqa: E402
from finetune_site.projects.services import create_project  # noqa: E402
from training_app.engine.spec import knobs  # noqa: E402
from training_app.forms.runs import HIDDEN  # noqa: E402
from training_app.models import BaseModel, Metric, Run  # noqa: E402
from training_app.services import runs as services  # noqa: E402

STEPS = 320
WAIT_SECONDS = 1200


def main(tiny: str) -> None:
    actor = User.objects.get(username="operator")
    base = BaseModel.objects.create(name="tiny:1", title="Tiny", source="folder", location=tiny)
    project = create_project(actor=actor, name="Recovery")
    version = make_version(actor, project)
    disturbed = start(actor, project, version, base, "disturbed")
    events = {}
    for name, disturb in DISTURBANCES.items():
        before = wait_for_step(disturbed, 20)
        disturb(disturbed)
        events[name] = {"at": before, "went_on_at": wait_for_step(disturbed, 20)}
    wait_for_end(disturbed)
    calm = start(actor, project, version, base, "calm")
    wait_for_end(calm)
    report(disturbed, calm, events)


def make_version(actor, project) -> DatasetVersion:
    dataset = datasets.create_dataset(actor=actor, project=project, name="Facts")
    for number in range(60):
        answer = f"Part {number} of the machine weighs {number * 7} kg and costs {number * 3} crowns."
        turns = [{"role": "user", "content": f"What of part {number}?"}, {"role": "assistant", "content": answer}]
        examples.write_example(actor=actor, dataset=dataset, content={"messages": turns})
    examples.judge_all(actor=actor, dataset=dataset, examples=dataset.examples.all(), verdict="approved")
    version = datasets.seal_version(actor=actor, dataset=dataset, validation_share=0)
    patiently(lambda: DatasetVersion.objects.sealed().filter(pk=version.pk).exists())
    return DatasetVersion.objects.get(pk=version.pk)


def start(actor, project, version, base, name) -> Run:
    config = {knob: value for knob, value in knobs("dora", "balanced").items() if knob not in HIDDEN}
    config |= {"epochs": 1000, "max_steps": STEPS, "batch_rows": 30, "checkpoint_every": 10, "rank": 4, "alpha": 8}
    run = services.plan_run(
        actor=actor, project=project, name=name, version=version, base=base, method="dora", preset="balanced",
        config=config, is_evaluated_after=False,
    )  # fmt: skip
    patiently(lambda: Job.objects.get(pk=run.preview_job_id).state == JobState.SUCCEEDED)
    return services.start_run(actor=actor, run=run)


def kill_engine(run: Run) -> None:
    os.kill(Job.objects.get(pk=run.job_id).engine_pid, signal.SIGKILL)


def kill_runner(run: Run) -> None:
    os.kill(Job.objects.get(pk=run.job_id).pid, signal.SIGKILL)


def kill_workers(run: Run) -> None:
    """One worker of each cluster, as it is: idle or in a task. The lowest leaf of a cluster's family is one."""
    for pid in clusters():
        leaves = [child for child in psutil.Process(pid).children(recursive=True) if not child.children()]
        leaves[0].kill()


def kill_clusters(run: Run) -> None:
    """The watchdogs and everything of theirs, at once."""
    for pid in clusters():
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        for process in family:
            process.kill()


def kill_web(run: Run) -> None:
    os.kill(programs()[0], signal.SIGKILL)


def restart_postgres(run: Run) -> None:
    lock = home(settings.DATA_DIR) / "data" / "postmaster.pid"
    os.kill(int(lock.read_text().split()[0]), signal.SIGINT)
    time.sleep(3)


DISTURBANCES = {
    "training process": kill_engine,
    "runner": kill_runner,
    "workers": kill_workers,
    "clusters": kill_clusters,
    "web server": kill_web,
    "postgres": restart_postgres,
}


def programs() -> list[int]:
    """The web server and the two clusters, as `up` wrote them down."""
    return [pid for pid, _ in json.loads((Path(settings.DATA_DIR) / "run" / "up.json").read_text())]


def clusters() -> list[int]:
    return programs()[1:]


def wait_for_step(run: Run, more: int) -> int:
    """Wait until the run is `more` steps further than now (or has ended); returns where it then is."""
    goal = min(last_step(run) + more, STEPS)
    patiently(lambda: last_step(run) >= goal)
    return last_step(run)


def last_step(run: Run) -> int:
    steps = Metric.objects.filter(run=run).order_by("-step").values_list("step", flat=True)
    return patiently(lambda: [steps.all().first() or 0])[0]


def wait_for_end(run: Run) -> None:
    patiently(lambda: Job.objects.get(pk=run.job_id).is_finished)


def patiently(is_so) -> None:
    """Wait until it is so, and return what it said; Postgres may be away meanwhile."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            if answer := is_so():
                return answer
        except (OperationalError, InterfaceError):
            connection.close()
        time.sleep(0.1)
    raise TimeoutError("the site did not go on")


def report(disturbed: Run, calm: Run, events: dict) -> None:
    series = {
        run.name: list(Metric.objects.filter(run=run, name="loss").order_by("step").values_list("step", "value"))
        for run in (disturbed, calm)
    }
    job = Job.objects.get(pk=disturbed.job_id)
    overlaps = job.events.filter(kind="state", payload__state="running").count()
    difference = max(abs(one[1] - two[1]) for one, two in zip(series["disturbed"], series["calm"], strict=True))
    print(  # noqa: T201
        json.dumps(
            {
                "state": job.state,
                "error": job.error_text,
                "attempts": job.attempt,
                "claims": overlaps,
                "steps": [step for step, _ in series["disturbed"]],
                "difference": difference,
                "events": events,
            }
        )
    )


if __name__ == "__main__":
    main(sys.argv[1])
