"""What a file is, by its content and never by its name. The web process asks at upload."""

import re
import zipfile
from pathlib import Path

import olefile

from finetune_site.lib.channel import InputError

PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
XLS = "application/vnd.ms-excel"
DOC = "application/msword"
PPT = "application/vnd.ms-powerpoint"
ODT = "application/vnd.oasis.opendocument.text"
EPUB = "application/epub+zip"
RTF = "application/rtf"
EML = "message/rfc822"
MSG = "application/vnd.ms-outlook"
HTML = "text/html"
XML = "application/xml"
JSON = "application/json"
JSON_LINES = "application/jsonl"
CSV = "text/csv"
TSV = "text/tab-separated-values"
MARKDOWN = "text/markdown"
RST = "text/x-rst"
ORG = "text/x-org"
TEXT = "text/plain"
PNG = "image/png"
JPEG = "image/jpeg"
TIFF = "image/tiff"
NAMES = {
    PDF: "PDF", DOCX: "Word document", PPTX: "PowerPoint presentation", XLSX: "Excel workbook",
    XLS: "Excel workbook (old format)", DOC: "Word document (old format)",
    PPT: "PowerPoint presentation (old format)", ODT: "OpenDocument text", EPUB: "EPUB book", RTF: "RTF document",
    EML: "e-mail", MSG: "Outlook message", HTML: "web page", XML: "XML", JSON: "JSON", JSON_LINES: "JSON Lines",
    CSV: "CSV table", TSV: "TSV table", MARKDOWN: "Markdown", RST: "reStructuredText", ORG: "Org text",
    TEXT: "plain text", PNG: "PNG picture", JPEG: "JPEG picture", TIFF: "TIFF picture",
}  # fmt: skip
# What stands for a page where it is not called so.
PAGE_WORDS = {PPTX: "slide", PPT: "slide", XLSX: "sheet", XLS: "sheet"}
PICTURES = {PNG, JPEG, TIFF}
# Members of an archive are counted and weighed before anything unpacks them.
ARCHIVES = {DOCX, PPTX, XLSX, ODT, EPUB}
TEXTS = {HTML, XML, JSON, JSON_LINES, CSV, TSV, MARKDOWN, RST, ORG, TEXT, RTF}
ACCEPTED = (
    "PDF, Word (DOCX, DOC), PowerPoint (PPTX, PPT), Excel (XLSX, XLS), OpenDocument text, RTF, EPUB, HTML, "
    "e-mails (EML, MSG), CSV, TSV, JSON, XML, Markdown, reStructuredText, Org, plain text, or scans (PNG, JPEG, TIFF)"
)

MAX_CHARACTERS, BYTES_A_CHARACTER = 5_000_000, 4  # of one file; a text of so many bytes cannot have fewer
_HEAD_BYTES = 65_536
_FOREIGN = (
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a Linux program"),
    (b"GIF8", "a GIF; save it as PNG"),
    (b"\x1f\x8b", "a gzip archive; unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip archive; unpack it first"),
    (b"Rar!", "a RAR archive; unpack it first"),
)
_PICTURES = ((b"\x89PNG", PNG), (b"\xff\xd8\xff", JPEG), (b"II*\x00", TIFF), (b"MM\x00*", TIFF))
# Of files that are text, only the name tells what kind of text they mean to be.
_SUFFIXES = {
    ".md": MARKDOWN, ".markdown": MARKDOWN, ".rst": RST, ".rest": RST, ".org": ORG, ".csv": CSV, ".tsv": TSV,
    ".tab": TSV, ".json": JSON, ".jsonl": JSON_LINES, ".ndjson": JSON_LINES, ".xml": XML,
}  # fmt: skip
# Parts that only one of the packed formats has.
_MEMBERS = (("word/document.xml", DOCX), ("ppt/presentation.xml", PPTX), ("xl/workbook.xml", XLSX))
_MIMETYPES = {EPUB.encode(): EPUB, ODT.encode(): ODT}
# What only one kind of Microsoft's compound files has at the top of its directory: another's may be packed deeper.
_STREAMS = (
    ("__properties_version1.0", MSG, ""),
    ("WordDocument", DOC, ""),
    ("PowerPoint Document", PPT, ""),
    ("EncryptedPackage", "", "encrypted with a password; save a copy without one and upload that"),
    ("Workbook", XLS, ""),
    ("Book", XLS, ""),
)
_MAIL_FIELDS = re.compile(
    rb"^(?:Return-Path|Received|From|To|Subject|Date|Message-ID|MIME-Version|Delivered-To|Content-Type):", re.I | re.M
)


def sniff(path: Path, filename: str) -> str:
    """The media type of a file; `InputError` with a sentence when it is none that can be parsed.

    The name only tells kinds of text apart, which no content can.
    """
    with path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    if not head.strip(b"\x00 \r\n\t"):
        raise InputError(f"“{filename}” is empty. Check the file and upload it again.")
    if b"%PDF-" in head[:1024]:
        return PDF
    if head.startswith(b"PK"):
        return _zip_type(path, filename)
    if head.startswith(b"\xd0\xcf\x11\xe0"):
        return _compound_type(path, filename)
    if head.startswith(b"{\\rtf"):
        return RTF
    for magic, kind in _PICTURES:
        if head.startswith(magic):
            return kind
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise InputError(f"“{filename}” is {what}. Documents may be {ACCEPTED}.")
    return _text_type(head, filename)


def check_text_size(kind: str, size: int, max_characters: int = MAX_CHARACTERS) -> None:
    """`InputError` for a file of `size` bytes that is text and surely more than is read of one."""
    if kind in TEXTS and size > BYTES_A_CHARACTER * max_characters:
        raise InputError(
            f"The file has {size / 1e6:.0f} MB of text; at most {max_characters / 1e6:.0f} million characters are read "
            "from one file. Split it into parts."
        )


def is_plain_archive(path: Path) -> bool:
    """Whether it is a ZIP of files and not an Office file, which is one too."""
    try:
        with path.open("rb") as stream, zipfile.ZipFile(stream) as archive:
            names = set(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError):
        return False
    return "mimetype" not in names and not any(member in names for member, _ in _MEMBERS)


def _zip_type(path: Path, filename: str) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = set(archive.namelist())
            said = _mimetype(archive) if "mimetype" in names else b""
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise InputError(f"“{filename}” is a damaged archive or Office file. Save it again and retry.") from error
    if said:
        if said in _MIMETYPES:
            return _MIMETYPES[said]
        raise InputError(f"“{filename}” is an OpenDocument file that is no text. Save it as XLSX, PPTX or PDF first.")
    for member, kind in _MEMBERS:
        if member in names:
            return kind
    if "xl/workbook.bin" in names:
        raise InputError(f"“{filename}” is a binary Excel workbook (.xlsb); save it as XLSX first.")
    raise InputError(f"“{filename}” is a ZIP archive, not a document. Unpack it and upload what is inside.")


def _mimetype(archive: zipfile.ZipFile) -> bytes:
    with archive.open("mimetype") as stream:
        return stream.read(200).strip()


def _compound_type(path: Path, filename: str) -> str:
    try:
        with olefile.OleFileIO(path) as compound:
            known = next((found for found in _STREAMS if compound.exists(found[0])), None)
    except Exception as error:  # its parser raises anything on a damaged file
        raise InputError(f"“{filename}” is a damaged Office file. Save it again from its program and retry.") from error
    if known is None:
        raise InputError(f"“{filename}” is a Microsoft file of an unknown kind. Documents may be {ACCEPTED}.")
    _, kind, what = known
    if what:
        raise InputError(f"“{filename}” is {what}.")
    return kind


def _text_type(head: bytes, filename: str) -> str:
    is_wide = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    if not is_wide and (b"\x00" in head or _control_share(head) > 0.05):
        raise InputError(f"“{filename}” is a binary file of an unknown kind. Documents may be {ACCEPTED}.")
    suffix = Path(filename).suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if _is_mail(head, suffix):
        return EML
    lowered = head[:4096].lower()
    if any(mark in lowered for mark in (b"<!doctype html", b"<html", b"<head", b"<body")):
        return HTML
    if lowered.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"<?xml"):
        return XML
    return TEXT


def _is_mail(head: bytes, suffix: str) -> bool:
    fields = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]
    begins_so = bool(_MAIL_FIELDS.match(fields)) or fields.startswith(b"From ")
    return begins_so and len(_MAIL_FIELDS.findall(fields)) >= (1 if suffix == ".eml" else 3)


def _control_share(head: bytes) -> float:
    return sum(byte < 9 or 13 < byte < 32 for byte in head) / len(head)
