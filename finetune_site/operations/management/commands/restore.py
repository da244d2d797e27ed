"""`manage.py restore FILE`: fill an empty site from a backup."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune_site.operations.archive import BackupError
from finetune_site.operations.restoring import has_other_key, restore


class Command(BaseCommand):
    help = "Fill this site from a backup; everything is verified before anything is touched."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument("--replace", action="store_true", help="replace all that this site holds")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            manifest = restore(options["file"], replace=options["replace"], say=self.stderr.write)
        except (BackupError, OSError) as error:
            raise CommandError(str(error)) from error
        rows = sum(table.rows for table in manifest.tables.values())
        self.stdout.write(f"Restored {rows} rows and {len(manifest.members)} members of {manifest.made_at}.")
        if has_other_key(manifest):
            self.stderr.write(
                "The backup was made under another FINETUNE_SECRET_KEY. Set the earlier key and start anew, or enter "
                "the tokens of the Label Studio servers again in the administration."
            )
        if not manifest.has_models:
            self.stderr.write("Base models were left out: make them ready again on their page.")
