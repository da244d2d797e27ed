"""What the portal adds to Label Studio's own time: pushing examples, and bringing decisions back.

Side by side on one real server: the SDK's bare calls (batches of 100; a list of the annotated tasks), and the portal's
jobs, which also keep a mark of every push and a history of every decision. Pulls come after a first part of the
decisions and after all of them; the same number of decisions is taken among few tasks and among many, as the time has
to follow the decisions and not what waits beside them. Run alone, after
`make .venv-label-studio/ready`: `.venv/bin/python benchmarks/label_studio.py [--examples 2000] [--decisions 500]`.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PROGRAM = ROOT / ".venv-label-studio" / "bin" / "label-studio"
PASSWORD = "a-Password-for-figures-1"
BATCH = 100


def main() -> None:
    from finetune_site.lib import label_studio
    from finetune_site.lib.postgres import Embedded

    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=2000)
    parser.add_argument("--decisions", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        Path(folder).chmod(0o755)
        os.environ.pop("DATABASE_URL", None)
        os.environ.update(FINETUNE_DATA_DIR=folder, DJANGO_SETTINGS_MODULE="finetune_site.settings")
        postgres = Embedded(Path(folder), durable=True)
        postgres.start()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        there = label_studio.start_from(
            PROGRAM.parents[1] / "template-for-figures", PROGRAM, Path(folder) / "there", port=port, password=PASSWORD
        )
        try:
            import django

            os.environ["DATABASE_URL"] = postgres.dsn
            django.setup()
            token = label_studio.mint_token(there.url, PASSWORD)
            sizes = {"few": options.decisions, "many": options.examples}
            figures = {name: measure(there.url, token, size, options.decisions) for name, size in sizes.items()}
        finally:
            there.stop()
            postgres.stop()
    for name, size in sizes.items():
        print(f"{options.decisions} decisions among {size} tasks:")
        print(f"{'':30} {'bare calls':>12} {'portal':>12}")
        for told, key in (("push", "push"), ("pull of a fifth", "pull_part"), ("pull of all, in two", "pull")):
            print(f"{told:30} {figures[name][key]['raw']:10.2f} s {figures[name][key]['portal']:10.2f} s")
    few, many = figures["few"], figures["many"]
    print(
        json.dumps(
            {
                "tasks": list(sizes.values()),
                "decisions": options.decisions,
                "push_over_raw": round(many["push"]["portal"] / many["push"]["raw"], 2),
                "pull_500_over_raw": round(many["pull"]["portal"] / many["pull"]["raw"], 2),
                "pull_milliseconds_a_decision": round(1000 * many["pull"]["portal"] / options.decisions, 1),
                "pull_among_many_over_few": round(many["pull"]["portal"] / few["pull"]["portal"], 2),
            }
        )
    )


def measure(url: str, token: str, examples: int, decisions: int) -> dict[str, dict[str, float]]:
    """Seconds of each, by what and who."""
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    from datasets_app.labelstudio import Client
    from datasets_app.models import LabelStudioTask
    from datasets_app.services import labelstudio as services

    dataset, server, author = prepare(url, token, examples)
    client = Client(url, token)
    rows = [row_of(number) for number in range(examples)]
    bare = bare_project(client)
    figures: dict[str, dict[str, float]] = {"push": {}, "pull": {}, "pull_part": {}}
    figures["push"]["raw"] = timed(partial(push_bare, client, bare, rows))
    services.start_sending(actor=author, dataset=dataset, server=server, chosen={})
    figures["push"]["portal"] = timed(work)
    link = dataset.label_studio
    project = link.projects.get()
    tasks = list(LabelStudioTask.objects.filter(project=project).values_list("remote_id", flat=True)[:decisions])
    part = decisions // 5
    for name, chosen in (("pull_part", tasks[:part]), ("pull", tasks[part:])):
        annotate(client, chosen)
        project.refresh_from_db()
        figures[name]["raw"] = timed(partial(pull_bare, client, project.remote_id, project.seen_until))
        services.hint(link)
        figures[name]["portal"] = timed(work)
    figures["pull"] = {who: figures["pull"][who] + figures["pull_part"][who] for who in ("raw", "portal")}
    assert dataset.examples.filter(state="approved").count() == decisions
    return figures


def prepare(url: str, token: str, count: int) -> Any:
    """A project with a dataset of `count` examples, and the server."""
    from django.contrib.auth.models import User

    from datasets_app.models import Example, ExampleText, LabelStudioServer
    from datasets_app.services.datasets import create_dataset
    from finetune_site.projects.services import create_project

    author, _ = User.objects.get_or_create(username="author")
    dataset = create_dataset(actor=author, project=create_project(actor=author, name="P"), name="Many")
    made = Example.objects.bulk_create(
        [Example(dataset=dataset, origin="written", author=author) for _ in range(count)]
    )
    texts = [
        ExampleText(example=example, author=author, search="", content=content_of(number))
        for number, example in enumerate(made)
    ]
    for example, text in zip(made, ExampleText.objects.bulk_create(texts), strict=True):
        example.text = text
    Example.objects.bulk_update(made, ["text"], batch_size=500)
    server, _ = LabelStudioServer.objects.get_or_create(name="There", url=url)
    server.token = token
    server.save()
    return dataset, server, author


def content_of(number: int) -> dict[str, Any]:
    question, answer = f"What does part {number} weigh?", f"Part {number} weighs {number} kg, with its screws."
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def row_of(number: int) -> dict[str, str]:
    from datasets_app.engine import labelling

    shown = {"source_title": "Written by author", "source_text": "There is no source passage.", "portal_state": ""}
    values = labelling.to_values(labelling.SINGLE, content_of(number))
    return {"example": str(number), "push_id": "bare", "portal_link": "This example", **shown, **values}


def bare_project(client: Any) -> int:
    from datasets_app.engine import labelling

    made = client.create_project(title="Bare", description="", config=labelling.config(labelling.SINGLE))
    return int(made.id)


def push_bare(client: Any, project: int, rows: list[dict[str, str]]) -> None:
    """The SDK alone, in batches as large as the portal's."""
    for start in range(0, len(rows), BATCH):
        tasks = [{"data": row} for row in rows[start : start + BATCH]]
        client._sdk.projects.import_tasks(project, request=tasks, return_task_ids=True)


def pull_bare(client: Any, project: int, since: Any) -> list[Any]:
    """The SDK alone, with its own pages: the tasks that were touched since then, with their annotations."""
    column, value, kind = ("updated_at", f"{since:%Y-%m-%dT%H:%M:%S.%fZ}", "Datetime") if since else (
        "total_annotations", 0, "Number",
    )  # fmt: skip
    item = {"filter": f"filter:tasks:{column}", "operator": "greater", "value": value, "type": kind}
    query = json.dumps({"filters": {"conjunction": "and", "items": [item]}})
    return list(client._sdk.tasks.list(project=project, query=query, page_size=BATCH, fields="all", resolve_uri=False))


def annotate(client: Any, tasks: list[int | None]) -> None:
    value = {"from_name": "verdict", "to_name": "source", "type": "choices", "value": {"choices": ["approve"]}}
    for task in tasks:
        client._sdk.annotations.create(task, result=[value])


def work() -> None:
    """Do what waits, as a runner does."""
    from finetune_site.jobs import queue
    from finetune_site.jobs.runner import Runner
    from finetune_site.lib.kernel import start_time

    while job := queue.claim("default", pid=os.getpid(), pid_started=start_time(os.getpid()) or 0):
        Runner("default", 0).do(job)


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
