"""`manage.py purge`: remove the files that no row points at any more, as deleted projects leave them."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from datasets_app.services.storage import MIN_AGE_SECONDS, orphans
from finetune_site.jobs.models import FINISHED, Job
from training_app.models import Run


class Command(BaseCommand):
    help = "Remove uploads, versions, runs and work folders that no row points at any more."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    def handle(self, *args: Any, **options: Any) -> None:
        count = size = 0
        for path in (*orphans(), *_folders()):
            count, size = count + 1, size + _size(path)
            self.stdout.write(str(path))
            if options["dry_run"]:
                continue
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        word = "would be removed" if options["dry_run"] else "removed"
        self.stdout.write(f"{count} files and folders, {size / 1e6:.1f} MB, {word}.")


def _folders() -> Iterator[Path]:
    """Folders of runs that are gone, and of jobs that have ended."""
    runs = {str(pk) for pk in Run.objects.values_list("pk", flat=True)}
    jobs = {f"job-{pk}" for pk in Job.objects.exclude(state__in=FINISHED).values_list("pk", flat=True)}
    before = time.time() - MIN_AGE_SECONDS
    for name, known in (("runs", runs), ("work", jobs)):
        for path in sorted((Path(settings.DATA_DIR) / name).glob("*")):
            if path.is_dir() and path.name not in known and path.stat().st_mtime < before:
                yield path


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
