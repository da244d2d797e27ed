"""Old Word and PowerPoint files, saved in today's format by LibreOffice, which must do nothing else they ask for."""

import contextlib
import http.server
import shutil
import subprocess
import threading

import pytest

from datasets_app.engine import media_type, office, slim
from finetune_site.lib.channel import InputError
from tests.engine.compound import compound, entry, with_stream

NAMES = {
    "office": "urn:oasis:names:tc:opendocument:xmlns:office:1.0",
    "text": "urn:oasis:names:tc:opendocument:xmlns:text:1.0",
    "draw": "urn:oasis:names:tc:opendocument:xmlns:drawing:1.0",
    "svg": "urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0",
    "xlink": "http://www.w3.org/1999/xlink",
}
MANUAL = (
    '<?xml version="1.0" encoding="UTF-8"?><office:document '
    + " ".join(f'xmlns:{name}="{uri}"' for name, uri in NAMES.items())
    + ' office:version="1.3" office:mimetype="application/vnd.oasis.opendocument.text"><office:body><office:text>'
    '<text:h text:outline-level="1">The Orrin pump</text:h><text:p>It weighs 41 kg.</text:p>'
    '<text:p><draw:frame svg:width="3cm" svg:height="3cm"><draw:image xlink:href="ADDRESS" xlink:type="simple"/>'
    "</draw:frame></text:p></office:text></office:body></office:document>"
)

needs_office = pytest.mark.skipif(not office.program(), reason="LibreOffice is not installed")


@pytest.fixture
def asked():
    """An address, and what it was asked for."""
    paths = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_error(404)

        do_HEAD = do_OPTIONS = do_PROPFIND = do_GET

        def log_message(self, *_): ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/picture.png", paths
        server.shutdown()


def save_as(form, path):
    """As people's own copy of LibreOffice does it."""
    command = ["soffice", "--headless", f"-env:UserInstallation={(path.parent / 'own').as_uri()}", "--convert-to", form]
    subprocess.run([*command, "--outdir", path.parent, path], check=True, capture_output=True, timeout=120)


@needs_office
def test_a_linked_picture_is_not_asked_for(tmp_path, asked):
    slim.prepare()
    address, paths = asked
    (tmp_path / "manual.fodt").write_text(MANUAL.replace("ADDRESS", address))
    save_as("doc:MS Word 97", tmp_path / "manual.fodt")
    path = tmp_path / "manual.doc"
    save_as("docx", path)
    assert "/picture.png" in paths, "as it comes, LibreOffice follows the link"
    paths.clear()
    (tmp_path / "work").mkdir()
    with contextlib.chdir(tmp_path / "work"):
        found = list(office.read_doc(path))
    assert [(element.kind, element.text) for element in found] == [
        ("title", "The Orrin pump"), ("text", "It weighs 41 kg."),
    ]  # fmt: skip
    assert paths == []
    assert {each.name for each in tmp_path.iterdir()} == {"manual.fodt", "manual.doc", "manual.docx", "own", "work"}


def test_without_the_program_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="libreoffice-impress-nogui"):
        list(office.read_ppt(tmp_path / "any", []))


@pytest.mark.parametrize(
    ("stream", "kind"),
    [("WordDocument", media_type.DOC), ("PowerPoint Document", media_type.PPT), ("Workbook", media_type.XLS)],
)
def test_it_is_known_by_its_stream(tmp_path, stream, kind):
    path = tmp_path / "x"
    path.write_bytes(with_stream(stream))
    assert media_type.sniff(path, "x.bin") == kind


def test_what_is_packed_in_it_does_not_make_it_another(tmp_path):
    path = tmp_path / "x"
    packed = entry("MBD01", 1, right=3, child=2), entry("WordDocument", 2)
    path.write_bytes(compound(entry("Root Entry", 5, child=1), *packed, entry("Workbook", 2)))
    assert media_type.sniff(path, "x.bin") == media_type.XLS


@pytest.mark.parametrize("end", [8, 400, 600])
def test_a_directory_that_is_cut_off_is_said_so(tmp_path, end):
    path = tmp_path / "x"
    path.write_bytes(with_stream("Workbook")[:end])
    with pytest.raises(InputError, match="is a damaged Office file"):
        media_type.sniff(path, "x.xls")
