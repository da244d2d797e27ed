"""A Label Studio of one's own on this machine: started from its own environment, asked for a token. For `make
run-label-studio` and for tests; a team's server is only talked to.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import httpx

from finetune_site.lib.process import end_with_parent

EMAIL = "portal@example.org"
START_SECONDS = 300.0  # the first start migrates an empty database
# What it shall not do by itself: tell of its use, ask for news, open a sign-up; and hooks to this machine are allowed.
_QUIET = {
    "LABEL_STUDIO_SENTRY_DSN": "",
    "LABEL_STUDIO_FRONTEND_SENTRY_DSN": "",
    "LABEL_STUDIO_LATEST_VERSION_CHECK": "false",
    "LABEL_STUDIO_COLLECT_ANALYTICS": "false",
    "LABEL_STUDIO_FEATURE_FLAGS_OFFLINE": "true",
    "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
    "LABEL_STUDIO_USE_DEFAULT_BANNED_SUBNETS": "false",
    "LABEL_STUDIO_USER_ADDITIONAL_BANNED_SUBNETS": "169.254.0.0/16",
}


class LabelStudioStartError(RuntimeError):
    """It did not come up; the message says why."""


class Local:
    """A server on this machine, running from the moment it is made: its address, and the password of `EMAIL`."""

    def __init__(self, program: Path, folder: Path, port: int, password: str, *, legacy_tokens: bool) -> None:
        self.url, self.password, self._folder = f"http://127.0.0.1:{port}", password, folder
        arguments = ["--no-browser", "--internal-host", "127.0.0.1", "--port", str(port), "--log-level", "WARNING"]
        self._command = [str(program), "start", *arguments]
        # Nothing of ours: it reads bare names such as HOST, PORT or DEBUG as settings of its own.
        self._env = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TZ") if name in os.environ} | _QUIET
        self._env |= {
            "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
            "LABEL_STUDIO_HOST": self.url,
            "LABEL_STUDIO_USERNAME": EMAIL,
            "LABEL_STUDIO_PASSWORD": password,
            "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": str(legacy_tokens).lower(),
        }
        self.start_again()

    def start_again(self) -> None:
        """Start the process and wait until it answers; after `stop` it has everything it had."""
        with (self._folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._env, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=end_with_parent,  # or a killed parent leaves it on its port
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not _answers(self.url):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.process.kill()
                raise LabelStudioStartError(f"Label Studio did not start; its log is {self._folder / 'log.txt'}.")
            time.sleep(0.2)

    def stop(self) -> None:
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()


def start(program: Path, folder: Path, *, port: int, password: str, legacy_tokens: bool = False) -> Local:
    """Start `program` (the `label-studio` of its environment) with its data in `folder`, and wait until it answers.

    `LabelStudioStartError` when the port is taken (it would silently take the next) or it ends.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise LabelStudioStartError(f"The port {port} is taken. Choose another for Label Studio.") from error
    folder.mkdir(parents=True, exist_ok=True)
    return Local(program, folder, port, password, legacy_tokens=legacy_tokens)


def start_from(template: Path, program: Path, folder: Path, *, port: int, password: str) -> Local:
    """The same from a copy of `template`, a data folder that was migrated once; made now if it is not there."""
    if not (template / "label_studio.sqlite3").exists():
        aside = template.with_name(f"{template.name}.{os.getpid()}")
        start(program, aside, port=port, password=password, legacy_tokens=True).stop()
        with contextlib.suppress(OSError):  # another made it meanwhile
            aside.rename(template)
        shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(template, folder, dirs_exist_ok=True)
    return start(program, folder, port=port, password=password, legacy_tokens=True)


def mint_token(url: str, password: str, email: str = EMAIL) -> str:
    """A personal access token of a user, got as the user would: by logging in. It revokes the one there was."""
    with httpx.Client(base_url=url, timeout=30) as client:
        client.get("/user/login/")
        typed = {"email": email, "password": password, "csrfmiddlewaretoken": client.cookies["csrftoken"]}
        if client.post("/user/login/", data=typed, headers={"Referer": f"{url}/user/login/"}).status_code != 302:
            raise LabelStudioStartError(f"Label Studio does not let {email} in: is the password another by now?")
        headers = {"X-CSRFToken": client.cookies["csrftoken"], "Referer": f"{url}/"}
        for known in client.get("/api/token/").json():
            client.post("/api/token/blacklist/", json={"refresh": known["token"]}, headers=headers)
        token: str = client.post("/api/token/", headers=headers).json()["token"]
        return token


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
