"""How long the site's list and detail pages take on a large site, under people who click and read.

Fills an embedded Postgres with one project that holds everything, counts each page's queries before (a handful of rows)
and after (all of them), then lets users open pages at random from web processes as `make run` starts them, thinking
five seconds in between. Database, web processes and users share the machine. Run alone:
`.venv/bin/python benchmarks/pages.py [--examples 1000000] [--documents 10000] [--runs 1000] [--points 10000]`.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
DATASETS = 20
FEW = {"examples": 40, "documents": 20, "runs": 3, "points": 20}
WARM_SECONDS = 10


def main() -> None:
    from live import free_port, start_web

    from finetune_site.lib.postgres import Embedded

    parser = argparse.ArgumentParser()
    for name, number in (("examples", 1_000_000), ("documents", 10_000), ("runs", 1_000), ("points", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--think", type=float, default=5.0)
    parser.add_argument("--processes", type=int, default=1, help="that serve pages (WEB_CONCURRENCY)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="finetune-bench-") as folder:
        Path(folder).chmod(0o755)
        os.environ.pop("DATABASE_URL", None)
        os.environ.update(FINETUNE_DATA_DIR=folder, DJANGO_SETTINGS_MODULE="finetune_site.settings")
        server = Embedded(Path(folder), durable=False)
        server.start()
        web = None
        try:
            import django

            django.setup()
            keys = prepare()
            fill(keys, **FEW)
            addresses = pages(keys)
            few = queries(addresses)
            began = time.perf_counter()
            rest = {name: getattr(options, name) - FEW[name] for name in FEW if name != "points"}
            fill(keys, **rest, points=options.points)
            filled = time.perf_counter() - began
            many = queries(addresses)
            port = free_port()
            os.environ["WEB_CONCURRENCY"] = str(options.processes)
            web = start_web(port, "finetune_site.asgi:application")
            alone = asyncio.run(one_after_another(addresses, port))
            times = asyncio.run(many_users(addresses, port, options.users, options.seconds, options.think))
        finally:
            if web:
                web.terminate()
                web.wait(20)
            server.stop()
    report(few, many, alone, times, filled)


def prepare() -> dict[str, int]:
    """The empty site, its people and its project; the keys that the rows below take."""
    from django.contrib.auth.models import User
    from django.core.management import call_command

    from finetune_site.projects.models import Role
    from finetune_site.projects.services import create_project, set_role
    from training_app.models import BaseModel

    for command in ("migrate", "createcachetable"):
        call_command(command, verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    owner = User.objects.create_user("owner", "", "password-for-the-benchmark")
    project = create_project(actor=owner, name="Benchmark")
    trainer = User.objects.create_user("trainer", "", "password-for-the-benchmark")
    set_role(actor=owner, project=project, user=trainer, role=Role.TRAINER)
    base = BaseModel.objects.order_by("pk").first()
    assert base
    from datasets_app.services.datasets import create_dataset

    datasets = [create_dataset(actor=owner, project=project, name=f"Dataset {number}") for number in range(DATASETS)]
    from datasets_app.models import DatasetVersion

    version = DatasetVersion.objects.create(dataset=datasets[0], number=1, created_by=owner)
    return {
        "owner": owner.pk, "project": project.pk, "base": base.pk, "version": version.pk,
        "first_dataset": datasets[0].pk, "last_dataset": datasets[-1].pk,
    }  # fmt: skip


def fill(keys: dict[str, int], *, examples: int, documents: int, runs: int, points: int) -> None:
    """So many rows more of each kind, by the database itself, in the shape that the site gives them."""
    from django.db import connection

    from datasets_app.services.datasets import settle_tally

    k = keys
    # Numbers of ours alone; no text of a user's is in these statements.
    with connection.cursor() as cursor:
        cursor.execute("select coalesce(max(id), 0) from datasets_app_document")
        d = cursor.fetchone()[0]
        cursor.execute("select coalesce(max(id), 0) from datasets_app_example")
        e = cursor.fetchone()[0]
        cursor.execute("select coalesce(max(id), 0) from training_app_run")
        r = cursor.fetchone()[0]
        statements = [
            f"""insert into jobs_job (project_id, owner_id, kind, queue, label, url, state, priority, slots,
              done, total,
              unit, message, counted_from, attempt, max_attempts, cancel_requested, error_code, error_text, host,
              held_slots, created_at, started_at, finished_at)
            select {k["project"]}, {k["owner"]}, kind, 'default', 'work ' || n, '/', 'succeeded', 0, 1, 1, 1,
              '', '', 0, 1, 3, false, '', '', '', '{{}}', now() - n * interval '1 minute',
              now() - n * interval '1 minute', now() - n * interval '1 minute' + interval '20 seconds'
            from (values ('datasets.parse', {documents}), ('training.train', {runs})) as kinds (kind, count),
              generate_series(1, count) as n""",
            f"""insert into datasets_app_document (id, project_id, name, sha256, size, media_type, uploaded_by_id,
              uploaded_at, job_id, parsed_at, parser, pages, characters, warnings)
            select {d} + n, {k["project"]}, 'Manual ' || ({d} + n) || '.pdf', md5(({d} + n)::text) || md5('x'), 100000,
              'application/pdf', {k["owner"]}, now() - n * interval '1 minute', job, now(), 'p', 12, 20000, '[]'
            from (select id as job, row_number() over (order by id) as n from jobs_job j where kind = 'datasets.parse'
              and not exists (select from datasets_app_document where job_id = j.id)) as jobs where n <= {documents}""",
            f"""insert into datasets_app_chunk (document_id, index, text, section, section_key, spans,
              page_start, page_end)
            select {d} + n, i, 'The pump of machine ' || n || ' needs oil after ' || i || ' hours of work.',
              '[]', 's', '[]', i, i from generate_series(1, {documents}) as n, generate_series(0, 5) as i""",
            f"""insert into datasets_app_example (id, dataset_id, kind, state, origin, author_id,
              decided_by_id, decided_at,
              decided_name, created_at, document_id, document_name, page_start, page_end, section, section_key, quote,
              fact, wording, answer_key, generator, model, prompt_version)
            select {e} + n, {k["first_dataset"]} + n % {DATASETS}, 'chat',
              (array['draft', 'approved', 'approved', 'rejected'])[1 + n / {DATASETS} % 4], 'generated', {k["owner"]},
              case when n / {DATASETS} % 4 > 0 then {k["owner"]} end, now(), '', now(), {d} + 1 + n % {documents},
              'Manual.pdf', 1, 1, '[]', 's', '', md5(({e} + n)::text), 'w', '', 'g', '', ''
            from generate_series(1, {examples}) as n""",
            f"""insert into datasets_app_exampletext (id, example_id, number, content, search, author_id,
              author_name, at)
            select id, id, 1, jsonb_build_object('messages', jsonb_build_array(
                jsonb_build_object('role', 'user', 'content', 'When does machine ' || id || ' need oil?'),
                jsonb_build_object('role', 'assistant', 'content', 'After ' || id % 1000 || ' hours of work.'))),
              'When does machine ' || id || ' need oil? After ' || id % 1000 || ' hours of work.',
              {k["owner"]}, '', now()
            from datasets_app_example where id > {e}""",
            f"update datasets_app_example set text_id = id where id > {e}",
            f"""insert into training_app_run (id, project_id, name, version_id, base_id, method, preset, config,
              is_evaluated_after, created_by_id, created_at, job_id)
            select {r} + n, {k["project"]}, 'Run ' || ({r} + n), {k["version"]}, {k["base"]}, 'lora',
              'balanced', '{{}}',
              true, {k["owner"]}, now() - n * interval '1 hour', job
            from (select id as job, row_number() over (order by id) as n from jobs_job j where kind = 'training.train'
              and not exists (select from training_app_run where job_id = j.id)) as jobs where n <= {runs}""",
            f"""insert into training_app_metric (run_id, step, name, value)
            select {r} + n, step, 'loss', 1.0 / step
            from generate_series(1, {runs}) as n, generate_series(1, {points}) as step""",
            f"""insert into projects_auditentry (project_id, actor_id, verb, subject, at)
            select {k["project"]}, {k["owner"]}, 'approved', 'example ' || n, now() - n * interval '1 second'
            from generate_series(1, {examples // 10}) as n""",
        ]
        for statement in statements:
            cursor.execute(_with_defaults(cursor, statement))
        for table in ("datasets_app_document", "datasets_app_example", "datasets_app_exampletext", "training_app_run"):
            cursor.execute(f"select setval(pg_get_serial_sequence('{table}', 'id'), (select max(id) from {table}))")
        settle_tally()
        cursor.execute("vacuum analyze")


def _with_defaults(cursor: Any, statement: str) -> str:
    """Adds the columns that must not be null and that a statement leaves to the site's own defaults: empty ones."""
    table = statement.split()[2] if statement.lstrip().startswith("insert") else ""
    if not table:
        return statement
    cursor.execute(
        "select column_name, data_type from information_schema.columns where table_schema = current_schema() and "
        "table_name = %s and is_nullable = 'NO' and column_default is null and is_identity = 'NO'",
        [table],
    )
    head, rest = statement.split(")", 1)
    named = {name.strip() for name in head.split("(", 1)[1].replace("\n", " ").split(",")}
    empty = {"boolean": "false", "jsonb": "'{}'::jsonb", "timestamp with time zone": "now()", "ARRAY": "'{}'"}
    extra = {
        name: empty.get(kind, "0" if kind.endswith("int") or kind in ("integer", "double precision") else "''")
        for name, kind in cursor.fetchall()
        if name not in named
    }
    return _prepended(head, rest, extra) if extra else statement


def _prepended(head: str, rest: str, extra: dict[str, str]) -> str:
    # In front, as the end of a select list is hard to find.
    table, names = head.split("(", 1)
    at = rest.index("select") + len("select")
    return f"{table}({', '.join(extra)}, {names}){rest[:at]} {', '.join(extra.values())}, {rest[at:]}"


def pages(keys: dict[str, int]) -> dict[str, list[str]]:
    """Every list and detail page that grows with the site, each with addresses to choose from."""
    from django.urls import reverse

    from datasets_app.models import Document, Example
    from training_app.models import Run

    project, dataset = keys["project"], keys["last_dataset"]
    examples = f"{reverse('example_list', args=[dataset])}"
    few = {"document": Document, "document_chunks": Document, "example": Example, "run": Run}
    found = {
        "home": [reverse("home")],
        "project": [reverse("project", args=[project])],
        "documents": [reverse("document_list", args=[project])],
        "documents of a kind": [f"{reverse('document_list', args=[project])}?words=7&kind=application/pdf&state=read"],
        "datasets": [reverse("dataset_list", args=[project])],
        "dataset": [reverse("dataset", args=[dataset])],
        "examples": [examples],
        "examples of a state": [f"{examples}?state=approved"],
        "review": [reverse("review", args=[dataset])],
        "runs": [reverse("run_list", args=[project])],
        "trail": [reverse("audit_list", args=[project])],
        "jobs": [reverse("job_list")],
        "search": [f"{reverse('search')}?q=machine+7", f"{reverse('search')}?q=oil"],
    }
    for name, model in few.items():
        keys_of = model.objects.order_by("pk").values_list("pk", flat=True)[:3]  # type: ignore[attr-defined]
        found[name] = [reverse(name, args=[key]) for key in keys_of]
    return found


def _client() -> Any:
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client(SERVER_NAME="localhost")
    client.force_login(User.objects.get(username="trainer"))
    return client


def queries(addresses: dict[str, list[str]]) -> dict[str, int]:
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    client, found = _client(), {}
    for name, choices in addresses.items():
        client.get(choices[0])  # what is asked once in a process's life
        with CaptureQueriesContext(connection) as seen:
            answer = client.get(choices[0])
        assert answer.status_code == 200, f"{name}: {answer.status_code}"
        found[name] = len(seen)
    return found


def _session(port: int) -> Any:
    import httpx
    from asgiref.sync import sync_to_async
    from django.conf import settings

    async def make() -> httpx.AsyncClient:
        cookie = (await sync_to_async(_client)()).cookies[settings.SESSION_COOKIE_NAME].value
        address = f"http://localhost:{port}"
        return httpx.AsyncClient(base_url=address, cookies={settings.SESSION_COOKIE_NAME: cookie}, timeout=60)

    return make()


async def one_after_another(addresses: dict[str, list[str]], port: int) -> dict[str, float]:
    """Each page opened alone: the median of five, after one that warms up. Milliseconds."""
    found = {}
    async with await _session(port) as client:
        for name, choices in addresses.items():
            taken = []
            for _ in range(6):
                began = time.perf_counter()
                (await client.get(choices[0])).raise_for_status()
                taken.append(1000 * (time.perf_counter() - began))
            found[name] = statistics.median(taken[1:])
    return found


async def many_users(
    addresses: dict[str, list[str]], port: int, users: int, seconds: int, think: float
) -> dict[str, list[float]]:
    """What each page took while `users` opened pages at random, without those of the first seconds. Milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in addresses}
    start = time.perf_counter()

    async def user(number: int) -> None:
        choose = random.Random(number)
        async with await _session(port) as client:
            await asyncio.sleep(choose.uniform(0, 2 * think))
            while (now := time.perf_counter()) < start + WARM_SECONDS + seconds:
                name = choose.choice(list(addresses))
                (await client.get(choose.choice(addresses[name]))).raise_for_status()
                if now > start + WARM_SECONDS:
                    times[name].append(1000 * (time.perf_counter() - now))
                await asyncio.sleep(choose.uniform(0, 2 * think))

    await asyncio.gather(*(user(number) for number in range(users)))
    return times


def report(
    few: dict[str, int], many: dict[str, int], alone: dict[str, float], times: dict[str, list[float]], filled: float
) -> None:
    print(f"filled in {filled:.0f} s")
    print(f"{'page':>20} {'queries few':>12} {'many':>6} {'alone ms':>9} {'p50 ms':>8} {'p95 ms':>8} {'opened':>7}")
    figures = {}
    for name, taken in times.items():
        row = sorted(taken) or [0.0]
        p50, p95 = statistics.median(row), row[min(len(row) - 1, int(0.95 * len(row)))]
        print(f"{name:>20} {few[name]:>12} {many[name]:>6} {alone[name]:>9.0f} {p50:>8.0f} {p95:>8.0f} {len(taken):>7}")
        figures[name] = {"queries": [few[name], many[name]], "alone_ms": round(alone[name], 1)}
        figures[name] |= {"p50_ms": round(p50, 1), "p95_ms": round(p95, 1)}
    everything = sorted(value for taken in times.values() for value in taken) or [0.0]
    p95 = everything[min(len(everything) - 1, int(0.95 * len(everything)))]
    print(f"all pages: p50 {statistics.median(everything):.0f} ms, p95 {p95:.0f} ms")
    print(json.dumps({"pages": figures, "p50_ms": round(statistics.median(everything), 1), "p95_ms": round(p95, 1)}))


if __name__ == "__main__":
    main()
