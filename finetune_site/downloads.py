"""Files as people save them: sent piece by piece, as a whole they would fill the memory of the web server."""

import asyncio
import base64
from collections.abc import AsyncIterator, Generator
from pathlib import Path

from django.db import connection
from django.http import StreamingHttpResponse
from django.utils.http import content_disposition_header

from finetune_site import bucket


class FileAwayError(Exception):
    """A file that ought to be here cannot be had; the message says what to do."""


def send_file(path: Path, filename: str, *, size: int, sha256: str = "") -> StreamingHttpResponse:
    """A file of `size` bytes from the disk, or from the bucket of a site that has one; with its hash (RFC 9530).
    `FileAwayError` where neither has it, `BucketError`."""
    if not bucket.has(path):
        raise FileAwayError("The file is not on this site any more. Make it again, or ask an operator.")
    response = send_pieces(bucket.blocks(path), filename, content_type="application/octet-stream")
    response["Content-Length"] = str(size)
    if sha256:
        response["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    return response


def send_pieces(pieces: Generator[bytes], filename: str, *, content_type: str) -> StreamingHttpResponse:
    """What an iterator yields. It runs in threads and must not ask the database: a download lasts minutes, and lets go
    of the connection of its first second."""
    if not connection.in_atomic_block:
        connection.close()
    response = StreamingHttpResponse(_in_threads(pieces), content_type=content_type)
    response["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=filename)
    return response


async def _in_threads(pieces: Generator[bytes]) -> AsyncIterator[bytes]:
    # An iterator that is not asynchronous would be read whole before the first byte is sent.
    reading: asyncio.Future[bytes | None] | None = None
    try:
        while True:
            reading = asyncio.ensure_future(asyncio.to_thread(next, pieces, None))
            piece = await asyncio.shield(reading)
            if piece is None:
                return
            yield piece
    finally:
        if reading and not reading.done():  # whoever read it left: what runs in its thread ends first
            await asyncio.wait([reading])
        await asyncio.to_thread(pieces.close)
