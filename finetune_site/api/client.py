"""`finetune`: the site from a terminal, over its API. One file that needs httpx and rich alone, to be copied anywhere.

    export FINETUNE_API_URL=https://portal.example.org FINETUNE_API_TOKEN=fts_…
    python -m finetune_site.api.client upload 1 manual.pdf

Everything that takes long is watched to its end; Ctrl-C stops the watching and not the work. Exit codes: 0 done, 1 the
work failed, 2 the site refused, 130 Ctrl-C.
"""

import argparse
import contextlib
import json
import os
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

ENDED = ("succeeded", "failed", "cancelled")
TIMEOUT = httpx.Timeout(60, read=120)
PAUSE_SECONDS = 2.0
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 32.0)
SMALL_BYTES = 8 * 2**20
told = Console(stderr=True, highlight=False, markup=False)


class Refused(Exception):
    """The site said no; the message is its own sentence."""


class Site:
    """The API of one site, as one token's person."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.http = httpx.Client(base_url=f"{url.rstrip('/')}/api/v1", headers=headers, timeout=TIMEOUT)

    def get(self, path: str, **query: Any) -> Any:
        return self._ask("GET", path, params=query or None)  # an empty one would take the path's own away

    def every(self, path: str, **query: Any) -> Iterator[Any]:
        """The items of all pages of a list."""
        page = 1
        while True:
            found = self.get(path, page=page, size=200, **query)
            yield from found["items"]
            if page * 200 >= found["count"]:
                return
            page += 1

    def post(self, path: str, body: Any = None, file: Path | None = None) -> Any:
        """Sent again after a lost connection it does its work once: the key says that it is the same request."""
        key = {"Idempotency-Key": uuid.uuid4().hex}
        content: dict[str, Any] = {"json": body or {}}
        for is_last in (False, True):
            try:
                if file is None:
                    return self._ask("POST", path, headers=key, **content)
                with file.open("rb") as stream:
                    return self._ask("POST", path, headers=key, files={"file": (file.name, stream)})
            except httpx.TransportError as error:
                if is_last:
                    raise Refused(f"{self.http.base_url.host} cannot be reached: {error}") from error
        raise AssertionError("never here")

    def upload(self, project: int, file: Path) -> list[Any]:
        """What became of a file, or of each file of a ZIP archive: `name`, `document` and `error`. A large one goes in
        parts: a lost connection costs one of them."""
        size = file.stat().st_size
        if size <= SMALL_BYTES and file.suffix.lower() != ".zip":
            document = self.post(f"/projects/{project}/documents", file=file)
            return [{"name": file.name, "document": document, "error": ""}]
        begun = self.post(f"/projects/{project}/uploads", {"name": file.name, "size": size})
        with Progress(console=told, transient=True) as progress, file.open("rb") as stream:
            bar = progress.add_task(file.name, total=begun["size"])
            while not begun["items"]:
                progress.update(bar, completed=begun["arrived"])
                stream.seek(begun["arrived"])
                begun = self._send_part(begun, stream.read(begun["part_bytes"]))
        return list(begun["items"])

    def _send_part(self, begun: Any, part: bytes) -> Any:
        """Again after a lost connection, and while the site starts anew; not where only its answer was lost."""
        path = f"/uploads/{begun['id']}"
        for pause in PAUSES:
            try:
                answer = self.http.put(f"{path}/parts/{begun['arrived']}", content=part)
                if answer.status_code < 502 and answer.status_code != 409:
                    return self._told(answer)
                problem = answer.text[:200]
            except httpx.TransportError as error:
                problem = str(error)
            else:
                if answer.status_code == 409 and self.get(path)["arrived"] == begun["arrived"]:
                    return self._told(answer)  # refused, and not for its place
            time.sleep(pause)
            with contextlib.suppress(httpx.TransportError, Refused):
                if (now := self.get(path))["arrived"] != begun["arrived"]:
                    return now
        raise Refused(f"{self.http.base_url.host} cannot be reached: {problem}")

    def watch(self, job: int) -> Iterator[dict[str, Any]]:
        """A job at each of its events, last when it has ended. Goes on where a lost stream stopped."""
        last = "0"
        while True:
            try:
                now: dict[str, Any] = self.get(f"/jobs/{job}")
                yield now
                if now["state"] in ENDED:
                    return
                with self.http.stream("GET", f"/jobs/{job}/events", headers={"Last-Event-ID": last}) as stream:
                    for line in stream.iter_lines():
                        if line.startswith("id: "):
                            last = line[4:]
                        elif line.startswith("event: "):
                            yield self.get(f"/jobs/{job}")
            except httpx.TransportError:  # the site starts anew, or the network is away; the work goes on
                time.sleep(PAUSE_SECONDS)

    def _ask(self, method: str, path: str, **more: Any) -> Any:
        return self._told(self.http.request(method, path, **more))

    def _told(self, answer: httpx.Response) -> Any:
        if answer.is_success:
            return answer.json() if answer.content else None
        try:
            error = answer.json()["error"]
        except (ValueError, KeyError):
            raise Refused(
                f"{answer.url} answered {answer.status_code}; is it the address of a Finetune Site?"
            ) from None
        fields = "".join(f"\n  {name}: {text}" for name, text in (error.get("fields") or {}).items())
        raise Refused(error["message"] + fields)


def follow(site: Site, job: int | None) -> bool:
    """Show a job's bar until it has ended; whether it went well."""
    if job is None:
        return True
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[told]}", markup=False),
    )
    now: dict[str, Any] = {}
    with Progress(*columns, TimeRemainingColumn(), console=told, transient=True) as progress:
        bar = progress.add_task("", total=None, told="")
        for now in site.watch(job):
            amount = f"{now['done']:,} of {now['total']:,} {now['unit']}" if now["total"] else now["message"]
            progress.update(
                bar, description=f"{now['label']} · {now['state']}", completed=now["done"], total=now["total"] or None,
                told=amount,
            )  # fmt: skip
    sentence = now["error_text"] or now["message"]
    told.print(f"{now['label']}: {now['state']}{'. ' + sentence if sentence else ''}")
    return bool(now["state"] == "succeeded")


def show(rows: Iterator[Any] | list[Any], *names: str) -> None:
    """A table in a terminal; JSON, a line each, for another program."""
    if not sys.stdout.isatty():
        for row in rows:
            print(json.dumps(row))  # noqa: T201
        return
    table = Table(*names)
    for row in rows:
        table.add_row(*(str(row[name]) for name in names))
    Console().print(table)


def projects(site: Site, options: argparse.Namespace) -> bool:
    show(site.every("/projects"), "id", "name", "description")
    return True


def datasets(site: Site, options: argparse.Namespace) -> bool:
    show(site.every(f"/projects/{options.project}/datasets"), "id", "name", "total", "approved", "drafts", "sealed")
    return True


def runs(site: Site, options: argparse.Namespace) -> bool:
    show(site.every(f"/projects/{options.project}/runs"), "id", "name", "state", "method", "version_id")
    return True


def upload(site: Site, options: argparse.Namespace) -> bool:
    became: list[dict[str, Any]] = []
    for path in options.files:  # one that is refused does not keep the others from being sent
        try:
            became += site.upload(options.project, path)
        except Refused as error:
            if len(options.files) == 1:
                raise
            became.append({"name": path.name, "document": None, "error": str(error)})
    for entry in became:
        if not entry["document"]:
            told.print(f"{entry['name']}: {entry['error'] or 'it was deleted since; upload it again'}")
    sent = [entry["document"] for entry in became if entry["document"]]
    went_well = [follow(site, document["job_id"]) for document in sent]
    show(sent, "id", "name", "job_id")
    return all(went_well) and len(sent) == len(became)


def generate(site: Site, options: argparse.Namespace) -> bool:
    body = {"documents": options.documents, "generator": options.generator, "wordings": options.wordings}
    return follow(site, site.post(f"/datasets/{options.dataset}/generate", body)["job_id"])


def import_file(site: Site, options: argparse.Namespace) -> bool:
    return follow(site, site.post(f"/datasets/{options.dataset}/import", file=options.file)["job_id"])


def seal(site: Site, options: argparse.Namespace) -> bool:
    made = site.post(f"/datasets/{options.dataset}/versions", {"validation_share": options.validation})
    went_well = follow(site, made["job_id"])
    show([site.get(f"/versions/{made['id']}")], "id", "number", "sha256")
    return went_well


def train(site: Site, options: argparse.Namespace) -> bool:
    """Plan a run, look at it, start it, and watch it."""
    bases = {base["name"]: base["id"] for base in site.every("/base-models")}
    if options.base not in bases:
        raise Refused(f"There is no base model “{options.base}”. There are: {', '.join(bases)}.")
    knobs = dict(_knob(text) for text in options.knob)
    body = {"name": options.name, "version": options.version, "base": bases[options.base], "knobs": knobs}
    body |= {"method": options.method, "preset": options.preset}
    run = site.post(f"/projects/{options.project}/runs", body)
    if not follow(site, run["preview_job_id"]):
        return False
    started = site.post(f"/runs/{run['id']}/start")
    went_well = follow(site, started["job_id"])
    show([site.get(f"/runs/{run['id']}")], "id", "name", "state")
    return went_well


def evaluate(site: Site, options: argparse.Namespace) -> bool:
    made = site.post(f"/runs/{options.run}/evaluations")
    went_well = follow(site, made["job_id"])
    print(json.dumps(site.get(f"/evaluations/{made['id']}")["summary"], indent=1))  # noqa: T201
    return went_well


def publish(site: Site, options: argparse.Namespace) -> bool:
    servers = {server["name"]: server["id"] for server in site.every("/ollama-servers")}
    if options.server not in servers:
        raise Refused(
            f"There is no server “{options.server}” to publish to. There are: {', '.join(servers) or 'none'}."
        )
    body = {"server": servers[options.server], "name": options.name, "format": options.format}
    made = site.post(f"/runs/{options.run}/publications", body)
    went_well = follow(site, made["job_id"])
    found = site.get(f"/publications/{made['id']}")
    told.print(found["problem"] or f"{found['tag']}: {found['standing']}")
    return went_well and found["standing"] == "published"


def watch(site: Site, options: argparse.Namespace) -> bool:
    return follow(site, options.job)


def get(site: Site, options: argparse.Namespace) -> bool:
    """Any address of the API, as it answers."""
    print(json.dumps(site.get(options.path), indent=1))  # noqa: T201
    return True


def _knob(text: str) -> tuple[str, Any]:
    name, is_there, value = text.partition("=")
    if not is_there:
        raise Refused(f"--knob takes name=value, not “{text}”.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="finetune", description="A Finetune Site from the terminal.")
    whole.add_argument("--url", default=os.environ.get("FINETUNE_API_URL", "http://localhost:8000"))
    commands = whole.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, act: Any, told: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=told)
        made.set_defaults(act=act)
        return made

    command("projects", projects, "the projects you see")
    for name, act in (("datasets", datasets), ("runs", runs)):
        command(name, act, f"the {name} of a project").add_argument("project", type=int)
    one = command("upload", upload, "upload documents and watch them being parsed")
    one.add_argument("project", type=int)
    one.add_argument("files", type=Path, nargs="+", metavar="FILE")
    one = command("generate", generate, "make examples of documents")
    one.add_argument("dataset", type=int)
    one.add_argument("documents", type=int, nargs="+", metavar="DOCUMENT")
    one.add_argument("--generator", default="extractive")
    one.add_argument("--wordings", type=int, default=6)
    one = command("import", import_file, "read a file of examples: JSON Lines or a JSON array")
    one.add_argument("dataset", type=int)
    one.add_argument("file", type=Path)
    one = command("seal", seal, "seal the approved examples as the next version")
    one.add_argument("dataset", type=int)
    one.add_argument("--validation", type=float, default=0.1, metavar="SHARE")
    one = command("train", train, "plan a run, start it and watch it")
    one.add_argument("project", type=int)
    one.add_argument("--version", type=int, required=True)
    one.add_argument("--base", required=True, help="as Ollama names it: smollm2:135m")
    one.add_argument("--name", default="From the terminal")
    one.add_argument("--method", default="dora")
    one.add_argument("--preset", default="balanced")
    one.add_argument("--knob", action="append", default=[], metavar="NAME=VALUE", help="what differs from the preset")
    command("evaluate", evaluate, "judge a run against its base").add_argument("run", type=int)
    one = command("publish", publish, "publish a run to Ollama, proved step by step")
    one.add_argument("run", type=int)
    one.add_argument("--server", required=True)
    one.add_argument("--name", required=True)
    one.add_argument("--format", default="q8_0")
    command("watch", watch, "watch a job to its end").add_argument("job", type=int)
    command("get", get, "an address of the API: /jobs?state=running").add_argument("path")
    return whole


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    token = os.environ.get("FINETUNE_API_TOKEN", "")  # never an argument: process lists show those
    if not token:
        told.print("Set FINETUNE_API_TOKEN to a token of yours: your menu, API tokens.")
        return 2
    try:
        return 0 if options.act(Site(options.url, token), options) else 1
    except Refused as error:
        told.print(str(error))
        return 2
    except httpx.TransportError as error:
        told.print(f"{options.url} cannot be reached: {error}")
        return 2
    except OSError as error:
        told.print(f"{error.filename}: {error.strerror}")
        return 2
    except KeyboardInterrupt:
        told.print("Not watched any more; the work goes on.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
