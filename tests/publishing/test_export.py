"""A run's model as a file: what a GGUF says and answers is what the merged model says and answers."""

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.engine.engine_process import Finished, run_engine, train_here
from training_app.engine import gguf_file
from training_app.engine.template import load_tokenizer

pytestmark = [pytest.mark.slow]


def export(folder: Path, run_dir: Path, base: Path, **fields: Any) -> Finished:
    spec = {"task": "export", "base_dir": str(base), "run_dir": str(run_dir), "out_dir": str(folder / "out")}
    return run_engine(folder, {**spec, "method": "lora", **fields})


def result_of(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "out" / "result.json").read_text()))


# What an adapter is merged from; one step is enough to change every matrix.
METHODS = {
    "lora": {},
    "dora": {"method": "dora", "max_steps": 1},
    "rslora": {"rslora": True, "max_steps": 1},
    "qlora": {"quantization": "4bit", "max_steps": 1},
}


@pytest.mark.parametrize(
    ("name", "format"),
    [("lora", "f16"), ("lora", "q8_0"), ("dora", "f16"), ("rslora", "f16"), ("qlora", "f16")],
)
def test_a_gguf_is_the_merged_model(name, format, trained, smollm2, small, facts, tmp_path):
    """Eight prompts; first-token log-probabilities within 0.05 (f16) and 0.5 (q8_0) of the merged model's. LoRA on
    SmolLM2, the others on a small model that reads as it does."""
    knobs = METHODS[name]
    base = smollm2 if name == "lora" else small[0]
    run, method = trained(name, base, **knobs), knobs.get("method", "lora")
    finished = export(tmp_path, run, base, format=format, method=method, name="Kestrel", **facts)
    assert finished.code == 0, finished.log[-2000:]
    result = result_of(tmp_path)
    assert result["problem"] == "" and all(check["ok"] for check in result["checks"])
    assert len(result["parity"]) == 8 and all(row["same_tokens"] for row in result["parity"])
    assert 0 < result["worst"] <= {"f16": 0.05, "q8_0": 0.5}[format]
    path = tmp_path / "out" / result["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == result["sha256"]
    assert [event["name"] for event in finished.of("stage")] == ["merge", "convert", "check", "compare"]
    assert not (tmp_path / "out" / "merged").exists(), "what was only on the way stays on the disk"


def test_adapter_and_merged_model_are_archives_that_load(trained, smollm2, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = trained("lora")
    for format in ("adapter", "merged"):
        assert export(tmp_path / format, run, smollm2, format=format).code == 0
    with zipfile.ZipFile(tmp_path / "adapter" / "out" / "adapter.zip") as archive:
        assert "adapter_model.safetensors" in archive.namelist()
    with zipfile.ZipFile(tmp_path / "merged" / "out" / "merged.zip") as archive:
        archive.extractall(tmp_path / "whole")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "whole", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "whole")
    assert tokenizer.chat_template == load_tokenizer(str(smollm2)).chat_template
    assert not any("lora" in name for name, _ in model.named_parameters())


def test_an_adapter_of_another_base_is_refused(trained, smollm2, tmp_path):
    finished = export(tmp_path, trained("lora"), smollm2, format="f16", base_sha256="0" * 64)
    assert finished.code == 2 and "not those that this run was trained on" in finished.refusal


def test_another_chat_template_than_the_trained_one_is_refused(trained, smollm2, tmp_path):
    finished = export(tmp_path, trained("lora"), smollm2, format="f16", chat_template_sha256="0" * 64)
    assert finished.code == 2 and "chat template is not the one that this run was trained with" in finished.refusal


def test_a_tokenizer_that_llama_cpp_does_not_know_is_refused(lesson, tiny_folder, tmp_path):
    train_here({**lesson, "run_dir": str(tmp_path / "run"), "method": "lora", "epochs": 1})
    finished = export(tmp_path, tmp_path / "run", tiny_folder, format="f16")
    assert finished.code == 2 and "does not know this model's tokenizer" in finished.refusal


@pytest.fixture
def lesson(tiny_folder, tmp_path):
    from tests.engine.tiny import make_rows, write_version

    sha256 = write_version(tmp_path / "version.parquet", make_rows(12))
    data = {"data_path": str(tmp_path / "version.parquet"), "data_sha256": sha256, "base_dir": str(tiny_folder)}
    return {**data, "threads": 1, "dtype": "float32", "rehearsal_share": 0, "rank": 4, "alpha": 8}


def test_k_quants_need_the_quantiser(trained, smollm2, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    finished = export(tmp_path, trained("lora"), smollm2, format="q4_k_m", llama_cpp_dir="")
    assert finished.code == 2 and "needs llama.cpp's program llama-quantize" in finished.refusal


@pytest.mark.parametrize(
    ("key", "value", "what"),
    [
        ("tokenizer.chat_template", "{{ messages }}", "chat template"),
        ("tokenizer.ggml.pre", "default", "rule that cuts text into words"),
        ("tokenizer.ggml.eos_token_id", 0, "tokens that end a turn"),
    ],
)
def test_a_gguf_that_says_something_else_is_found_out(key, value, what, smollm2, tmp_path):
    """A GGUF of the tokenizer alone, with one field changed as a faulty converter would."""
    path = rewritten(smollm2, tmp_path, {key: value})
    checks, problem = gguf_file.check(path, load_tokenizer(str(smollm2)))
    assert [check["what"] for check in checks if not check["ok"]] == [what]
    assert f"The GGUF differs from the model in: {what}." in problem


def test_a_gguf_that_was_cut_is_found_out(smollm2, tmp_path):
    path = rewritten(smollm2, tmp_path, {})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "cannot be read:" in gguf_file.check(path, load_tokenizer(str(smollm2)))[1]


def rewritten(base: Path, folder: Path, changes: dict[str, Any]) -> Path:
    """A GGUF with a tokenizer's fields and no weights."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    from training_app.engine.bundled import find_gguf

    reader, writer = GGUFReader(find_gguf()), GGUFWriter(folder / "changed.gguf", "llama")
    template = load_tokenizer(str(base)).chat_template
    for name, field in reader.fields.items():
        if not name.startswith("tokenizer."):
            continue
        value = changes.get(name, template if name == "tokenizer.chat_template" else field.contents())
        kind = field.types[0]
        writer.add_key_value(name, value, kind, field.types[-1] if kind == GGUFValueType.ARRAY else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return folder / "changed.gguf"
