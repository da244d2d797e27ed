"""Text recognition by the program tesseract: scanned pages and pictures become elements with their places.

The program reads one picture at a time and writes its words as a table (TSV): block, paragraph, line, word, box and how
sure it is. https://tesseract-ocr.github.io/tessdoc/Command-Line-Usage.html
"""

import csv
import io
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets_app.engine.elements import TEXT, TITLE, Element
from finetune_site.lib.channel import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

PACKAGE = "tesseract-ocr"
DPI = 300
MAX_PIXELS = 40_000_000
SURE_ENOUGH = 40.0  # of 100: below it a word is more often wrong than right
ORIENTATION_SURE = 2.0  # tesseract's own figure for how much likelier than the next the orientation is
PAGE_SECONDS = 240


@dataclass
class Report:
    """What recognition did: pages read, those turned upright, words left out because they were unsure."""

    pages: list[int] = field(default_factory=list)
    turned: list[int] = field(default_factory=list)
    words: int = 0
    unsure: int = 0

    def add(self, other: "Report") -> None:
        """What was done elsewhere too."""
        self.pages += other.pages
        self.turned += other.turned
        self.words += other.words
        self.unsure += other.unsure


def program() -> str | None:
    """Where tesseract lies; None when it is not installed."""
    return shutil.which("tesseract")


def languages() -> list[str]:
    """The languages that are installed, as tesseract names them; none without it."""
    if not (found := program()):
        return []
    told = subprocess.run([found, "--list-langs"], capture_output=True, text=True, check=False, timeout=60)
    return sorted(set(told.stdout.split("\n")[1:]) - {"", "osd"})


def check(wanted: tuple[str, ...]) -> None:
    """`InputError` names the package that brings what is missing."""
    if not program():
        raise InputError(
            "Text recognition needs the program tesseract, which is not installed where documents are read. "
            f"Ask the operator to install the package {PACKAGE}."
        )
    there = languages()
    if missing := [name for name in wanted if name not in there]:
        packages = ", ".join(f"{PACKAGE}-{name.replace('_', '-')}" for name in missing)
        raise InputError(
            f"Text recognition has {', '.join(there) or 'no language'} installed but not {', '.join(missing)}. Choose "
            f"another language, or ask the operator to install {packages}."
        )


def read_picture(picture: "Image", page: int, wanted: tuple[str, ...], report: Report) -> Iterator[Element]:
    """The paragraphs of one picture in reading order, turned upright first."""
    if picture.width * picture.height > MAX_PIXELS:
        picture.thumbnail((6000, 6000))
    picture = picture.convert("L")
    turn = _quarter_turns(picture)
    if turn:
        picture = picture.rotate(-90 * turn, expand=True)
        report.turned.append(page)
    report.pages.append(page)
    words = [row for row in _table(picture, wanted) if row["text"].strip()]
    sure = [row for row in words if float(row["conf"]) >= SURE_ENOUGH]
    report.words += len(words)
    report.unsure += len(words) - len(sure)
    body = statistics.median([int(row["height"]) for row in sure]) if sure else 0
    for _, paragraph in groupby(sure, key=lambda row: (row["block_num"], row["par_num"])):
        yield _element(list(paragraph), picture, page, body, turn)


def _element(words: list[dict[str, str]], picture: "Image", page: int, body: float, turn: int) -> Element:
    lines = [list(line) for _, line in groupby(words, key=lambda row: row["line_num"])]
    text = "\n".join(" ".join(row["text"] for row in line) for line in lines)
    text = re.sub(r"(\w)-\n(?=[a-zà-ÿ])", r"\1", text).replace("\n", " ")
    tall = statistics.median([int(row["height"]) for row in words])
    is_title = tall >= 1.35 * body and len(lines) <= 2 and len(text) <= 140
    left, top = (min(int(row[name]) for row in words) for name in ("left", "top"))
    right = max(int(row["left"]) + int(row["width"]) for row in words)
    bottom = max(int(row["top"]) + int(row["height"]) for row in words)
    shares = (left / picture.width, top / picture.height, right / picture.width, bottom / picture.height)
    return Element(
        0, TITLE if is_title else TEXT, text, page=page, depth=0 if is_title else None, box=_as_it_lay(shares, turn)
    )


def _as_it_lay(box: tuple[float, float, float, float], turn: int) -> list[float]:
    """A box on the upright picture as one on the page before it was turned by so many quarters to the right."""
    left, top, right, bottom = box
    for _ in range(turn):
        left, top, right, bottom = top, 1 - right, bottom, 1 - left
    return [round(min(max(share, 0.0), 1.0), 4) for share in (left, top, right, bottom)]


def _quarter_turns(picture: "Image") -> int:
    """How many quarters to the right make it upright; 0 where that cannot be told."""
    told = _run(picture, ["--psm", "0", "-l", "osd"], must=False)
    turn = re.search(r"^Rotate: (\d+)", told, re.MULTILINE)
    sure = re.search(r"^Orientation confidence: ([\d.]+)", told, re.MULTILINE)
    return int(turn[1]) // 90 if turn and sure and float(sure[1]) >= ORIENTATION_SURE else 0


def _table(picture: "Image", wanted: tuple[str, ...]) -> list[dict[str, Any]]:
    told = _run(picture, ["--psm", "3", "-l", "+".join(wanted), "tsv"])
    return list(csv.DictReader(io.StringIO(told), delimiter="\t", quoting=csv.QUOTE_NONE))


def _run(picture: "Image", options: list[str], *, must: bool = True) -> str:
    """What tesseract writes; `InputError` where it fails and must not."""
    aside = Path.cwd() / "page.png"
    picture.save(aside)
    command = [program() or "tesseract", str(aside), "stdout", "--dpi", str(DPI), *options]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=PAGE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise InputError(
            "Text recognition took too long on a page. Scan it again at 300 dpi, or split the file."
        ) from None
    finally:
        aside.unlink(missing_ok=True)
    if done.returncode and must:
        raise InputError(f"Text recognition failed: {done.stderr.strip()[-200:] or 'no reason was given'}.")
    return done.stdout if not done.returncode else ""
