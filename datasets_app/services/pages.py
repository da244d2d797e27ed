"""Pictures of a document's pages, drawn when somebody looks and kept by the file's hash."""

import fcntl
import json
import logging
import tempfile
from pathlib import Path

from django.conf import settings

from datasets_app.models import Document
from finetune_site import bucket
from finetune_site.lib.kernel import Limits
from finetune_site.lib.process import Engine

logger = logging.getLogger(__name__)
WIDTH = 1000
LIMITS = Limits(memory_bytes=2 * 2**30, cpu_seconds=30, file_bytes=50 * 2**20, wall_seconds=60, open_files=256)


def page_picture(document: Document, number: int) -> Path | None:
    """The PNG of a page, from 1; None where it has no picture. `BucketError`, `FileNotFoundError`: its file is away."""
    if not document.has_pictures or not 1 <= number <= document.pages:
        return None
    folder = document.picture_folder
    path = folder / f"{number}-{WIDTH}.png"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:  # who looks at the same moment waits for one drawing
        fcntl.flock(lock, fcntl.LOCK_EX)
        return path if path.exists() or _draw(document, number, path) else None


def _draw(document: Document, number: int, path: Path) -> bool:
    source = bucket.fetch(document.path, document.sha256)
    with tempfile.TemporaryDirectory(prefix="finetune-page-") as folder:
        spec = Path(folder) / "spec.json"
        fields = {"input_path": str(source), "page": number, "width": WIDTH, "out_path": str(path)}
        spec.write_text(json.dumps(fields))
        log = settings.DATA_DIR / "log" / "page.log"
        with Engine("datasets_app.engine", ["page", str(spec)], log_path=log, limits=LIMITS) as engine:
            outcome = engine.run(lambda event: None, lambda: False)
    if outcome.returncode:
        logger.warning("page %s of document %s cannot be drawn: %s", number, document.pk, outcome.failure or outcome)
    return path.exists()
