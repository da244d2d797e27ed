"""Tokenised rows are made once, read back the same, and never used for anything but what they were made from."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.engine.tiny import make_rows, write_version
from training_app.engine import lesson as module
from training_app.engine import token_cache
from training_app.engine.lesson import load_lesson
from training_app.engine.spec import TrainSpec


@pytest.fixture
def spec(tiny_model: Path, tmp_path: Path) -> TrainSpec:
    base, data = tmp_path / "base", tmp_path / "version.parquet"
    shutil.copytree(tiny_model, base)
    shutil.rmtree(base / token_cache.FOLDER, ignore_errors=True)
    write_version(data, make_rows(20, validation=3))
    return TrainSpec(data_path=str(data), data_sha256="", base_dir=str(base), run_dir=str(tmp_path / "run"))


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows were tokenised, call by call."""
    counts: list[int] = []
    real = module.tokenize

    def counting(tokenizer: Any, rows: list[Any], longest: int) -> Any:
        counts.append(len(rows))
        return real(tokenizer, rows, longest)

    monkeypatch.setattr(module, "tokenize", counting)
    return counts


def files(spec: TrainSpec) -> list[Path]:
    return sorted((Path(spec.base_dir) / token_cache.FOLDER).iterdir())


def test_the_second_look_tokenises_nothing(spec: TrainSpec, tokenised: list[int]) -> None:
    first = load_lesson(spec)
    assert tokenised == [17, 3]
    second = load_lesson(replace(spec, epochs=9, batch_rows=3))
    assert tokenised == [17, 3]
    assert (second.train, second.validation) == (first.train, first.validation)
    assert len(files(spec)) == 1  # no half-written file beside it


def shorter(spec: TrainSpec) -> TrainSpec:
    return replace(spec, max_length=200)


def other_rows(spec: TrainSpec) -> TrainSpec:
    write_version(Path(spec.data_path), make_rows(21, validation=3))
    return spec


def other_template(spec: TrainSpec) -> TrainSpec:
    path = Path(spec.base_dir) / "chat_template.jinja"
    path.write_text(path.read_text().replace("<|im_start|>' +", "<|im_start|>' ~"))
    return spec


def other_words(spec: TrainSpec) -> TrainSpec:
    """The same tokens under other numbers."""
    path = Path(spec.base_dir) / "tokenizer.json"
    path.write_text(path.read_text() + "\n")
    return spec


@pytest.mark.parametrize(
    "change", [shorter, other_rows, other_template, other_words], ids=lambda change: change.__name__
)
def test_whatever_decides_the_tokens_makes_them_anew(
    change: Callable[[TrainSpec], TrainSpec], spec: TrainSpec, tokenised: list[int]
) -> None:
    load_lesson(spec)
    before = (Path(spec.base_dir) / "chat_template.jinja").read_text()
    changed = change(spec)
    assert change is not other_template or (Path(spec.base_dir) / "chat_template.jinja").read_text() != before
    load_lesson(changed)
    assert len(tokenised) == 4


def test_a_damaged_file_is_made_anew_and_a_read_only_base_does_without(
    spec: TrainSpec, tokenised: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = load_lesson(spec)
    content = bytearray(files(spec)[0].read_bytes())
    content[len(content) // 3] ^= 0xFF
    files(spec)[0].write_bytes(content)
    assert load_lesson(spec).train == sound.train
    assert len(tokenised) == 4
    shutil.rmtree(files(spec)[0].parent)

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(token_cache, "_write", refuse)
    assert load_lesson(spec).train == sound.train
    assert not (Path(spec.base_dir) / token_cache.FOLDER).exists()


def test_only_the_files_used_last_stay(spec: TrainSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_cache, "KEPT_FILES", 2)
    load_lesson(spec)
    kept = files(spec)[0]
    for length in (100, 101, 102):
        load_lesson(replace(spec, max_length=length))
        load_lesson(spec)  # used again: it is not the oldest
    assert kept in files(spec) and len(files(spec)) <= 3
