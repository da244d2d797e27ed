"""Old Word and PowerPoint files: LibreOffice saves each in today's format, in a profile that runs no macro, follows no
link and reaches no network. https://help.libreoffice.org/latest/en-US/text/shared/guide/start_parameters.html
"""

import logging
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from html import escape
from pathlib import Path

from datasets_app.engine import media_type, partition
from datasets_app.engine.elements import Element
from finetune_site.lib.channel import InputError

logger = logging.getLogger(__name__)
PACKAGES = {media_type.DOC: "libreoffice-writer-nogui", media_type.PPT: "libreoffice-impress-nogui"}
SECONDS = 300
_CLOSED = "127.0.0.1"  # a proxy at which nobody listens
_SCRIPTING, _PROXY = "/org.openoffice.Office.Common/Security/Scripting", "/org.openoffice.Inet/Settings"
_PROFILE = (
    (_SCRIPTING, "DisableMacrosExecution", "true"),
    (_SCRIPTING, "DisableActiveContent", "true"),
    (_SCRIPTING, "BlockUntrustedRefererLinks", "true"),
    ("/org.openoffice.Office.Writer/Content/Update", "Link", "2"),
    (_PROXY, "ooInetProxyType", "2"),
    (_PROXY, "ooInetNoProxy", ""),
    *(
        (_PROXY, f"ooInet{protocol}Proxy{part}", value)
        for protocol in ("HTTP", "HTTPS", "FTP")
        for part, value in (("Name", _CLOSED), ("Port", "1"))
    ),
)


def program() -> str | None:
    """Where LibreOffice lies; None when it is not installed."""
    return shutil.which("soffice")


def read_doc(path: Path) -> Iterator[Element]:
    yield from partition.read_docx(_saved_as("docx", path, media_type.DOC))


def read_ppt(path: Path, warnings: list[str]) -> Iterator[Element]:
    yield from partition.read_pptx(_saved_as("pptx", path, media_type.PPT), warnings)


def _saved_as(suffix: str, path: Path, kind: str) -> Path:
    """The file in today's format, in the working directory. `InputError` names the package that is missing, or says
    what is wrong with the file."""
    if not (found := program()):
        raise InputError(
            f"A file of this kind ({media_type.NAMES[kind]}) needs the program LibreOffice, which is not installed "
            f"where documents are read. Save it as {suffix.upper()} first, or ask the operator to install the package "
            f"{PACKAGES[kind]}."
        )
    if _is_encrypted(path):
        raise InputError("The file is encrypted with a password. Save a copy without one and upload that.")
    folder = Path(tempfile.mkdtemp(prefix="office-", dir=Path.cwd()))  # an e-mail may have several attached
    _write_profile(folder / "profile" / "user")
    source = folder / "source"
    shutil.copyfile(path, source)  # its lock file, and what it is saved as, stay here
    command = [found, "--headless", "--norestore", f"-env:UserInstallation={(folder / 'profile').as_uri()}"]
    command += ["--convert-to", suffix, "--outdir", str(folder), str(source)]
    try:
        told = subprocess.run(
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"LibreOffice did not open the file within {SECONDS} seconds. Split it into parts.") from error
    made = source.with_suffix(f".{suffix}")
    if not made.exists():
        logger.warning("soffice ended with %d: %s", told.returncode, told.stderr[-1000:])
        raise InputError(
            f"LibreOffice cannot open the file, so it is damaged, or the package {PACKAGES[kind]} is not installed "
            f"where documents are read. Save it as {suffix.upper()} from its program and upload that."
        )
    return made


def _write_profile(folder: Path) -> None:
    items = "\n".join(
        f'<item oor:path="{path}"><prop oor:name="{name}" oor:op="fuse"><value>{escape(value)}</value></prop></item>'
        for path, name, value in _PROFILE
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "registrymodifications.xcu").write_text(
        '<?xml version="1.0" encoding="UTF-8"?>\n<oor:items xmlns:oor="http://openoffice.org/2001/registry">\n'
        f"{items}\n</oor:items>\n"
    )


def _is_encrypted(path: Path) -> bool:
    """By the flag of a Word file's header ([MS-DOC] 2.5.2) and the token of a presentation's user ([MS-PPT] 2.3.2)."""
    import olefile

    with olefile.OleFileIO(path) as compound:
        if compound.exists("WordDocument"):
            return bool(compound.openstream("WordDocument").read(12)[11] & 1)
        return bool(compound.openstream("Current User").read(16)[12:] == b"\xdf\xc4\xd1\xf3")
