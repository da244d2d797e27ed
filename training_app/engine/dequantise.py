"""A GGUF file read back into safetensors: plain float32, with what its quantisation has lost.

The way in for the bundled model, and the way out where nobody has the original weights of a model in Ollama. A library
reads the weights; the tokenizer needs repairs that none makes by itself, and a proof.
"""

import json
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Channel, InputError, write_json
from finetune_site.lib.files import sha256_of
from training_app.engine.gguf_facts import read_facts, read_once

MAGIC = b"GGUF"
# Of a first token's log-probability. llama.cpp rounds activations too: SmolLM2 in Q4_1 differs by up to 0.31.
TOLERANCE = 1.0
INSTEAD = "Point the name at the original weights instead: a Hugging Face repository or a local folder."
# What transformers reads back as a model of text; the others it knows are older kinds, or mixtures of experts.
READABLE = (
    "llama", "mistral", "qwen2", "qwen3", "lfm2", "falcon", "phi3", "stablelm", "gpt2", "starcoder2",
    "nemotron", "gemma2", "gemma3",
)  # fmt: skip
# GGUF names how text is cut into words only by a nickname, and the import keeps the byte-level half alone. SmolLM2
# reads every digit as a token of its own, so a space before a number would be read otherwise than it was trained to.
PRE_TOKENIZERS = {
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Digits", "individual_digits": True},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        ],
    }
}
PROBES = (
    "The valve opens at 12.5 bar, after 2026 hours.",
    "  3  kg,   at 1117.4 bar – n° 41/42\t7%",
    "I don't think they'll say it's Anna's; we've asked.",
    "Größe: 4 µm – naïve café, “quoted”, 温度は20度です。 Привет, мир! 🙂👩‍🔧",
    "def f(x):\n    return {'a': x**2, \"b\": [1, 2, 3]}  # done\n\n\n",
    "SELECT * FROM parts WHERE id >= 100 AND name LIKE '%bolt_%';",
    "HTTPServer isReady_now camelCaseWord ALLCAPS 0xFF 1,000,000.00",
    " leading space, trailing space \r\n\r\n",
)


def find_blob(store: str, sha256: str) -> Path:
    """The model file of that SHA-256 in an Ollama's store.

    The hash comes from a server, so nothing else of its answer becomes part of a path, and what stands there must lie
    in the store, be a GGUF and be what its name says.
    """
    if not store:
        raise InputError("This site does not share a folder with an Ollama. An operator sets FINETUNE_OLLAMA_MODELS.")
    if len(sha256) != 64 or set(sha256) - set("0123456789abcdef"):
        raise InputError("The server does not say which file it serves, so its file cannot be read.")
    blobs = (Path(store) / "blobs").resolve()
    path = (blobs / f"sha256-{sha256}").resolve()
    if not path.is_relative_to(blobs):
        raise InputError("The model's file in FINETUNE_OLLAMA_MODELS is a link that leads out of it. It is not read.")
    try:
        with path.open("rb") as stream:
            is_gguf = stream.read(4) == MAGIC
    except OSError as error:
        raise InputError(
            f"The model's file cannot be read in FINETUNE_OLLAMA_MODELS ({error.strerror}). See that the folder is the "
            "one in which this Ollama keeps manifests and blobs, and that the workers may read it."
        ) from error
    if not is_gguf:
        raise InputError("What Ollama serves under this name is no GGUF file. Only those can be read back.")
    if sha256_of(path) != sha256:
        raise InputError("The model's file in FINETUNE_OLLAMA_MODELS is damaged. Have Ollama fetch the model again.")
    return path


def convert(gguf: Path, out_dir: Path, name: str) -> None:
    """Write a GGUF to `out_dir` as float32 safetensors with its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    facts = read_facts(gguf)
    architecture = str(facts.get("general.architecture"))
    if architecture not in READABLE:
        raise InputError(
            f"Files of the architecture {architecture} cannot be read back into weights for training. {INSTEAD}"
        )
    # Ollama's files have no ending; the link gives them a place beside nothing else that a loader might pick up.
    beside = out_dir / "model.gguf"
    beside.symlink_to(gguf)
    try:
        with read_once():
            tokenizer = AutoTokenizer.from_pretrained(out_dir, gguf_file=beside.name)
            model: Any = AutoModelForCausalLM.from_pretrained(
                out_dir, gguf_file=beside.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
            )
    finally:
        beside.unlink()
    if context := facts.get(f"{architecture}.context_length"):
        tokenizer.model_max_length = int(context)  # GGUF import leaves 1e18
    # The weights are plain float32 by now, yet the model still counts as quantised and would refuse to be saved.
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.config._name_or_path = name
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)
    if repaired := PRE_TOKENIZERS.get(str(facts.get("tokenizer.ggml.pre"))):
        path = out_dir / "tokenizer.json"
        write_json(path, {**json.loads(path.read_text(encoding="utf-8")), "pre_tokenizer": repaired})


def prove_tokenizer(gguf: Path, folder: Path) -> None:
    """`InputError` where the folder's tokenizer cuts a text otherwise than llama.cpp does with the GGUF."""
    from transformers import AutoTokenizer

    from training_app.engine.parity import llama_cpp

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    with llama_cpp(gguf, context=256, threads=1) as server:
        differing = [
            text for text in PROBES if server.tokenize(text) != tokenizer.encode(text, add_special_tokens=False)
        ]
    if differing:
        kind = read_facts(gguf).get("tokenizer.ggml.pre")
        raise InputError(
            f"The file's tokenizer ({kind}) cannot be read back faithfully: it cuts {len(differing)} of {len(PROBES)} "
            f"texts otherwise than llama.cpp does, such as {differing[0][:40]!r}. {INSTEAD}"
        )


def prove_answers(gguf: Path, folder: Path, channel: Channel) -> None:
    """`InputError` where the weights read back answer otherwise than the GGUF does in llama.cpp: an import that takes
    some layer of a family wrongly would not show in any shape.
    """
    from training_app.engine.hardware import choose_machine
    from training_app.engine.parity import compare
    from training_app.engine.probes import questions
    from training_app.engine.template import load_tokenizer

    tokenizer = load_tokenizer(str(folder))
    rows = compare(folder, gguf, tokenizer, questions(tokenizer), choose_machine(0, "cpu", "float32"), channel)
    worst = max(row["difference"] for row in rows)
    if worst > TOLERANCE:
        raise InputError(
            f"The weights read back answer otherwise than Ollama's file does: the log-probability of a first token "
            f"differs by {worst:.2f}, where {TOLERANCE:g} is allowed. {INSTEAD}"
        )
