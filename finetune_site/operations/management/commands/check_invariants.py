"""`manage.py check_invariants`: whether everything that must hold of the site's rows and files does."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune_site.operations.invariants import check


class Command(BaseCommand):
    help = "Look for rows and files that contradict one another; changes nothing."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--deep", action="store_true", help="also read every file and hold it against its hash")

    def handle(self, *args: Any, **options: Any) -> None:
        wrong = 0
        for title, findings in check(is_deep=options["deep"]):
            self.stdout.write(f"  {'holds' if not findings else 'WRONG'}  {title}")
            for finding in findings:
                self.stdout.write(f"         {finding}")
            wrong += bool(findings)
        if wrong:
            raise CommandError(
                f"{wrong} of the site's invariants do not hold. Keep the logs; docs/operators.md says on."
            )
