"""Task `export`: a finished run's model as one file: its adapter, the merged model, or a GGUF that llama.cpp reads.

A GGUF is not believed: what it says of tokenizer, template and ends of turns is held against the merged model, and so
are its first log-probabilities. A finding does not fail the task; it stands in the result as `problem`, with evidence.
"""

import shutil
import zipfile
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Channel, InputError
from training_app.engine import gguf_file
from training_app.engine.adapters import trained_folder
from training_app.engine.hardware import choose_machine
from training_app.engine.prepare import check_base
from training_app.engine.rows import file_sha256
from training_app.engine.spec import FORMATS, ExportSpec

MERGED = "merged"
WITHOUT_THOUGHTS = "{%- set enable_thinking = false -%}"


def export(spec: ExportSpec, channel: Channel) -> dict[str, Any]:
    """Write the file into `out_dir` and return its name, size, SHA-256 and, of a GGUF, how it was proved."""
    out_dir = Path(spec.out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    trained = trained_folder(spec.run_dir, spec.method)
    if spec.format == "adapter":
        if spec.method == "full":
            raise InputError("A full training has no adapter: its result is a whole model. Export it merged.")
        return _described(spec, _zip(trained, out_dir / "adapter.zip", channel))
    check_base(spec.base_dir, spec.base_sha256, spec.chat_template_sha256)
    channel.emit("stage", name="merge")
    merged = _merge(spec, out_dir / MERGED)
    channel.check()
    try:
        if spec.format == MERGED:
            return _described(spec, _zip(merged, out_dir / "merged.zip", channel))
        channel.emit("stage", name="convert")
        path = gguf_file.convert(merged, out_dir / f"{spec.format}.gguf", spec, channel)
        channel.check()
        channel.emit("stage", name="check")
        proof = _prove(spec, merged, path, channel)
        return {**_described(spec, path), **proof}
    finally:
        if not channel.should_stop:  # who was told to stop goes on from it
            shutil.rmtree(merged)


def _merge(spec: ExportSpec, folder: Path) -> Path:
    """The merged model in the Hugging Face layout, in the precision of its base; it appears by rename.

    Merged into weights that are not quantised, also for a run that held its base in few bits (QLoRA).
    """
    import torch

    from training_app.engine.answers import end_tokens
    from training_app.engine.models import load_tuned, read_config
    from training_app.engine.template import load_tokenizer

    if folder.exists():
        return folder
    choose_machine(spec.threads, "cpu", "float32")
    tokenizer = load_tokenizer(spec.base_dir)
    if "enable_thinking" in tokenizer.chat_template:
        # It was trained without thoughts, see `render`: whoever asks it later must not turn them on by saying nothing.
        tokenizer.chat_template = WITHOUT_THOUGHTS + tokenizer.chat_template
    model = load_tuned(spec.base_dir, spec.run_dir, spec.method, torch.device("cpu"))
    model = model.to(getattr(read_config(spec.base_dir), "dtype", None) or torch.float32)
    ends = end_tokens(tokenizer)
    model.config.use_cache = True
    model.generation_config.eos_token_id = ends
    aside = folder.with_name(folder.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    model.save_pretrained(aside, safe_serialization=True)
    tokenizer.save_pretrained(aside)
    aside.rename(folder)
    return folder


def _prove(spec: ExportSpec, merged: Path, path: Path, channel: Channel) -> dict[str, Any]:
    """Hold the GGUF against the merged model: first what it says of itself, then what it makes of prompts."""
    from training_app.engine.parity import compare, tokens_differ
    from training_app.engine.probes import questions
    from training_app.engine.template import load_tokenizer

    tokenizer = load_tokenizer(str(merged))
    checks, problem = gguf_file.check(path, tokenizer)
    found: dict[str, Any] = {"checks": checks, "parity": [], "tolerance": FORMATS[spec.format].tolerance}
    if problem:
        return {**found, "problem": problem}
    channel.emit("stage", name="compare")
    asked = questions(tokenizer, spec.data_path, spec.data_sha256)
    machine = choose_machine(spec.threads, spec.device, spec.dtype)
    with_tokens = compare(merged, path, tokenizer, asked, machine, channel)
    found["parity"] = with_tokens
    worst = max(row["difference"] for row in with_tokens)
    found["worst"] = worst
    if told := tokens_differ(with_tokens):
        problem = told
    elif worst > found["tolerance"]:
        problem = (
            f"The GGUF answers otherwise than the merged model: the log-probability of a first token differs by "
            f"{worst:.2f}, where {found['tolerance']:g} is allowed for {spec.format}."
        )
    return {**found, "problem": problem}


def _zip(folder: Path, path: Path, channel: Channel) -> Path:
    """The folder's files in one archive, not compressed: weights do not shrink."""
    channel.emit("stage", name="pack")
    aside = path.with_name(path.name + ".part")
    with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(folder.iterdir()):
            channel.check()
            archive.write(file, file.name)
    aside.rename(path)
    return path


def _described(spec: ExportSpec, path: Path) -> dict[str, Any]:
    size = path.stat().st_size
    return {"format": spec.format, "file": path.name, "bytes": size, "sha256": file_sha256(path), "problem": ""}
