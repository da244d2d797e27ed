"""`manage.py label_studio`: a Label Studio beside the site on this machine, connected to it; stops with SIGTERM."""

import os
import secrets
import signal
import threading
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from datasets_app.meeting import connect
from finetune_site.lib import label_studio


class Command(BaseCommand):
    help = "Run a Label Studio beside the site, connected to it."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--port", type=int, default=8080)
        parser.add_argument("--portal-url", default="http://127.0.0.1:8000")

    def handle(self, *args: Any, **options: Any) -> None:
        program = settings.BASE_DIR / ".venv-label-studio" / "bin" / "label-studio"
        if not program.exists():
            raise CommandError("Label Studio is not installed here: `make run-label-studio` does it.")
        stopping = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stopping.set())
        folder = settings.DATA_DIR / "label-studio"
        password = _password(folder)
        try:
            server = label_studio.start(program, folder / "data", port=options["port"], password=password)
        except label_studio.LabelStudioStartError as error:
            raise CommandError(str(error)) from None
        try:
            told = {"name": "Label Studio here", "portal_url": options["portal_url"], "allows_import": True}
            connect(**told, url=server.url, password=password)
            self.stdout.write(f"\n  Label Studio is up and connected:  {server.url}")
            self.stdout.write(f"  Log in there as {label_studio.EMAIL}; the password stands in {folder / 'password'}\n")
            while not stopping.wait(1):
                if server.process.poll() is not None:
                    raise CommandError("Label Studio ended.")
        finally:
            server.stop()


def _password(folder: Path) -> str:
    """Made once, readable by its owner alone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "password"
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            stream.write(secrets.token_urlsafe(16))
    except FileExistsError:
        pass
    return path.read_text()
