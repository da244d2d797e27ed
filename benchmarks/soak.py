"""Whether the site keeps its promises while people work in it and its processes are killed at random.

Starts the whole site as `make run` does, lets scripted users do what the API offers (upload, generate, import, write,
judge, seal, train, stop, resume, evaluate, export, chat, read), and kills one process a minute: a runner, an engine, a
cluster or the web server. In the end every job must have ended, none may have failed for a reason its person cannot
mend, `manage.py check_invariants --deep` must find nothing, and memory must not have grown beyond the bound.
Run alone: `.venv/bin/python benchmarks/soak.py [--minutes 30] [--users 20]`.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PROJECTS = 4
DRAIN_SECONDS = 1200
GROWTH_BOUND = 1.3  # of a process's memory between the first and the last third
THINK_SECONDS = 8.0  # two cores do about one short job a second
VICTIMS = {
    "runner": "manage.py runner",
    "training engine": "training_app.engine",
    "parsing engine": "datasets_app.engine",
    "cluster": "manage.py cluster",
    "web server": "uvicorn",
}


def main() -> int:
    from live import free_port

    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--kill-seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    data = Path(tempfile.mkdtemp(prefix="finetune-soak-"))
    data.chmod(0o755)
    for name in ("DATABASE_URL", "FINETUNE_SECRET_KEY"):
        os.environ.pop(name, None)
    os.environ |= {"FINETUNE_DATA_DIR": str(data), "DJANGO_SETTINGS_MODULE": "finetune_site.settings"}
    os.environ |= {"FINETUNE_ENGINE_THREADS": "1", "FINETUNE_CHAT_IDLE_SECONDS": "5"}
    port = free_port()
    log = (data / "up.log").open("w")
    up = subprocess.Popen([sys.executable, "manage.py", "up", "--port", str(port)], cwd=ROOT, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for_web(address, up)
        import django

        django.setup()
        people = prepare(options.users, data)
        soak = Soak(address, up.pid, options)
        soak.run(people)
        return report(soak, drain())
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(300)
        shutil.rmtree(data, ignore_errors=True)


def wait_for_web(address: str, up: subprocess.Popen[bytes]) -> None:
    import httpx

    while up.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(f"{address}/health/live").is_success:
                return
        time.sleep(0.5)
    raise SystemExit("the site did not start")


def prepare(users: int, data: Path) -> list[tuple[str, int]]:
    """A tiny base model, projects, and people: each one's token and project."""
    from django.contrib.auth.models import User

    from finetune_site.api.services import make_token
    from finetune_site.projects.models import Role
    from finetune_site.projects.services import create_project, set_role
    from tests.engine.tiny import make_tiny_model
    from training_app.models import BaseModel

    operator = User.objects.get(username="operator")
    tiny = make_tiny_model(data / "tiny")
    BaseModel.objects.create(name="tiny:1", title="Tiny", source="folder", location=str(tiny))
    projects = [create_project(actor=operator, name=f"Soak {number}") for number in range(PROJECTS)]
    people = []
    for number in range(users):
        user, project = User.objects.create_user(f"user{number}"), projects[number % PROJECTS]
        set_role(actor=operator, project=project, user=user, role=Role.OWNER)
        _, secret = make_token(actor=user, name="soak", scopes=["write", "train", "publish"])
        people.append((secret, project.pk))
    return people


class Soak:
    """Users, a killer and a scale, each in threads, until the time is over."""

    def __init__(self, address: str, up: int, options: argparse.Namespace) -> None:
        self.address, self.up, self.options = address, up, options
        self.over = threading.Event()
        self.did: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.faults: list[str] = []
        self.killed: Counter[str] = Counter()
        self.memory: dict[str, list[int]] = defaultdict(list)

    def run(self, people: list[tuple[str, int]]) -> None:
        work: list[Callable[[], None]] = [
            lambda person=person, number=number: self._user(number, *person)  # type: ignore[misc]
            for number, person in enumerate(people)
        ]
        threads = [threading.Thread(target=act) for act in (*work, self._kill, self._weigh)]
        for thread in threads:
            thread.start()
        self.over.wait(60 * self.options.minutes)
        self.over.set()
        for thread in threads:
            thread.join(300)

    def _user(self, number: int, secret: str, project: int) -> None:
        import httpx

        from finetune_site.api.client import Refused, Site

        user = User(Site(self.address, secret), project, random.Random(f"{self.options.seed} {number}"))
        while not self.over.wait(user.chance.uniform(0, 2 * THINK_SECONDS)):
            act = user.chance.choice(user.acts)
            try:
                act()
                self.did[act.__name__] += 1
            except Refused as error:
                sentence = str(error)
                if "Something went wrong here" in sentence or " answered 5" in sentence:
                    self.faults.append(f"{act.__name__}: {sentence}")
                self.refused[act.__name__] += 1
            except httpx.TransportError:
                self.refused["connection lost"] += 1  # the web server was killed under it

    def _kill(self) -> None:
        import psutil

        chance = random.Random(self.options.seed)
        while not self.over.wait(self.options.kill_seconds):
            family = psutil.Process(self.up).children(recursive=True)
            for name in chance.sample(list(VICTIMS), len(VICTIMS)):
                if victims := [one for one in family if _is(one, VICTIMS[name])]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        chance.choice(victims).kill()
                        self.killed[name] += 1
                    break

    def _weigh(self) -> None:
        import psutil

        while not self.over.wait(5):
            sums: Counter[str] = Counter()
            for one in psutil.Process(self.up).children(recursive=True):
                for name in ("cluster", "web server"):
                    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                        if _is(one, VICTIMS[name]):
                            sums[name] += one.memory_info().rss
            for name, size in sums.items():
                self.memory[name].append(size)


def _is(process: Any, words: str) -> bool:
    import psutil

    try:
        return words in " ".join(process.cmdline())
    except psutil.Error:
        return False


class User:
    """What one person does, a step at a time, each by chance."""

    def __init__(self, site: Any, project: int, chance: random.Random) -> None:
        self.site, self.project, self.chance = site, project, chance
        self.dataset = 0
        self.acts: list[Callable[[], None]] = [
            self.upload, self.write, self.write, self.judge, self.judge, self.import_rows, self.generate, self.seal,
            self.train, self.stop, self.resume, self.evaluate, self.export, self.chat, self.read, self.read,
        ]  # fmt: skip

    def _own(self) -> int:
        if not self.dataset:
            body = {"name": f"D {self.chance.random()}"}
            self.dataset = self.site.post(f"/projects/{self.project}/datasets", body)["id"]
        return self.dataset

    def _one_of(self, path: str, **query: Any) -> Any:
        items = self.site.get(path, size=50, **query)["items"]
        return self.chance.choice(items) if items else None

    def _run(self, *states: str) -> Any:
        items = [run for run in self.site.get(f"/projects/{self.project}/runs")["items"] if run["state"] in states]
        return self.chance.choice(items) if items else None

    def upload(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".md", prefix="manual-") as file:
            number = self.chance.random()
            file.write(f"# Pump {number}\n\nThe pump weighs {number} kg. The rated pressure is 4 bar.\n")
            file.flush()
            self.site.post(f"/projects/{self.project}/documents", file=Path(file.name))

    def write(self) -> None:
        number = self.chance.randrange(10**6)
        turns = [{"role": "user", "content": f"How heavy is part {number}?"}]
        turns.append({"role": "assistant", "content": f"Part {number} weighs {number % 97} kg."})
        self.site.post(f"/datasets/{self._own()}/examples", {"messages": turns})

    def import_rows(self) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
            for number in range(12):
                turns = [{"role": "user", "content": f"Part {number}?"}]
                turns.append({"role": "assistant", "content": f"{number * 7} kg"})
                file.write(json.dumps({"messages": turns}) + "\n")
            file.flush()
            self.site.post(f"/datasets/{self._own()}/import", file=Path(file.name))

    def generate(self) -> None:
        if document := self._one_of(f"/projects/{self.project}/documents"):
            self.site.post(f"/datasets/{self._own()}/generate", {"documents": [document["id"]]})

    def judge(self) -> None:
        for example in self.site.get(f"/datasets/{self._own()}/examples", state="draft", size=20)["items"]:
            body = {"verdict": self.chance.choice(["approved"] * 9 + ["rejected"]), "text_id": example["text_id"]}
            self.site._ask("PUT", f"/examples/{example['id']}/verdict", json=body)

    def seal(self) -> None:
        self.site.post(f"/datasets/{self._own()}/versions", {"validation_share": 0.1})

    def train(self) -> None:
        version = self._one_of(f"/datasets/{self._own()}/versions")
        if not version or self._run("queued", "running"):
            return
        base = next(base["id"] for base in self.site.every("/base-models") if base["name"] == "tiny:1")
        body = {"name": "R", "version": version["id"], "base": base, "method": "lora", "preset": "quick"}
        run = self.site.post(f"/projects/{self.project}/runs", body | {"knobs": {"epochs": 2}})
        self.site.post(f"/runs/{run['id']}/start")

    def stop(self) -> None:
        if (run := self._run("running")) and self.chance.random() < 0.2:
            self.site.post(f"/runs/{run['id']}/stop")

    def resume(self) -> None:
        if run := self._run("cancelled"):
            self.site.post(f"/runs/{run['id']}/resume")

    def evaluate(self) -> None:
        if (run := self._run("succeeded")) and self.chance.random() < 0.2:
            self.site.post(f"/runs/{run['id']}/evaluations")

    def export(self) -> None:
        if run := self._run("succeeded"):
            self.site.post(f"/runs/{run['id']}/exports", {"format": self.chance.choice(["adapter", "merged"])})

    def chat(self) -> None:
        if run := self._run("succeeded"):
            self.site.post(f"/runs/{run['id']}/conversations", {"prompt": "How heavy is part 3?", "max_tokens": 12})

    def read(self) -> None:
        self.site.get("/projects")
        self.site.get(f"/projects/{self.project}/documents")
        self.site.get("/jobs", project=self.project)


def drain() -> float:
    """Wait until everything that was begun has ended; how many seconds it took. The killing is over."""
    from finetune_site.jobs.models import Job

    began = time.monotonic()
    while Job.objects.unfinished().exists() and time.monotonic() - began < DRAIN_SECONDS:
        time.sleep(1)
    return time.monotonic() - began


def report(soak: Soak, drained: float) -> int:
    from django.db.models import Count

    from finetune_site.jobs.models import Job, JobState

    left = Job.objects.unfinished().count()
    kinds = {
        f"{kind} {state}": count
        for kind, state, count in Job.objects.order_by("kind", "state")
        .values_list("kind", "state")
        .annotate(Count("pk"))
    }
    ours = [
        f"{job.kind} {job.pk}: {job.error_code} {job.error_text[:200]}"
        for job in Job.objects.filter(state=JobState.FAILED).exclude(error_code="input")
    ]
    checked = subprocess.run(
        [sys.executable, "manage.py", "check_invariants", "--deep"], cwd=ROOT, capture_output=True, text=True
    )
    growth = {name: _growth(sizes) for name, sizes in soak.memory.items()}
    for title, rows in (("did", soak.did), ("refused", soak.refused), ("killed", soak.killed), ("jobs", kinds)):
        print(f"{title}: {dict(rows)}")
    print(checked.stdout, *soak.faults[:10], *ours[:10], sep="\n")
    holds = checked.returncode == 0 and not (left or ours or soak.faults)
    holds = holds and all(ratio <= GROWTH_BOUND for ratio in growth.values())
    print(
        json.dumps(
            {
                "holds": holds,
                "acts": soak.did.total(),
                "killed": soak.killed.total(),
                "jobs": sum(kinds.values()),
                "left": left,
                "failed_for_ours": len(ours),
                "faults": len(soak.faults),
                "invariants_hold": checked.returncode == 0,
                "memory_growth": growth,
                "drain_s": round(drained, 1),
            }
        )
    )
    return 0 if holds else 1


def _growth(sizes: list[int]) -> float:
    """The median of the last third over that of the first."""
    third = max(1, len(sizes) // 3)
    return round(statistics.median(sizes[-third:]) / statistics.median(sizes[:third]), 2)


if __name__ == "__main__":
    sys.exit(main())
