"""Microsoft's compound files, as small as they can be."""

import struct


def entry(name: str, kind: int, right: int = -1, child: int = -1) -> bytes:
    """One of a compound file's directory, [MS-CFB] 2.6: kind 1 is a folder, 2 a stream, 5 the root."""
    spelled = name.encode("utf-16-le") + b"\0\0"
    links = struct.pack("<BBiii", kind, 1, -1, right, child)
    return spelled.ljust(64, b"\0") + struct.pack("<H", len(spelled)) + links + bytes(36) + struct.pack("<iQ", -2, 0)


def compound(*entries: bytes) -> bytes:
    """A compound file of one sector of allocations and one of at most four entries, [MS-CFB] 2.2."""
    versions = struct.pack("<16xHHHHH6x", 0x3E, 3, 0xFFFE, 9, 6)
    head = (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
        + versions
        + struct.pack("<iiiiiiiiiii", 0, 1, 1, 0, 4096, -2, 0, -2, 0, 0, -1)
    )
    allocations = struct.pack("<ii", -3, -2)
    return head.ljust(512, b"\xff") + allocations.ljust(512, b"\xff") + b"".join(entries).ljust(512, b"\0")


def with_stream(name: str) -> bytes:
    """A file whose directory names one empty stream."""
    return compound(entry("Root Entry", 5, child=1), entry(name, 2))
