"""Which reader takes which kind of file, what a file must be before one opens it, and what is said when one fails."""

import logging
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets_app.engine import layout, mail, media_type, ocr, office, partition, pdf, pictures, sheets, structured
from datasets_app.engine.elements import Element
from datasets_app.engine.spec import ParseSpec, Reading
from finetune_site.lib.channel import Cancelled, Channel, InputError

logger = logging.getLogger(__name__)
MAX_NESTED = 3  # an e-mail within an e-mail within an e-mail


class Readers:
    """Reads one file, and what is packed in it. Warnings and the report of recognition are added to as it goes."""

    def __init__(self, spec: ParseSpec, reading: Reading, link: Channel, warnings: list[str]) -> None:
        self._spec, self._reading, self._link, self._warnings = spec, reading, link, warnings
        self._nested = 0
        self.recognised = ocr.Report()

    def read(self, kind: str, path: Path, pages: int) -> Iterator[Element]:
        """Its elements, after `check`, which told its pages. `InputError` says why there are none, whatever its parser
        raised."""
        try:
            yield from self._read(kind, path, pages)
        except (InputError, Cancelled, MemoryError):
            raise
        except Exception as error:  # parsers raise anything on files that are damaged or made to do harm
            logger.warning("reading %s: %s: %s", kind, type(error).__name__, error)
            raise InputError(
                f"The file cannot be read as {media_type.NAMES[kind]}: it is damaged, or not what it says it is "
                f"({type(error).__name__}). Save it again from its program and retry."
            ) from error

    def _read(self, kind: str, path: Path, pages: int) -> Iterator[Element]:
        match kind:
            case media_type.PDF:
                by_look = self._by_look if self._reading.strategy == "layout" else None
                return pdf.read(path, pages, self._reading, self._link, self._warnings, self.recognised, by_look)
            case media_type.PNG | media_type.JPEG | media_type.TIFF:
                return pictures.read(path, self._reading, pages, self._link, self.recognised)
            case media_type.PPTX:
                return partition.read_pptx(path, self._warnings)
            case media_type.PPT:
                return office.read_ppt(path, self._warnings)
            case media_type.XLSX:
                return sheets.read_xlsx(path, self._warnings)
            case media_type.EML:
                return mail.read_eml(path, self._read_attachment, self._warnings)
            case media_type.MSG:
                return mail.read_msg(path, self._read_attachment, self._warnings)
        return _SIMPLE[kind](path)

    def _by_look(self, part: Path) -> list[Any]:
        return layout.partition(part, self._spec.layout_model, self._reading.languages)

    def _read_attachment(self, path: Path, name: str) -> Iterator[Element]:
        """One that cannot be read is left out, and a warning says so."""
        if self._nested >= MAX_NESTED:
            self._warnings.append(f"The attachment “{name}” was left out: it is packed too deeply.")
            return
        self._nested += 1
        try:
            kind = media_type.sniff(path, name)
            yield from self.read(kind, path, check(kind, path, self._spec, self._reading))
        except InputError as error:
            self._warnings.append(f"The attachment “{name}” was left out. {error}")
        finally:
            self._nested -= 1


_SIMPLE = {
    media_type.DOCX: partition.read_docx,
    media_type.DOC: office.read_doc,
    media_type.ODT: partition.read_odt,
    media_type.XLS: sheets.read_xls,
    media_type.EPUB: lambda path: partition.read_by_pandoc(path, "epub"),
    media_type.RTF: lambda path: partition.read_by_pandoc(path, "rtf"),
    media_type.RST: partition.read_rst,
    media_type.ORG: lambda path: partition.read_by_pandoc(path, "org"),
    media_type.HTML: partition.read_html,
    media_type.XML: partition.read_xml,
    media_type.JSON: structured.read_json,
    media_type.JSON_LINES: structured.read_json_lines,
    media_type.CSV: lambda path: sheets.read_delimited(path, ","),
    media_type.TSV: lambda path: sheets.read_delimited(path, "\t"),
    media_type.MARKDOWN: partition.read_markdown,
    media_type.TEXT: partition.read_text,
}


def check(kind: str, path: Path, spec: ParseSpec, reading: Reading) -> int:
    """Refuse what would cost too much before it costs; returns the number of pages, 0 where nobody knows before."""
    if kind == media_type.PDF:
        if reading.strategy == "layout":
            layout.check(spec.layout_model, reading.languages)
        return pdf.probe(path, spec.max_pages, reading)
    if kind in media_type.PICTURES:
        return pictures.count(path, reading)
    if kind in media_type.ARCHIVES:
        _check_archive(spec, path)
    media_type.check_text_size(kind, path.stat().st_size, spec.max_characters)
    return 0


def _check_archive(spec: ParseSpec, path: Path) -> None:
    """An Office file is an archive: count and weigh its members before anything unpacks them."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    size = sum(member.file_size for member in members)
    packed = max(1, sum(member.compress_size for member in members))
    largest = max((member.file_size for member in members if member.filename.endswith(".xml")), default=0)
    if len(members) > spec.max_archive_members or size > spec.max_uncompressed_bytes or largest > 100_000_000:
        raise InputError(
            f"The file unpacks to {size / 1e6:.0f} MB in {len(members)} parts, which is far more than a document. "
            "It is damaged or made to do harm; save it again from its program."
        )
    if size > 20_000_000 and size / packed > spec.max_archive_ratio:
        raise InputError(
            f"The file unpacks to {size // packed} times its size, as archives made to do harm do. "
            "Save it again from its program."
        )
