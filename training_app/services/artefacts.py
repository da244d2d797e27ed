"""Run folders, exports and base models where machines share no folder: brought here before work, kept in the bucket
after it. On a site without a bucket the folders are shared, and all of this is nothing (see `finetune_site.bucket`)."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.db import InterfaceError, OperationalError, connection

from finetune_site import bucket
from finetune_site.bucket import BucketError, Mirror
from finetune_site.jobs.models import JobState
from finetune_site.jobs.queue import HOST, LeaseLost
from finetune_site.lib.files import folder_bytes, tail
from training_app.engine.spec import CHECKPOINT_WISH
from training_app.models import BaseModel, Run

CHECKPOINTS, EXPORTS, BEST = "checkpoints", "exports", "best.safetensors"  # the best weights are used while a run goes
TO_GO_ON = (CHECKPOINTS, BEST)
WISH_SECONDS = 2.0
GONE = (LeaseLost, OperationalError, InterfaceError)  # the job is not ours any more, or nobody can say that it is

logger = logging.getLogger(__name__)


def run_mirror(run: Run) -> Mirror:
    return Mirror(run.folder, without=(EXPORTS, CHECKPOINT_WISH))


def bring_run(run: Run, *, to_train: bool = False) -> None:
    """See that this machine has what a job on a run reads: its version, its folder, and to train also checkpoints and
    the run that it starts from. `FileNotFoundError`, `BucketError`."""
    bucket.fetch(run.version.file_path, run.version.sha256)
    run_mirror(run).pull(without=() if to_train else TO_GO_ON)
    if run.start:
        run_mirror(run.start).pull(without=TO_GO_ON)


def bring_base(base: BaseModel) -> None:
    Mirror(base.folder).pull()


def keep_base(base: BaseModel) -> None:
    Mirror(base.folder).push()


def base_file(base: BaseModel, name: str, max_bytes: int) -> bytes:
    """A file of a base model that is ready, from here or from the bucket, without its weights."""
    path = base.folder / name
    return path.read_bytes() if path.exists() else Mirror(base.folder).read(name, max_bytes)


def bytes_of(run: Run, names: tuple[str, ...]) -> int:
    """What these subfolders and files of a run take, here or in the bucket."""
    here = sum(_bytes(run.folder / name) for name in names)
    kept = run_mirror(run).manifest()
    there = sum(
        entry["size"] for path, entry in kept.items() if path in names or path.startswith(tuple(f"{n}/" for n in names))
    )
    return max(here, there)


def all_bytes(run: Run) -> int | None:
    """What a run takes on disk; with a bucket what is kept there, while it trains here what it has got so far. None:
    this machine does not know."""
    here = folder_bytes(run.folder) if run.folder.exists() else None
    if not bucket.is_on():
        return here
    kept = sum(entry["size"] for entry in run_mirror(run).manifest().values())
    kept += sum(entry.size for entry in bucket.listing(run.folder / EXPORTS))
    trains_here = run.job is not None and run.job.state == JobState.RUNNING and run.job.host == HOST
    return max(kept, here or 0) if trains_here else kept


def text_of(run: Run, name: str, max_bytes: int) -> str:
    """The end of a text file of a run's folder; of a run that worked on another machine, as that one kept it last."""
    path = run.folder / name
    if not bucket.is_on() or (path.exists() and (run.job is None or run.job.host == HOST)):
        return tail(path, max_bytes)
    try:
        return run_mirror(run).read(name, max_bytes).decode(errors="replace")
    except BucketError as error:
        return f"({error})"


def wish_checkpoint(run: Run) -> None:
    """Where the machine finds the wish that trains the run."""
    wish = run.folder / CHECKPOINT_WISH
    wish.parent.mkdir(parents=True, exist_ok=True)
    wish.touch()
    bucket.put(wish)


class Keeper:
    """Keeps a run's folder in the bucket: beside the training after each checkpoint, and at its end."""

    def __init__(self, run: Run, may_write: Callable[[], object]) -> None:
        self._run, self._may_write = run, may_write
        self._wanted, self._done = threading.Event(), threading.Event()
        self._is_here = self._is_kept = False

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Around the training, once the run's folder was brought here: before that, what is here is not the run."""
        self._is_here = True
        if not bucket.is_on():
            yield
            return
        thread = threading.Thread(target=self._work, daemon=True, name="bucket")
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def checkpoint(self) -> None:
        """There is a new one: send it."""
        self._wanted.set()

    def keep(self) -> None:
        """Now, and wait for it. `BucketError`, or what `may_write` raises."""
        run_mirror(self._run).push(may_write=self._may_write)

    def make_sure(self) -> None:
        """At the end of a run that went well: unless it is kept it is not done."""
        if not self._is_kept:
            self.keep()

    def keep_quietly(self) -> None:
        """At the end of an attempt, whatever ended it: what there is is worth keeping, if the job is still ours."""
        if not self._is_here:
            return
        try:
            self.keep()
            self._is_kept = True
        except OSError as error:
            logger.warning("run %s: what it has is not in the bucket: %s", self._run.pk, error)
        except GONE:  # whoever holds the job keeps what is right
            logger.info("run %s: nothing more is kept", self._run.pk)

    def _work(self) -> None:
        try:
            self._keep_checkpoints()
        finally:
            connection.close()

    def _keep_checkpoints(self) -> None:
        while not self._done.wait(WISH_SECONDS):
            try:
                self._take_wish()
                if self._wanted.is_set():
                    self._wanted.clear()
                    self.keep()
            except OSError as error:  # the next checkpoint, or the end, keeps more
                logger.warning("run %s: its checkpoint is not in the bucket yet: %s", self._run.pk, error)
            except GONE:  # nothing is to be kept by us any more
                logger.info("run %s: nothing more is kept", self._run.pk)
                return

    def _take_wish(self) -> None:
        wish = self._run.folder / CHECKPOINT_WISH
        if not wish.exists() and bucket.has(wish):
            bucket.remove(wish)
            wish.touch()


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.is_file() else folder_bytes(path)
