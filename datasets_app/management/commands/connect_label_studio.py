"""`manage.py connect_label_studio`: register a Label Studio whose login is known, token and all, without a hand."""

import os
import time
from typing import Any

import httpx
from django.core.management.base import BaseCommand, CommandError, CommandParser

from datasets_app.labelstudio import LabelStudioError
from datasets_app.meeting import connect
from finetune_site.lib.label_studio import EMAIL, LabelStudioStartError

PASSWORD_VARIABLE = "LABEL_STUDIO_PASSWORD"  # noqa: S105  the variable's name: process lists show arguments
WAIT_SECONDS = 300


_TOLD = ("name", "url", "email", "browser_url", "portal_url", "hook_url", "allows_import")


class Command(BaseCommand):
    help = f"Register a Label Studio; the password of its account is read from {PASSWORD_VARIABLE}."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("url", help="where this machine reaches it")
        parser.add_argument("--name", default="Label Studio")
        parser.add_argument("--email", default=EMAIL)
        parser.add_argument("--browser-url", default="", help="where browsers reach it, if elsewhere")
        parser.add_argument("--portal-url", default="", help="where people reach this site")
        parser.add_argument("--hook-url", default="", help="where it reaches this site itself, if elsewhere")
        parser.add_argument(
            "--allows-import", action="store_true", help="trainers may read any project that the account there sees"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        password = os.environ.get(PASSWORD_VARIABLE)
        if not password:
            raise CommandError(f"Set {PASSWORD_VARIABLE} to the password of {options['email']} there.")
        told = {name: options[name] for name in _TOLD}
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                server = connect(**told, password=password)
                break
            except (LabelStudioStartError, LabelStudioError, httpx.HTTPError) as error:
                if isinstance(error, LabelStudioStartError) or time.monotonic() > deadline:
                    raise CommandError(str(error)) from None
                time.sleep(2)
        if server.problem:
            raise CommandError(server.problem)
        self.stdout.write(f"{server} {server.version} at {server.url} is connected as {server.account}.")
