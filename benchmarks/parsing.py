"""How fast documents are read: the portal beside plain `partition()`, and beside pypdfium2, which sees no structure.

`python benchmarks/parsing.py [--copies N]` reads the same files three ways in one run: one after another in one process
by Unstructured's partitioner of their kind (its imports not counted), as the portal's runners do it (two at a time,
each in a limited process of its own, everything counted but the import that a runner does once), and by pypdfium2 alone
(PDF). It prints pages a second by format and the ratios, what a single file costs on top, and the share of time that
tagging parts of speech and imports take.
"""

import argparse
import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets_app.samples import make_manual  # noqa: E402
from finetune_site.lib.process import Engine  # noqa: E402

ENGINE, PRELOAD = "datasets_app.engine", "datasets_app.engine.preload"
PLAIN = """
import json, sys, time
from pathlib import Path
began = time.perf_counter()
from datasets_app.engine import slim
slim.prepare()
from importlib import import_module
names = {".pdf": "pdf", ".docx": "docx", ".html": "html", ".md": "md", ".txt": "text"}
modules = {suffix: import_module(f"unstructured.partition.{name}") for suffix, name in names.items()}
parts = {suffix: getattr(modules[suffix], f"partition_{name}") for suffix, name in names.items()}
text = import_module("unstructured.partition.text")
imported = time.perf_counter() - began
tagging = 0.0
def timed(function):
    def call(*args, **kwargs):
        global tagging
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            tagging += time.perf_counter() - begin
    return call
tokenize = import_module("unstructured.nlp.tokenize")
tokenize.pos_tag("One sentence.")
for name in ("pos_tag", "sent_tokenize", "word_tokenize"):
    for module in list(sys.modules.values()):
        if getattr(module, name, None) is getattr(tokenize, name) and module is not tokenize:
            setattr(module, name, timed(getattr(tokenize, name)))
seconds = {}
for path in map(Path, sys.argv[1:]):
    begin = time.perf_counter()
    options = {"strategy": "fast"} if path.suffix == ".pdf" else {}
    parts[path.suffix](filename=str(path), languages=["eng"], **options)
    seconds.setdefault(path.suffix, []).append(time.perf_counter() - begin)
print(json.dumps({"imported": imported, "tagging": tagging, "seconds": seconds}))
"""


def files(folder: Path, copies: int) -> dict[Path, int]:
    """The batch: files with how many pages each counts for (of formats without pages: 3,000 characters). None has a
    sentence of another's: the engine remembers those that it has seen."""
    import pypdfium2

    made: dict[Path, int] = {}
    long = pypdfium2.PdfDocument.new()
    for copy in range(copies):
        with worded(f"hall {copy}"):
            make_manual.make_pdf(folder / f"{copy}.pdf")
        with worded(f"shed {copy}"):
            make_manual.make_docx(folder / f"{copy}.docx")
        source = pypdfium2.PdfDocument(folder / f"{copy}.pdf")
        text = "\n\n".join(source[number].get_textpage().get_text_bounded() for number in range(len(source)))
        made |= {folder / f"{copy}.pdf": len(source), folder / f"{copy}.docx": len(source)}
        for suffix in (".html", ".md", ".txt"):
            path = folder / f"{copy}{suffix}"
            own = text.replace(f"hall {copy}", f"hall {copy}{suffix}")
            if suffix == ".html":
                own = f"<html><body>{''.join(f'<p>{line}</p>' for line in own.splitlines())}</body></html>"
            path.write_text(own)
            made[path] = max(1, len(text) // 3000)
    for part in range(6):
        with worded(f"yard {part}"):
            make_manual.make_pdf(folder / "part.pdf")
        long.import_pages(pypdfium2.PdfDocument(folder / "part.pdf"))
    (folder / "part.pdf").unlink()
    long.save(folder / "long.pdf")
    made[folder / "long.pdf"] = len(long)
    return made


@contextmanager
def worded(place: str) -> Iterator[None]:
    """The manual with sentences of its own."""
    as_sold = make_manual.CHAPTERS
    make_manual.CHAPTERS = [
        (heading, [text.replace(". ", f" in {place}. ") for text in texts], rows, f"In {place}: {lead}", items)
        for heading, texts, rows, lead, items in as_sold
    ]
    try:
        yield
    finally:
        make_manual.CHAPTERS = as_sold


def plainly(paths: list[Path]) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, *map(str, paths)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return dict(json.loads(done.stdout.splitlines()[-1]))


def read(path: Path, out: Path) -> float:
    """One file as a runner reads it; seconds."""
    spec = out / f"{path.name}.json"
    folder = out / path.name
    folder.mkdir(parents=True, exist_ok=True)
    spec.write_text(json.dumps({"input_path": str(path), "filename": path.name, "out_dir": str(folder)}))
    began = time.perf_counter()
    with Engine(ENGINE, ["parse", str(spec)], log_path=out / "log.txt", preload=PRELOAD) as engine:
        assert engine.run(lambda event: None, lambda: False).returncode == 0, (out / "log.txt").read_text()[-2000:]
    return time.perf_counter() - began


def by_runners(paths: list[Path], out: Path, runners: int) -> float:
    """The batch, `runners` at a time, the largest first; seconds."""
    waiting: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for path in sorted(paths, key=lambda each: -each.stat().st_size):
        waiting.put(path)

    def work() -> None:
        while True:
            try:
                path = waiting.get_nowait()
            except queue.Empty:
                return
            read(path, out)

    threads = [threading.Thread(target=work) for _ in range(runners)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copies", type=int, default=4)
    arguments = parser.parse_args()
    import pypdfium2

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        batch = files(folder, arguments.copies)
        paths, pages = list(batch), sum(batch.values())
        began = time.perf_counter()
        read(paths[0], folder / "warm-up")
        first = time.perf_counter() - began
        plain = plainly(paths)
        plain_seconds = sum(map(sum, plain["seconds"].values()))
        alone: dict[str, list[float]] = {suffix: [] for suffix in plain["seconds"]}
        for path in paths:
            alone[path.suffix].append(read(path, folder / "alone"))
        together = by_runners(paths, folder / "together", 2)
        began = time.perf_counter()
        for path in paths:
            if path.suffix == ".pdf":
                document = pypdfium2.PdfDocument(path)
                for number in range(len(document)):
                    document[number].get_textpage().get_text_bounded()
        fastest = time.perf_counter() - began
        pdf_pages = sum(count for path, count in batch.items() if path.suffix == ".pdf")
    print(f"{len(batch)} files, {pages} pages")
    for suffix, seconds in plain["seconds"].items():
        count = sum(number for path, number in batch.items() if path.suffix == suffix)
        ours = alone[suffix]
        print(
            f"  {suffix:6} plain {count / sum(seconds):7.1f} pages/s   one at a time {count / sum(ours):7.1f} "
            f"({sum(seconds) / sum(ours):.2f}x)"
        )
    print(f"batch: plain {plain_seconds:.1f} s, by two runners {together:.1f} s: {plain_seconds / together:.2f}x")
    print(f"PDF by pypdfium2, text alone: {pdf_pages / fastest:.0f} pages/s")
    print(
        f"of plain's {plain_seconds:.1f} s: tagging {plain['tagging']:.1f} s; imports: {plain['imported']:.1f} s more"
    )
    print(f"the first file of a runner, with the import that it does once: {first:.1f} s")


if __name__ == "__main__":
    main()
