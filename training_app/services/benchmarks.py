"""What people do with public benchmarks: run some of them on a finished run and its base."""

from collections.abc import Sequence

from django.conf import settings
from django.contrib.auth.models import User
from django.db import transaction

from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import UNFINISHED
from finetune_site.jobs.usage import device_refusal
from finetune_site.projects.services import audit
from training_app.engine.suites import INSTALL, is_installed, runnable
from training_app.models import Benchmark, Run
from training_app.services.runs import TrainingError


@transaction.atomic
def start_benchmark(*, actor: User, run: Run, tasks: Sequence[str], limit: int) -> Benchmark:
    """Queue tasks of lm-eval for both models of a finished run; their names must be ones that are offered."""
    if not is_installed():
        raise TrainingError(INSTALL)
    if not run.is_done:
        raise TrainingError("Only a finished run can be measured. Let it end first.")
    if run.benchmarks.filter(job__state__in=UNFINISHED).exists():
        raise TrainingError("The run is being measured already. Let it end, or stop it.")
    if told := device_refusal(run.project):
        raise TrainingError(told)
    offered = runnable(settings.LM_EVAL_TASKS)
    if unknown := [name for name in tasks if name not in offered]:
        raise TrainingError(f"There is no benchmark {unknown[0]!r} here. Choose from the list.")
    benchmark = Benchmark.objects.create(run=run, tasks=list(tasks), limit=limit, created_by=actor)
    benchmark.job = jobs.enqueue(
        project=run.project,
        owner=actor,
        kind="training.benchmark",
        label=run.name,
        url=benchmark.get_absolute_url(),
    )
    benchmark.save(update_fields=["job"])
    audit(run.project, actor, "ran benchmarks on", run, after={"tasks": list(tasks), "limit": limit})
    return benchmark
