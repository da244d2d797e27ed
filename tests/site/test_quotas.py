"""How much a project may take: disk and device hours, limits set by operators, and what happens at the limit."""

from datetime import UTC, datetime, timedelta

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import Document
from datasets_app.services.datasets import import_examples, seal_version
from datasets_app.services.documents import DocumentError, delete_document, upload_document
from datasets_app.services.errors import DatasetError
from finetune_site.jobs import dispatch, queue, usage
from finetune_site.jobs import services as jobs
from finetune_site.jobs.models import DeviceUse, Job, JobState
from finetune_site.projects.models import AuditEntry, Project
from finetune_site.projects.quotas import GB
from finetune_site.projects.services import set_limits
from tests.factories import claim
from training_app.models import Export, Run
from training_app.services import benchmarks, housekeeping, publishing, runs, use
from training_app.services.runs import TrainingError

pytestmark = pytest.mark.django_db
NO_TOKEN = "00000000-0000-0000-0000-000000000001"


def training(project, owner, label="a run", slots=1) -> Job:
    return jobs.enqueue(project=project, owner=owner, kind="training.train", label=label, slots=slots)


def began(job: Job, **ago) -> Job:
    """As if the attempt had begun so long ago."""
    Job.objects.filter(pk=job.pk).update(started_at=timezone.now() - timedelta(**ago))
    return job


def fill(project, free: int) -> None:
    Project.objects.filter(pk=project.pk).update(disk_bytes=GB - free)


@pytest.fixture
def limited(project, operator):
    set_limits(actor=operator, project=project, disk_limit_gb=1, device_hours_limit=2)
    project.refresh_from_db()
    return project


@pytest.fixture
def mid_month(monkeypatch):
    """So that an hour ago is in this month."""
    start = datetime.now(UTC) - timedelta(days=10)
    monkeypatch.setattr(usage, "month_start", lambda: start)


@pytest.fixture
def make_run(limited, owner, version, base, settings, tmp_path):
    settings.DATA_DIR = tmp_path / "data"

    def make(state=None):
        run = Run.objects.create(
            project=limited, name="R", version=version, base=base, method="lora", preset="quick", config={},
            created_by=owner,
        )  # fmt: skip
        if state:
            for place in ("checkpoints/step-5/w", "exports/merged/w", "adapter/w", "best.safetensors"):
                (run.folder / place).parent.mkdir(parents=True, exist_ok=True)
                (run.folder / place).write_bytes(b"x" * 100)
            run.job = training(limited, owner)
            run.save()
            token = NO_TOKEN if state == JobState.RUNNING else None
            Job.objects.filter(pk=run.job_id).update(state=state, token=token, started_at=timezone.now())
            run.refresh_from_db()
        return run

    return make


def test_an_upload_counts_and_a_full_project_takes_none(limited, owner):
    def send(name, content):
        return upload_document(actor=owner, project=limited, name=name, blocks=[content]).document

    document = send("a.txt", b"twelve bytes")
    assert Project.objects.get(pk=limited.pk).disk_bytes == 12
    send("again.txt", b"twelve bytes")  # the same content is one document
    assert Project.objects.get(pk=limited.pk).disk_bytes == 12
    fill(limited, free=20)
    with pytest.raises(DocumentError, match="it may take 1 GB of disk"):
        send("b.txt", b"one and twenty bytes.")
    assert not Document.objects.filter(name="b.txt").exists()
    assert Project.objects.get(pk=limited.pk).disk_bytes == GB - 20
    send("c.txt", b"just twenty bytes :)")
    with pytest.raises(DocumentError, match="no room left"):
        send("d.txt", b"x")
    Job.objects.update(state=JobState.SUCCEEDED)
    document.refresh_from_db()
    delete_document(actor=owner, document=document)
    assert Project.objects.get(pk=limited.pk).disk_bytes == GB - 12


def test_imports_and_versions_count_and_are_refused(limited, owner, version, client_of):
    dataset = version.dataset
    line = b'{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]}\n'
    batch = import_examples(actor=owner, dataset=dataset, name="a.jsonl", format="", blocks=[line])
    assert batch.size == len(line) and Project.objects.get(pk=limited.pk).disk_bytes == len(line)
    use.measure_projects()
    assert Project.objects.get(pk=limited.pk).disk_bytes == len(line) + version.size
    fill(limited, free=0)
    with pytest.raises(DatasetError, match="no room left"):
        import_examples(actor=owner, dataset=dataset, name="b.jsonl", format="", blocks=[line])
    answer = client_of(owner).post(
        reverse("import_examples", args=[dataset.pk]), {"text": line.decode(), "confirm": "1"}
    )
    assert answer.status_code == 200 and "no room left" in answer.content.decode()
    with pytest.raises(DatasetError, match="no room left"):
        seal_version(actor=owner, dataset=dataset)


def test_runs_are_measured_and_a_full_project_starts_none(limited, owner, make_run):
    run, draft = make_run(JobState.RUNNING), make_run()
    use.measure_projects()
    found = use.use_of(limited)
    assert found.disk["Runs, their checkpoints and exports"] == 400 and found.disk_limit == GB
    assert Project.objects.get(pk=limited.pk).disk_bytes == found.disk_bytes == 400 + run.version.size
    fill(limited, free=0)
    with pytest.raises(TrainingError, match="no room left"):
        runs.start_run(actor=owner, run=draft)
    Job.objects.filter(pk=run.job_id).update(state=JobState.CANCELLED, token=None)
    run.refresh_from_db()
    with pytest.raises(TrainingError, match="no room left"):
        runs.resume_run(actor=owner, run=run)
    with pytest.raises(jobs.JobError, match="no room left"):
        jobs.requeue(actor=owner, job=run.job)
    Job.objects.filter(pk=run.job_id).update(state=JobState.SUCCEEDED)
    Run.objects.filter(pk=run.pk).update(result={"steps": 1})
    run = Run.objects.get(pk=run.pk)
    with pytest.raises(TrainingError, match="no room left"):
        publishing.start_export(actor=owner, run=run, format="merged")


def test_every_end_of_an_attempt_is_charged_once(limited, owner, mid_month):
    done = began(claim(training(limited, owner)), hours=1)
    queue.finish(done, JobState.SUCCEEDED)
    with pytest.raises(queue.LeaseLost):
        queue.finish(done, JobState.SUCCEEDED)
    assert DeviceUse.objects.get().seconds == pytest.approx(3600, abs=60)
    back = began(claim(training(limited, owner)), minutes=10)
    queue.release(back, message="leaves", is_attempt=False)
    with pytest.raises(queue.LeaseLost):
        queue.release(back, message="leaves", is_attempt=False)
    assert DeviceUse.objects.count() == 2
    lost = began(claim(back), minutes=30)
    until = timezone.now() - timedelta(minutes=20)  # its lease ended before anybody looked
    Job.objects.filter(pk=lost.pk).update(pid_started=1, lease_until=until)
    assert dispatch.reconcile() == [lost.pk]
    assert [round(row.seconds / 60) for row in DeviceUse.objects.order_by("pk")] == [60, 10, 10]
    assert usage.used_seconds(limited) == pytest.approx(80 * 60, abs=60)


def test_two_devices_count_twice_and_a_running_job_counts_so_far(limited, owner, mid_month):
    job = claim(training(limited, owner, slots=2))
    Job.objects.filter(pk=job.pk).update(held_slots=[0, 1], started_at=timezone.now() - timedelta(minutes=15))
    assert usage.used_by(limited) == [("owner", "training.train", pytest.approx(30 * 60, abs=60))]
    parse = jobs.enqueue(project=limited, owner=owner, kind="datasets.parse", label="no device")
    queue.finish(began(claim(parse), hours=5), JobState.SUCCEEDED)
    assert usage.used_seconds(limited) == pytest.approx(30 * 60, abs=60)


def test_only_this_month_counts(limited, owner):
    month = usage.month_start()
    assert (month.day, month.hour, month.tzinfo) == (1, 0, UTC)
    job = training(limited, owner)
    for started, ended in ((-3, -1), (-1, 2), (3, 4)):  # hours from the start of the month
        DeviceUse.objects.create(
            job=job, devices=1, started_at=month + timedelta(hours=started), ended_at=month + timedelta(hours=ended)
        )
    assert usage.used_seconds(limited) == 3 * 3600


def test_used_up_hours_stop_what_runs_and_waits(limited, operator, owner, mid_month):
    first, second = (training(limited, owner, label=label) for label in ("first", "second"))
    elsewhere = training(Project.objects.create(name="Other", created_by=owner), owner)
    began(claim(first), hours=1)
    assert jobs.stop_beyond_limit() == 0
    began(first, hours=3)
    assert jobs.stop_beyond_limit() == 2
    assert jobs.stop_beyond_limit() == 0  # told once
    running, waiting = Job.objects.get(pk=first.pk), Job.objects.get(pk=second.pk)
    assert (running.state, running.cancel_requested, waiting.state) == (JobState.RUNNING, True, JobState.CANCELLED)
    assert "used up its 2 device hours" in waiting.error_text
    queue.finish(running, JobState.CANCELLED, message="Stopped; what was done so far is kept")
    running = Job.objects.get(pk=first.pk)
    assert "used up its 2 device hours" in running.error_text
    assert Job.objects.get(pk=elsewhere.pk).state == JobState.QUEUED
    told = AuditEntry.objects.filter(project=limited, verb="stopped")
    assert told.count() == 2 and all(entry.actor is None and "2 device hours" in entry.after["why"] for entry in told)
    with pytest.raises(jobs.JobError, match="Ask an operator for more"):
        jobs.requeue(actor=owner, job=running)
    set_limits(actor=operator, project=limited, disk_limit_gb=None, device_hours_limit=40)
    running = Job.objects.get(pk=first.pk)
    jobs.requeue(actor=owner, job=running)
    running.refresh_from_db()
    assert (running.state, running.error_text) == (JobState.QUEUED, "")


def test_nothing_starts_on_a_device_without_hours(limited, owner, operator, make_run):
    set_limits(actor=operator, project=limited, disk_limit_gb=None, device_hours_limit=0)
    done = make_run(JobState.SUCCEEDED)
    Run.objects.filter(pk=done.pk).update(result={"steps": 1})
    done = Run.objects.get(pk=done.pk)
    for start in (
        lambda: runs.start_run(actor=owner, run=Run.objects.get(pk=make_run().pk)),
        lambda: runs.start_evaluation(actor=owner, run=done),
        lambda: benchmarks.start_benchmark(actor=owner, run=done, tasks=["arc_easy"], limit=10),
    ):
        with pytest.raises(TrainingError, match="used up its 0 device hours"):
            start()


def test_the_site_sets_what_projects_do_not(project, settings):
    assert (usage.device_limit(project), use.use_of(project).disk_limit) == (None, None)
    settings.PROJECT_DISK_GB, settings.PROJECT_DEVICE_HOURS = 3, 5
    assert (usage.device_limit(project), use.use_of(project).disk_limit) == (5, 3 * GB)
    project.disk_limit_gb = project.device_hours_limit = 0
    assert (usage.device_limit(project), use.use_of(project).disk_limit) == (0, 0)


def test_operators_alone_set_limits_and_all_members_see_them(project, operator, owner, viewer, client_of):
    url = reverse("project_use", args=[project.pk])
    wanted = {"disk_limit_gb": "7", "device_hours_limit": ""}
    for user in (owner, viewer):
        assert client_of(user).post(url, wanted).status_code == 403
        page = client_of(user).get(url).content.decode()
        assert "disk_limit_gb" not in page and ("Clean up checkpoints" in page) == (user == owner)
    page = client_of(operator).post(url, wanted, follow=True).content.decode()
    assert "The limits are kept." in page and "of 7.0\xa0GB" in page
    assert "of 7.0\xa0GB" in client_of(viewer).get(url).content.decode()
    assert AuditEntry.objects.get(verb="set the limits of").changes == [("disk in GB", None, 7)]
    refused = client_of(operator).post(url, {"disk_limit_gb": "-1"})
    assert "greater than or equal to 0" in refused.content.decode()
    assert Project.objects.get(pk=project.pk).disk_limit_gb == 7


def test_a_page_says_that_the_project_is_full(limited, owner, client_of):
    fill(limited, free=0)
    sent = client_of(owner).post(
        reverse("document_upload", args=[limited.pk]), {"files": SimpleUploadedFile("a.txt", b"words")}, follow=True
    )
    assert "The project has no room left" in sent.content.decode()


def test_an_operator_purges_what_can_be_made_again(limited, operator, owner, make_run, client_of):
    run = make_run(JobState.RUNNING)
    Export.objects.create(run=run, format="merged", created_by=owner, result={"file": "w", "problem": ""})
    with pytest.raises(TrainingError, match="has not ended"):
        housekeeping.purge_run(actor=operator, run=run)
    Job.objects.filter(pk=run.job_id).update(state=JobState.SUCCEEDED, token=None)
    answer = client_of(operator).post(
        reverse("admin:projects_project_changelist"), {"action": "purge", "_selected_action": [limited.pk]}, follow=True
    )
    assert "300\xa0bytes are free again." in answer.content.decode()
    assert sorted(path.name for path in run.folder.iterdir()) == ["adapter"] and not Export.objects.exists()
    assert AuditEntry.objects.get(verb="purged").after == {"freed_bytes": 300}
    run.refresh_from_db()
    assert run.disk_bytes == 100 and Project.objects.get(pk=limited.pk).disk_bytes == 100 + run.version.size
    assert "100\xa0bytes" in client_of(operator).get(reverse("admin:training_app_run_changelist")).content.decode()
