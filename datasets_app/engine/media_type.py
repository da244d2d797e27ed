"""What a file is, by its content and never by its name. Standard library only: the web process asks at upload."""

import zipfile
from pathlib import Path

from finetune_site.lib.channel import InputError

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
HTML = "text/html"
MARKDOWN = "text/markdown"
TEXT = "text/plain"
NAMES = {PDF: "PDF", DOCX: "Word document", HTML: "web page", MARKDOWN: "Markdown", TEXT: "plain text"}
ACCEPTED = "PDF, DOCX, HTML, Markdown or plain text"

_HEAD_BYTES = 65_536
_FOREIGN = (
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a Linux program"),
    (b"\xd0\xcf\x11\xe0", "an old Office file (.doc, .xls, .ppt); save it as DOCX or PDF first"),
    (b"\x89PNG", "an image; scans are not read yet, so export the text as PDF"),
    (b"\xff\xd8\xff", "an image; scans are not read yet, so export the text as PDF"),
    (b"GIF8", "an image"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
    (b"{\\rtf", "an RTF file; save it as DOCX or PDF first"),
)


def sniff(path: Path, filename: str) -> str:
    """The media type of a file; `InputError` with a sentence when it is none that can be parsed.

    The name only tells Markdown from plain text, which no content can.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head.strip(b"\x00 \r\n\t"):
        raise InputError(f"“{filename}” is empty. Check the file and upload it again.")
    if b"%PDF-" in head[:1024]:
        return PDF
    if head.startswith(b"PK"):
        return _zip_type(path, filename)
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise InputError(f"“{filename}” is {what}. Documents may be {ACCEPTED}.")
    return _text_type(head, filename)


def _zip_type(path: Path, filename: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:
        raise InputError(f"“{filename}” is a damaged archive or Office file. Save it again and retry.") from error
    if "word/document.xml" in names:
        return DOCX
    for member, what in (
        ("xl/", "an Excel workbook"),
        ("ppt/", "a PowerPoint file"),
        ("mimetype", "an EPUB or ODF file"),
    ):
        if any(name.startswith(member) for name in names):
            raise InputError(f"“{filename}” is {what}, which cannot be read yet. Export it as PDF or DOCX.")
    raise InputError(f"“{filename}” is a ZIP archive, not a document. Unpack it and upload what is inside.")


def _text_type(head: bytes, filename: str) -> str:
    is_wide = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not is_wide and (b"\x00" in head or _control_share(head) > 0.05):
        raise InputError(f"“{filename}” is a binary file of an unknown kind. Documents may be {ACCEPTED}.")
    lowered = head[:4096].lower()
    if any(mark in lowered for mark in (b"<!doctype html", b"<html", b"<head", b"<body")):
        return HTML
    return MARKDOWN if Path(filename).suffix.lower() in {".md", ".markdown"} else TEXT


def _control_share(head: bytes) -> float:
    return sum(byte < 9 or 13 < byte < 32 for byte in head) / len(head)
