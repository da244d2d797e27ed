"""Files on disk: written aside, synced, renamed; named by the hash of their content; read from their end."""

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, blocks: Iterable[bytes]) -> str:
    """Write `blocks` so that `path` exists only whole, and return the SHA-256 of the content in hex."""
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as stream:
            for block in blocks:
                digest.update(block)
                stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content in hex, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_blocks(blocks: Iterable[bytes]) -> str:
    """The SHA-256 in hex of a content that comes piece by piece."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()


def folder_bytes(folder: Path) -> int:
    """What the files below a folder take; 0 when there is no such folder."""
    sizes = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted while we look
                sizes += (Path(place) / name).lstat().st_size
    return sizes


def tail(path: Path, max_bytes: int = 64_000) -> str:
    """The last whole lines of a text file, at most `max_bytes`; empty when there is no such file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            stream.seek(max(0, size - max_bytes))
            block = stream.read()
    except FileNotFoundError:
        return ""
    if size > max_bytes:
        block = block.partition(b"\n")[2]
    return block.decode(errors="replace")
