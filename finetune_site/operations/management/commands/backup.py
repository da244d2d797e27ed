"""`manage.py backup FILE`: database and files as of one moment, while the site works."""

from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune_site.operations.archive import BackupError, verify
from finetune_site.operations.backup import take


class Command(BaseCommand):
    help = "Back up the database and all files into one archive, or verify one."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", type=Path)
        parser.add_argument(
            "--without-models", action="store_true", help="leave out base models: they are fetched again"
        )
        parser.add_argument(
            "--verify", action="store_true", help="read an archive and hold every byte against its list"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        path: Path = options["file"]
        try:
            if options["verify"]:
                manifest = verify(path)
            else:
                manifest = take(path, has_models=not options["without_models"], say=self.stderr.write)
        except (BackupError, OSError) as error:
            raise CommandError(str(error)) from error
        rows = sum(table.rows for table in manifest.tables.values())
        self.stdout.write(
            f"{path}: whole, {path.stat().st_size / 1e6:.1f} MB, {rows} rows, {len(manifest.members)} members, "
            f"made {manifest.made_at} by version {manifest.version}."
        )
        if manifest.gone:
            self.stderr.write(f"Rows name {len(manifest.gone)} files that the site does not have: {manifest.gone[:5]}")
