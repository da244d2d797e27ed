"""`manage.py up`: the whole site as one command. Embedded Postgres (unless DATABASE_URL), migrations, the first
operator, the web server and both clusters; what dies is started anew, and Ctrl-C leaves no process behind."""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune_site.jobs import slots
from finetune_site.lib.kernel import start_time
from finetune_site.lib.postgres import Embedded, PostgresError
from finetune_site.lib.process import end_with_parent, is_alive

_libc = ctypes.CDLL(None)
_PR_SET_CHILD_SUBREAPER = 36
MOST_WEB_PROCESSES = 4  # unless somebody asks for more: each holds connections and memory


class Child:
    """One long-lived program of the site: watched, started anew with growing pauses, stopped with its group."""

    def __init__(self, name: str, argv: list[str], env: dict[str, str] | None = None) -> None:
        self.name, self.argv, self.env = name, argv, env or {}
        self.failures = 0
        self.started = self.not_before = 0.0
        self.process: subprocess.Popen[bytes]

    def start(self) -> None:
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            self.argv,
            env={**os.environ, **self.env},
            cwd=settings.BASE_DIR,
            start_new_session=True,
            preexec_fn=end_with_parent,
        )

    def restart_if_dead(self, say: Any) -> None:
        if self.process.poll() is None or time.monotonic() < self.not_before:
            return
        say(f"{self.name} ended with {self.process.returncode}; starting it anew")
        self.sweep()
        self.failures = self.failures + 1 if time.monotonic() - self.started < 30 else 0
        self.not_before = time.monotonic() + min(2**self.failures, 30)
        self.start()

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        self.sweep()
        self.process.wait()

    def sweep(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class Command(BaseCommand):
    help = "Run the whole site on this machine."
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1")
        parser.add_argument("--port", type=int, default=8000)
        parser.add_argument(
            "--label-studio", type=int, metavar="PORT", help="also run a Label Studio, connected to the site"
        )
        parser.add_argument(
            "--then", nargs=argparse.REMAINDER, metavar="COMMAND", help="run this manage.py command, then stop"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        with (self._folder() / "up.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                sys.exit(self._beside(options["then"]))
            self._run(options)

    def _beside(self, command: list[str] | None) -> int:
        """The site runs already: what is to be done in it is done beside it."""
        if not command:
            raise CommandError(
                f"The site on {settings.DATA_DIR} runs already. Stop it with Ctrl-C first; another FINETUNE_DATA_DIR "
                "with another PORT makes another site."
            )
        self._say("the site runs already, working in it")
        return subprocess.run([*_manage(), *command]).returncode

    def _run(self, options: dict[str, Any]) -> None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of our orphans come to us
        self._stopping = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stopping.set())
        self._sweep_last()
        for folder in self._folder().glob("figures-*"):  # of web processes that are no more
            shutil.rmtree(folder, ignore_errors=True)
        self.postgres = self._start_postgres()
        self.children: list[Child] = []
        self.guest = 0  # the command of --then
        code = 0
        try:
            self._prepare()
            if options["then"] is None or options["then"][:1] != ["restore"]:  # a backup brings its own operators
                is_first = self._create_operator()
                if is_first and not options["then"]:
                    subprocess.run([*_manage(), "sample_project"], check=True)
            self._start(options["host"], options["port"], options["label_studio"])
            code = self._run_then(options["then"]) if options["then"] else self._watch()
        finally:
            self._stop()
        if code:
            sys.exit(code)

    def _start_postgres(self) -> Embedded | None:
        if os.environ.get("DATABASE_URL"):
            return None
        try:
            server = Embedded(settings.DATA_DIR)
            server.start()
        except PostgresError as error:
            raise CommandError(str(error)) from error
        return server

    def _prepare(self) -> None:
        """Bring database and files up to date."""
        for command in (["migrate", "-v0"], ["createcachetable", "-v0"], ["collectstatic", "--noinput", "-v0"]):
            subprocess.run([*_manage(), *command], check=True)

    def _create_operator(self) -> bool:
        """The first operator, with a password that is shown here and nowhere kept; true when there was none yet."""
        from django.contrib.auth.models import User

        if User.objects.filter(is_superuser=True).exists():
            return False
        password = secrets.token_urlsafe(12)
        User.objects.create_superuser("operator", "", password)
        self.stdout.write(f"\n  First start: log in as  operator  with the password  {password}")
        self.stdout.write("  (shown once; change it under your name)")
        return True

    def _start(self, host: str, port: int, label_studio: int | None) -> None:
        web = [
            sys.executable, "-m", "uvicorn", "finetune_site.asgi:application", "--host", host, "--port", str(port),
            "--log-level", "warning", "--timeout-graceful-shutdown", "3", "--lifespan", "off",
            "--timeout-worker-healthcheck", "60",
        ]  # fmt: skip
        self.children = [
            Child("web server", web, {"FINETUNE_DATABASE_POOL": "1", "WEB_CONCURRENCY": str(_web_processes())}),
            Child("cluster default", [*_manage(), "cluster", "default"], {"Q_CLUSTER_NAME": "default"}),
            Child("cluster gpu", [*_manage(), "cluster", "gpu"], {"Q_CLUSTER_NAME": "gpu"}),
        ]
        if label_studio:
            connected = ["--port", str(label_studio), "--portal-url", f"http://{host}:{port}"]
            self.children.append(Child("Label Studio", [*_manage(), "label_studio", *connected]))
        for child in self.children:
            child.start()
        self._write_down()
        self._wait_for_web(f"http://{host}:{port}/login")

    def _wait_for_web(self, url: str) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):  # noqa: S310  # nosec B310  our own address
                self.stdout.write(f"\n  Finetune Site is up:  {url.removesuffix('/login')}\n  Ctrl-C stops it.\n")
                return
            if self.children[0].process.poll() is not None:
                raise CommandError("The web server ended at once: is the port taken? Try `make run PORT=8001`.")
            self._stopping.wait(0.2)

    def _watch(self) -> int:
        while not self._stopping.wait(0.5):
            self._tend()
        return 0

    def _run_then(self, command: list[str]) -> int:
        """Run one more command beside the site and return its exit code."""
        process = subprocess.Popen([*_manage(), *command], start_new_session=True)
        self.guest = process.pid
        while process.poll() is None and not self._stopping.wait(0.5):
            self._tend()
        if process.poll() is None:
            process.terminate()
        return process.wait()

    def _tend(self) -> None:
        if self.postgres and not self.postgres.is_running():
            self._say("PostgreSQL ended; starting it anew")
            try:
                self.postgres.start()
            except PostgresError as error:
                self._say(str(error))
        died = [child for child in self.children if child.process.poll() is not None]
        for child in died:
            child.restart_if_dead(self._say)
        if died:
            self._write_down()
        self._reap_orphans()

    def _reap_orphans(self) -> None:
        ours = {child.process.pid for child in self.children} | {self.guest}
        ours |= {self.postgres.pid if self.postgres else 0}
        with contextlib.suppress(ChildProcessError):
            while True:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is None or ended.si_pid in ours:
                    return
                os.waitpid(ended.si_pid, 0)

    def _stop(self) -> None:
        """Clusters first, so that nothing new starts; then the runners, which save and give their jobs back; the web
        server and Postgres last."""
        threads = [threading.Thread(target=child.stop) for child in self.children[1:]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        slots.stop_holders(self._say)
        for child in self.children[:1]:
            child.stop()
        if self.postgres:
            self.postgres.stop()
        self._list().unlink(missing_ok=True)
        self._say("stopped")

    def _sweep_last(self) -> None:
        """End what a killed predecessor left behind: its children by their identity, never by their number alone."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            for pid, started in json.loads(self._list().read_text()):
                if is_alive(pid, started):
                    os.killpg(pid, signal.SIGKILL)
        self._list().unlink(missing_ok=True)

    def _write_down(self) -> None:
        pids = [child.process.pid for child in self.children]
        self._list().write_text(json.dumps([[pid, start_time(pid)] for pid in pids]))

    def _list(self) -> Path:
        return self._folder() / "up.json"

    def _folder(self) -> Path:
        folder: Path = settings.DATA_DIR / "run"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _say(self, text: str) -> None:
        self.stderr.write(f"up: {text}")


def _web_processes() -> int:
    return (
        int(settings.WEB_PROCESSES)
        if os.environ.get("WEB_CONCURRENCY")
        else min(os.cpu_count() or 1, MOST_WEB_PROCESSES)
    )


def _manage() -> list[str]:
    return [sys.executable, str(settings.BASE_DIR / "manage.py")]
