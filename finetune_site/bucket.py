"""The bucket in which the files of all machines meet, for sites whose machines share no folder.

Each machine works on its own disk, below its FINETUNE_DATA_DIR; a file's name in the bucket is its path from there.
What is written is put into the bucket before a row names it, and what a row names is fetched when it is not here.
Without FINETUNE_S3_BUCKET nothing of this happens: then the folder itself is what the machines share.

Files named by their content never change and go as they are. A folder that is worked in (a run's, a base model's) is a
`Mirror`: its files lie in the bucket by their hashes, and a manifest, replaced as a whole, says which of them make the
folder. So another machine sees a folder as it was at one moment, never half of two.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from django.conf import settings
from django.core.files.storage import storages

from finetune_site.lib.files import sha256_of, sha256_of_blocks, write_whole

BLOCK_BYTES = 1024 * 1024
SMALL_BYTES = 1024 * 1024  # of such files nobody remembers the hash: it is had at once
MANIFEST, BLOBS = "manifest.json", "blobs"
TRIES = 3
Result = TypeVar("Result")


class BucketError(OSError):
    """The bucket does not answer or refuses us; the message says what to do."""


@dataclass(frozen=True)
class Kept:
    """A file in the bucket: its path on this machine, if it is here, its size in bytes, and when it was put there."""

    path: Path
    size: int
    at: datetime


def is_on() -> bool:
    return bool(settings.S3_BUCKET)


def put(path: Path) -> None:
    """Send a file to the bucket, in parts; it is there as a whole or not at all. `BucketError`."""
    if is_on():
        with path.open("rb") as stream:
            _save(_name(path), stream)


def fetch(path: Path, sha256: str = "") -> Path:
    """See that a file is here, and return its path. `FileNotFoundError` where neither disk nor bucket has it,
    `BucketError` where its content is not the one of `sha256`."""
    if is_on() and not path.exists():
        _download(_name(path), path, sha256)
    return path


def has(path: Path) -> bool:
    """Whether disk or bucket has a file."""
    if path.exists() or not is_on():
        return path.exists()
    try:
        with _told():
            _bucket().Object(_name(path)).load()
    except FileNotFoundError:
        return False
    return True


def blocks(path: Path) -> Generator[bytes]:
    """The content of a file piece by piece, from the disk or straight from the bucket; it is never held whole."""
    if path.exists() or not is_on():
        with path.open("rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block
        return
    with _told():
        yield from _open(_name(path)).iter_chunks(BLOCK_BYTES)


def remove(path: Path) -> None:
    """Remove a file from disk and bucket; other machines may keep their copies until `manage.py purge` runs there."""
    path.unlink(missing_ok=True)
    if is_on():
        with _told():
            _bucket().Object(_name(path)).delete()


def listing(folder: Path) -> Iterator[Kept]:
    """What the bucket holds below a folder; nothing without a bucket."""
    if is_on():
        with _told():
            for entry in _bucket().objects.filter(Prefix=f"{_name(folder)}/"):
                yield Kept(Path(settings.DATA_DIR) / entry.key, entry.size, entry.last_modified)


def remove_below(folder: Path) -> None:
    """Remove all that the bucket holds below a folder."""
    if is_on():
        with _told():
            _bucket().objects.filter(Prefix=f"{_name(folder)}/").delete()


def try_out() -> None:
    """Write, read and delete a small file. `BucketError` says what is wrong."""
    name = f"health/{uuid.uuid4().hex}"
    with _told():
        _bucket().put_object(Key=name, Body=b"ready")
        if _open(name).read() != b"ready":
            raise BucketError("The bucket gives back another content than was written.")
        _bucket().Object(name).delete()


class Mirror:
    """A folder of this machine and its last kept state in the bucket.

    `without`: subfolders that are left alone, as they are mirrored by themselves or belong to this machine only.
    """

    def __init__(self, folder: Path, *, without: Collection[str] = ()) -> None:
        self._folder, self._without = folder, frozenset(without)
        self._index = Path(settings.DATA_DIR) / "run" / "bucket" / f"{_name(folder).replace('/', '-')}.json"

    def push(self, *, may_write: Callable[[], object] = lambda: None) -> None:
        """Keep the folder as it is now. `may_write` is asked last, before the manifest says so: what it raises ends
        the push, and the state before stays."""
        if not is_on():
            return
        with self._turn():
            former, index = self.manifest(), self._read_index()
            there = {entry["sha256"] for entry in former.values()}
            found: dict[str, dict[str, Any]] = {}
            for path in self._files(self._without):
                with contextlib.suppress(FileNotFoundError):  # an old checkpoint may go while we look
                    entry = self._send(path, index, there)
                    found[self._relative(path)] = entry
                    there.add(entry["sha256"])
            if found == former:
                return
            may_write()
            self._replace(former, found, is_ours=True)

    def pull(self, *, without: Collection[str] = ()) -> None:
        """Make the folder what was kept, save what is left alone. Where this machine kept it last, what is here is at
        least as new, and nothing is done."""
        if not is_on():
            return
        with self._turn():
            self._again(lambda: self._bring(self._without | frozenset(without)))

    def _bring(self, left: Collection[str]) -> None:
        kept, index = self.manifest(), self._read_index()
        if not kept and self._index.exists():  # it was kept, and somebody removed it
            shutil.rmtree(self._folder, ignore_errors=True)
            self._index.unlink()
        if not kept or index["pushed"] == _digest(_dump(kept)):
            return
        wanted = {name: entry for name, entry in kept.items() if not self._is_left_alone(name, left)}
        for name, entry in wanted.items():
            path = self._folder / name
            if not path.exists() or self._hash(path, index) != entry["sha256"]:
                _download(self._blob(entry["sha256"]), path, entry["sha256"])
        for path in list(self._files(left)):
            if self._relative(path) not in wanted:
                path.unlink(missing_ok=True)
        self._write_index(wanted, "")

    @staticmethod
    def _again(read: Callable[[], Result]) -> Result:
        """Between our look at the manifest and at a blob another machine may keep a newer state: look anew."""
        for _ in range(TRIES - 1):
            with contextlib.suppress(FileNotFoundError):
                return read()
        return read()

    def manifest(self) -> dict[str, dict[str, Any]]:
        """Of each kept file its hash and size in bytes, by its path below the folder; empty where nothing was kept."""
        if not is_on():
            return {}
        try:
            with _told():
                return dict(json.loads(_open(f"{_name(self._folder)}/{MANIFEST}").read()))
        except FileNotFoundError:
            return {}

    def read(self, name: str, max_bytes: int) -> bytes:
        """The last `max_bytes` of a kept file; empty where there is none."""

        def look() -> bytes:
            entry = self.manifest().get(name)
            if entry is None or not entry["size"]:
                return b""
            first = max(0, entry["size"] - max_bytes)
            with _told():
                return bytes(_open(self._blob(entry["sha256"]), Range=f"bytes={first}-").read())

        return self._again(look)

    def drop(self, names: Collection[str]) -> None:
        """Remove these subfolders and files, here and in the bucket."""
        for name in names:
            path = self._folder / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            remove_below(path)
        if not is_on():
            return
        with self._turn():
            former = self.manifest()
            found = {name: entry for name, entry in former.items() if not self._is_left_alone(name, frozenset(names))}
            if found == former:
                return
            self._replace(former, found, is_ours=self._read_index()["pushed"] == _digest(_dump(former)))

    def _send(self, path: Path, index: dict[str, Any], there: set[str]) -> dict[str, Any]:
        """Put a file's content there, unless it is. A file may be replaced or grow meanwhile: what was open when its
        size was read is what is hashed and sent."""
        with path.open("rb") as stream:
            facts = os.fstat(stream.fileno())
            digest = self._known(path, facts, index) or sha256_of_blocks(_Beginning(stream, facts.st_size).blocks())
            if digest not in there:
                stream.seek(0)
                _save(self._blob(digest), _Beginning(stream, facts.st_size))
        return {"sha256": digest, "size": facts.st_size}

    def _hash(self, path: Path, index: dict[str, Any]) -> str:
        return self._known(path, path.stat(), index) or sha256_of(path)

    def _known(self, path: Path, facts: os.stat_result, index: dict[str, Any]) -> str:
        """The SHA-256 of a file that is as it was when it was hashed last; empty for another."""
        known = index["files"].get(self._relative(path))
        return str(known[2]) if known and [facts.st_size, facts.st_mtime_ns] == known[:2] else ""

    def _files(self, without: Collection[str]) -> Iterator[Path]:
        for path in sorted(self._folder.rglob("*")):
            name = self._relative(path)
            if path.is_file() and not _is_half(name) and not self._is_left_alone(name, without):
                yield path

    def _is_left_alone(self, name: str, without: Collection[str]) -> bool:
        return any(name == other or name.startswith(f"{other}/") for other in without)

    def _replace(self, former: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]], *, is_ours: bool) -> None:
        """The manifest says `found` from now on, and what only `former` named goes. `is_ours`: what is here is that."""
        text = _dump(found)
        with _told():
            _bucket().put_object(Key=f"{_name(self._folder)}/{MANIFEST}", Body=text)
            self._write_index(found, _digest(text) if is_ours else "")
            for digest in _digests(former) - _digests(found):
                _bucket().Object(self._blob(digest)).delete()

    def _blob(self, digest: str) -> str:
        return f"{_name(self._folder)}/{BLOBS}/{digest}"

    def _relative(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()

    def _read_index(self) -> dict[str, Any]:
        """What this machine knows of its files: size, time of change and hash of each, and which state it kept."""
        try:
            return dict(json.loads(self._index.read_text()))
        except (FileNotFoundError, json.JSONDecodeError):
            return {"pushed": "", "files": {}}

    def _write_index(self, entries: dict[str, dict[str, Any]], pushed: str) -> None:
        files = {}
        for name, entry in entries.items():
            with contextlib.suppress(FileNotFoundError):
                facts = (self._folder / name).stat()
                if facts.st_size == entry["size"] and facts.st_size > SMALL_BYTES:
                    files[name] = [facts.st_size, facts.st_mtime_ns, entry["sha256"]]
        write_whole(self._index, [json.dumps({"pushed": pushed, "files": files}).encode()])

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One of this machine's processes at a time; between machines the lease of the job decides."""
        self._index.parent.mkdir(parents=True, exist_ok=True)
        with self._index.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _digests(entries: dict[str, dict[str, Any]]) -> set[str]:
    return {str(entry["sha256"]) for entry in entries.values()}


class _Beginning:
    """The first `size` bytes of a file."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left = stream, size

    def read(self, count: int = -1) -> bytes:
        block = self._stream.read(self._left if count < 0 else min(count, self._left))
        self._left -= len(block)
        return block

    def blocks(self) -> Iterator[bytes]:
        while block := self.read(BLOCK_BYTES):
            yield block


def _is_half(name: str) -> bool:
    """Written aside and not renamed yet."""
    return any(part.endswith((".part", ".lock")) or part.startswith(".") for part in PurePosixPath(name).parts)


def _name(path: Path) -> str:
    return path.relative_to(settings.DATA_DIR).as_posix()


def _dump(entries: dict[str, dict[str, Any]]) -> bytes:
    return json.dumps(entries, sort_keys=True).encode()


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def _bucket() -> Any:
    """Of this thread: what boto3 gives is not for two at once."""
    store: Any = storages["bucket"]
    return store.connection.Bucket(store.bucket_name)


def _save(name: str, stream: IO[bytes] | _Beginning) -> None:
    with _told():
        _bucket().upload_fileobj(stream, name)


def _open(name: str, **part: str) -> Any:
    return _bucket().Object(name).get(**part)["Body"]


def _download(name: str, path: Path, sha256: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name[:80]}.{uuid.uuid4().hex}.part")
    try:
        with _told():
            _bucket().download_file(name, str(aside))
        if sha256 and sha256_of(aside) != sha256:
            raise BucketError(f"{name} in the bucket is not what was put there. Restore it from a backup.")
        with aside.open("rb") as stream:
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """What goes wrong there, as our two errors."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in {"404", "NoSuchKey"}:
            raise FileNotFoundError(f"The bucket {settings.S3_BUCKET} lacks a file that is asked for.") from error
        raise BucketError(f"The bucket {settings.S3_BUCKET} refuses us ({code}). Look at its name and keys.") from error
    except (Boto3Error, BotoCoreError) as error:
        text = (
            f"The bucket {settings.S3_BUCKET} does not answer ({type(error).__name__}). Look at FINETUNE_S3_ENDPOINT."
        )
        raise BucketError(text) from error
