"""`manage.py purge`: remove the files that no row points at any more, as deleted projects leave them."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from datasets_app.models import Upload
from datasets_app.services.storage import MIN_AGE_SECONDS, orphans, remove_orphan
from datasets_app.services.uploads import forget_stale
from finetune_site import bucket
from finetune_site.jobs.models import FINISHED, Job
from finetune_site.lib.files import folder_bytes
from training_app.models import BaseModel, Run


class Command(BaseCommand):
    help = "Remove uploads, versions, runs and work folders that no row points at any more, here and in the bucket."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    def handle(self, *args: Any, **options: Any) -> None:
        if not options["dry_run"]:
            forget_stale()
        found = [*((*entry, remove_orphan) for entry in orphans()), *((*entry, _remove) for entry in _folders())]
        for path, _, remove in found:
            self.stdout.write(str(path))
            if not options["dry_run"]:
                remove(path)
        word = "would be removed" if options["dry_run"] else "removed"
        size = sum(size for _, size, _ in found)
        self.stdout.write(f"{len(found)} files and folders, {size / 1e6:.1f} MB, {word}.")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    bucket.remove_below(folder)


def _folders() -> Iterator[tuple[Path, int]]:
    """Folders of runs, models and uploads that are gone, and of jobs that have ended."""
    uploads = {str(pk) for pk in Upload.objects.values_list("pk", flat=True)}
    runs = {str(pk) for pk in Run.objects.values_list("pk", flat=True)}
    models = {str(pk) for pk in BaseModel.objects.values_list("pk", flat=True)}
    jobs = {f"job-{pk}" for pk in Job.objects.exclude(state__in=FINISHED).values_list("pk", flat=True)}
    before = time.time() - MIN_AGE_SECONDS
    for name, known in (("runs", runs), ("models", models), ("work", jobs), ("arriving", uploads)):
        home = Path(settings.DATA_DIR) / name
        found = {path: path.stat().st_mtime for path in home.glob("*") if path.is_dir()}
        sizes = {path: folder_bytes(path) for path in found if path.name not in known}
        for kept in bucket.listing(home):
            folder = home / kept.path.relative_to(home).parts[0]
            found[folder] = max(found.get(folder, 0), kept.at.timestamp())
            sizes[folder] = sizes.get(folder, 0) + kept.size
        for path, at in sorted(found.items()):
            if path.name not in known and at < before:
                yield path, sizes[path]
