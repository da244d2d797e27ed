"""Messages within an Outlook message, which python-oxmsg leaves out: each as an e-mail file, to be read as one.

Names of streams and tags of properties: [MS-OXMSG] 2.2 and [MS-OXPROPS].
"""

import email.message
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import olefile

ATTACHMENT, EMBEDDED = "__attach_version1.0_", "__substg1.0_3701000D"
CONTENT = "__substg1.0_37010102"
SUBJECT, SENDER, TO, BODY, HTML, NAME = "0037", "0C1A", "0E04", "1000", "1013", "3707"
Place = list[str]


def embedded(path: Path) -> list[tuple[str, bytes]]:
    """Name and content of each message that is attached to the message of a file."""
    import olefile

    with olefile.OleFileIO(path) as compound:
        return list(_messages(compound, []))


def _messages(compound: "olefile.OleFileIO", place: Place) -> Iterator[tuple[str, bytes]]:
    for attachment in _attachments(compound, place):
        if compound.exists([*attachment, EMBEDDED]):
            message = _message(compound, [*attachment, EMBEDDED])
            yield f"{message['Subject'] or 'message'}.eml", message.as_bytes()


def _message(compound: "olefile.OleFileIO", place: Place) -> email.message.EmailMessage:
    message = email.message.EmailMessage()
    for field, tag in (("Subject", SUBJECT), ("From", SENDER), ("To", TO)):
        if value := " ".join(_text(compound, place, tag).split()):
            message[field] = value
    body = _text(compound, place, BODY)
    html = _text(compound, place, HTML)
    message.set_content(body or html, subtype="plain" if body or not html else "html")
    for attachment in _attachments(compound, place):
        if compound.exists([*attachment, CONTENT]):
            content = compound.openstream([*attachment, CONTENT]).read()
            name = _text(compound, attachment, NAME) or "attachment"
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
