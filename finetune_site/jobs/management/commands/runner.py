"""`manage.py runner QUEUE SLOT`: do the jobs of a queue until none waits. Started by `dispatch`."""

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from finetune_site.jobs.runner import Runner


class Command(BaseCommand):
    help = "Do the jobs of one queue in one slot of this machine, then leave."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("queue", choices=sorted(settings.JOB_SLOTS))
        parser.add_argument("slot", type=int)

    def handle(self, *args: Any, **options: Any) -> None:
        Runner(options["queue"], options["slot"]).work()
