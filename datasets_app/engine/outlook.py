"""Messages within an Outlook message, which python-oxmsg leaves out: each as an e-mail file, to be read as one.

Names of streams and tags of properties: [MS-OXMSG] 2.2 and [MS-OXPROPS].
"""

import contextlib
import email.message
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import olefile

ATTACHMENT, EMBEDDED = "__attach_version1.0_", "__substg1.0_3701000D"
CONTENT, PROPERTIES = "__substg1.0_37010102", "__properties_version1.0"
SUBJECT, SENDER, TO, BODY, HTML, NAME = "0037", "0C1A", "0E04", "1000", "1013", "3707"
Place = list[str]


def embedded(path: Path, warnings: list[str]) -> list[tuple[str, bytes]]:
    """Name and content of each message that is attached to the message of a file. A warning counts the attachments
    without content of their own: links, and objects of other programs."""
    import olefile

    with olefile.OleFileIO(path) as compound:
        every = list(_attachments(compound, []))
        of_content = sum(compound.exists([*attachment, CONTENT]) for attachment in every)
        found = list(_messages(compound, []))
    if left := len(every) - of_content - len(found):
        warnings.append(f"{left} attachments were left out: they are links, or objects of another program.")
    return found


def _messages(compound: "olefile.OleFileIO", place: Place) -> Iterator[tuple[str, bytes]]:
    for attachment in _attachments(compound, place):
        if compound.exists([*attachment, EMBEDDED, PROPERTIES]):  # an object of another program has none
            message = _message(compound, [*attachment, EMBEDDED])
            yield f"{message['Subject'] or 'message'}.eml", message.as_bytes()


def _message(compound: "olefile.OleFileIO", place: Place) -> email.message.EmailMessage:
    message = email.message.EmailMessage()
    for field, tag in (("Subject", SUBJECT), ("From", SENDER), ("To", TO)):
        value = " ".join(_text(compound, place, tag).split())
        with contextlib.suppress(ValueError, IndexError, AttributeError):  # the standard library, on what is no address
            if value:
                message[field] = value
    body = _text(compound, place, BODY)
    html = _text(compound, place, HTML)
    message.set_content(body or html, subtype="plain" if body or not html else "html")
    for attachment in _attachments(compound, place):
        if compound.exists([*attachment, CONTENT]):
            content = compound.openstream([*attachment, CONTENT]).read()
            name = " ".join(_text(compound, attachment, NAME).split()) or "attachment"
            message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    for name, content in _messages(compound, place):
        message.add_attachment(content, maintype="application", subtype="octet-stream", filename=name)
    return message


def _attachments(compound: "olefile.OleFileIO", place: Place) -> Iterator[Place]:
    depth = len(place)
    for entry in compound.listdir(streams=False, storages=True):
        if len(entry) == depth + 1 and entry[:depth] == place and entry[-1].startswith(ATTACHMENT):
            yield entry


def _text(compound: "olefile.OleFileIO", place: Place, tag: str) -> str:
    """A property as it is kept: in Unicode, in the code page of Western Europe, or as bytes."""
    for kind, encoding in (("001F", "utf-16-le"), ("001E", "cp1252"), ("0102", "utf-8")):
        stream = [*place, f"__substg1.0_{tag}{kind}"]
        if compound.exists(stream):
            return str(compound.openstream(stream).read().decode(encoding, errors="replace"))
    return ""
