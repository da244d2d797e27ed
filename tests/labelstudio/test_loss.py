"""Two thousand examples on their way into the real Label Studio, with a real runner that is killed and a line that
loses an answer: each arrives once."""

import os
import random
import select
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from datasets_app.models import Example, ExampleText, LabelStudioLink, LabelStudioTask
from datasets_app.services import datasets
from datasets_app.services import labelstudio as services
from finetune_site.jobs.dispatch import reconcile
from finetune_site.jobs.models import Job, JobState
from tests.factories import wait_until
from tests.labelstudio.test_review import turns

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True)]
MANY, BATCH = 2000, 100


class Line(socketserver.ThreadingTCPServer):
    """To Label Studio and back; the answer to the import number `lose_at` is cut off once it was done there."""

    daemon_threads = True

    def __init__(self, there: str, lose_at: int) -> None:
        super().__init__(("127.0.0.1", 0), Wire)
        self.there, self.lose_at = (urlsplit(there).hostname, urlsplit(there).port), lose_at
        self.imports = self.lost = 0


class Wire(socketserver.BaseRequestHandler):
    server: Line

    def handle(self) -> None:
        is_losing = False
        with socket.create_connection(self.server.there) as there:
            while True:
                for end in select.select([self.request, there], [], [])[0]:
                    if not (data := end.recv(65536)):
                        return
                    if end is there:
                        if is_losing:
                            self.server.lost += 1
                            return
                        self.request.sendall(data)
                        continue
                    if data.startswith(b"POST ") and b"/import" in data.split(b"\r\n", 1)[0]:
                        self.server.imports += 1
                        is_losing = self.server.imports == self.server.lose_at
                    there.sendall(data)


@pytest.fixture
def line(label_studio_server) -> Iterator[Line]:
    with Line(label_studio_server.url, random.randint(2, MANY // BATCH - 1)) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made
        made.shutdown()


def test_two_thousand_survive_a_kill_and_a_lost_answer(project, trainer, server, there, line, runner):
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Many")
    fill(dataset, trainer)
    server.url = f"http://127.0.0.1:{line.server_address[1]}"
    server.save()
    services.start_sending(actor=trainer, dataset=dataset, server=server, chosen={})
    killed_at = random.randrange(1, MANY // 2)  # late enough to have begun, and far enough from its end
    first = runner()
    wait_until(lambda: LabelStudioTask.objects.exclude(remote_id=None).count() >= killed_at, first)
    time.sleep(random.random() / 4)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    job = Job.objects.get(kind="datasets.label_studio_send")
    assert job.state == JobState.RUNNING
    assert reconcile() == [job.pk]
    Job.objects.filter(pk=job.pk).update(not_before=None)
    runner().wait()
    job.refresh_from_db()
    # A third attempt is due when the answer that was lost is the one to what the killed runner had left unsent.
    told = (killed_at, line.lose_at, job.error_text)
    assert (job.state, line.lost) == ("succeeded", 1) and job.attempt in (2, 3), told
    remote = LabelStudioLink.objects.get().projects.get().remote_id
    tasks = there.tasks.list(project=remote, fields="task_only", include="id,data", page_size=1000)
    found = {task.id: int(task.data["example"]) for task in tasks}
    assert (len(found), len(set(found.values()))) == (MANY, MANY), (killed_at, line.lose_at)
    assert found == dict(LabelStudioTask.objects.values_list("remote_id", "example_id"))


def fill(dataset, author) -> None:
    """Many examples at once."""
    made = Example.objects.bulk_create([Example(dataset=dataset, origin="written", author=author) for _ in range(MANY)])
    texts = [
        ExampleText(example=example, content=turns(f"What is {number}?", f"It is {number}."), author=author, search="")
        for number, example in enumerate(made)
    ]
    for example, text in zip(made, ExampleText.objects.bulk_create(texts), strict=True):
        example.text = text
    Example.objects.bulk_update(made, ["text"], batch_size=500)
