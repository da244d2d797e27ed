"""What a backup is as a file: a plain tar with the tables in pieces, then the files, and last a manifest with the hash
of each. An archive without its manifest was never finished. Neither database nor data folder is touched here."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO

FORMAT = 1
MANIFEST = "manifest.json"
TABLES = "database"
FOLDERS = ("files", "runs", "models")
BLOCK_BYTES = 1024 * 1024


class BackupError(Exception):
    """The person can mend it; the message says how."""


@dataclass(frozen=True)
class Table:
    columns: list[str]
    rows: int


@dataclass(frozen=True)
class Manifest:
    """`key` is a slow fingerprint of the key that secrets were sealed under; `gone` names files of rows that the site
    itself did not have any more."""

    format: int
    version: str
    made_at: str
    postgres: str
    key: str
    has_models: bool
    migrations: list[str]
    tables: dict[str, Table]
    members: dict[str, str]
    gone: list[str]


class Writer:
    """Appends members to an archive and remembers their hashes; `finish` writes the manifest."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.members: dict[str, str] = {}
        # Closed by `finish`: what is not finished must not look whole.
        self._tar = tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def add_bytes(self, name: str, content: bytes) -> None:
        self._add(name, len(content), io.BytesIO(content))

    def add_file(self, name: str, path: Path) -> None:
        """What the file holds at this moment: of one that grows meanwhile, the part that there was."""
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if size <= BLOCK_BYTES:  # small ones may be written anew in place
                self.add_bytes(name, stream.read())
            else:
                self._add(name, size, stream)

    def finish(self, manifest: Manifest) -> None:
        self._add(MANIFEST, len(text := json.dumps(asdict(manifest), indent=1).encode()), io.BytesIO(text))
        self._tar.close()

    def _add(self, name: str, size: int, stream: IO[bytes]) -> None:
        entry = tarfile.TarInfo(name)
        entry.size, entry.mode = size, 0o600
        hashing = _Hashing(stream)
        try:
            self._tar.addfile(entry, hashing)
        except OSError as error:
            if str(error) != "unexpected end of data":
                raise
            raise BackupError(f"{name} became shorter while it was read. Start the backup again.") from error
        self.members[name] = hashing.digest.hexdigest()


class _Hashing:
    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.digest.update(block)
        return block


def members(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """Name and content of each member in order, read once from front to back."""
    with tarfile.open(path, mode="r|") as tar:
        for entry in tar:
            stream = tar.extractfile(entry) if entry.isreg() else None
            if stream is None:
                raise BackupError(f"{path} holds {entry.name}, which is no file: it is no backup of this site.")
            yield entry.name, stream


def verify(path: Path) -> Manifest:
    """Read the whole archive and hold every byte against its manifest. `BackupError` where they differ."""
    try:
        return _verify(path)
    except (tarfile.TarError, EOFError) as error:
        raise BackupError(f"{path} is cut off or no backup of this site ({error}). Take another.") from error


def table_of(name: str) -> str:
    """The table of a member such as `database/jobs_job/000001`."""
    return PurePosixPath(name).parts[1]


def _verify(path: Path) -> Manifest:
    found: dict[str, str] = {}
    rows: dict[str, int] = {}
    manifest = None
    for name, stream in members(path):
        if name == MANIFEST:
            manifest = _read_manifest(path, stream.read())
            continue
        digest, count = hashlib.sha256(), 0
        while block := stream.read(BLOCK_BYTES):
            digest.update(block)
            count += block.count(b"\n")
        found[name] = digest.hexdigest()
        place = PurePosixPath(name)
        if place.parts[0] == TABLES:
            rows[table_of(name)] = rows.get(table_of(name), 0) + count
        elif place.parts[0] not in FOLDERS or ".." in place.parts:
            raise BackupError(f"{path} holds {name}, which belongs to no part of this site.")
    if manifest is None:
        raise BackupError(f"{path} has no manifest: the backup was not finished. Take another.")
    _compare(path, manifest, found, rows)
    return manifest


def _read_manifest(path: Path, text: bytes) -> Manifest:
    told = json.loads(text)
    if told["format"] != FORMAT:
        raise BackupError(f"{path} is of format {told['format']}, this version reads format {FORMAT}.")
    return Manifest(**{**told, "tables": {name: Table(**table) for name, table in told["tables"].items()}})


def _compare(path: Path, manifest: Manifest, found: dict[str, str], rows: dict[str, int]) -> None:
    if missing := sorted(manifest.members.keys() - found.keys()):
        raise BackupError(f"{path} lacks {len(missing)} of its files, the first is {missing[0]}. Take another.")
    if changed := sorted(name for name in found if manifest.members.get(name) != found[name]):
        raise BackupError(f"{path} is damaged: {changed[0]} is not what was backed up. Take another.")
    for name, table in manifest.tables.items():
        if rows.get(name, 0) != table.rows:
            raise BackupError(f"{path} is damaged: {name} has {rows.get(name, 0)} rows of {table.rows}. Take another.")
