"""What a GGUF file says of itself, read in a hundredth of the time that gguf's own reader takes.

That one makes a NumPy view of each of a vocabulary's words: seconds for SmolLM2, minutes for a large one. Format:
https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import InputError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_facts(path: Path) -> dict[str, Any]:
    """The keys of a GGUF: numbers and texts as they are, of a list its length. `InputError` where it cannot be read."""
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _facts(content)
    except (OSError, ValueError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise InputError(f"The GGUF file cannot be read: {type(error).__name__}. Fetch or export it again.") from error


def _facts(content: mmap.mmap) -> dict[str, Any]:
    magic, version, tensors, count = struct.unpack_from("<4sIQQ", content, 0)
    if magic != b"GGUF" or not 2 <= version <= 3:
        raise ValueError("no GGUF of a known version")
    at = 24
    facts = {}
    for _ in range(count):
        name, at = _text(content, at)
        (kind,) = struct.unpack_from("<I", content, at)
        facts[name], at = _value(content, at + 4, kind)
    last = 0
    for _ in range(tensors):
        _, at = _text(content, at)
        (dimensions,) = struct.unpack_from("<I", content, at)
        (offset,) = struct.unpack_from("<Q", content, at + 8 + 8 * dimensions)
        last, at = max(last, offset), at + 16 + 8 * dimensions
    if tensors and at + last >= len(content):
        raise ValueError("cut short")
    return facts


def _value(content: mmap.mmap, at: int, kind: int) -> tuple[Any, int]:
    if kind == _STRING:
        return _text(content, at)
    if kind != _ARRAY:
        form = f"<{_SCALARS[kind]}"
        return struct.unpack_from(form, content, at)[0], at + struct.calcsize(form)
    of, count = struct.unpack_from("<IQ", content, at)
    at += 12
    if of == _STRING:
        for _ in range(count):
            at += 8 + struct.unpack_from("<Q", content, at)[0]
        return count, at
    if of == _ARRAY:
        for _ in range(count):
            _, at = _value(content, at, _ARRAY)
        return count, at
    return count, at + count * struct.calcsize(f"<{_SCALARS[of]}")


def _text(content: mmap.mmap, at: int) -> tuple[str, int]:
    (size,) = struct.unpack_from("<Q", content, at)
    begin = at + 8
    if begin + size > len(content):
        raise ValueError("cut short")
    return content[begin : begin + size].decode(), begin + size


@contextmanager
def read_once() -> Iterator[None]:
    """While it lasts, whoever opens a GGUF by gguf's reader is given the one that read it first: transformers opens the
    same file three times."""
    import gguf

    reader = gguf.GGUFReader
    gguf.GGUFReader = cache(reader)  # type: ignore[assignment,misc]  # called alone, with the file's path
    try:
        yield
    finally:
        gguf.GGUFReader = reader  # type: ignore[misc]
