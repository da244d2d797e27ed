"""Task `prepare`: a base model becomes one folder of safetensors weights, tokenizer and configuration.

The folder appears by rename, so whoever sees it sees it whole. Pickles and remote code are never loaded.
"""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from finetune_site.lib.channel import Channel, InputError
from training_app.engine.spec import PrepareSpec

HUB_FILES = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "tokenizer.model", "*.txt"]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


def prepare(spec: PrepareSpec, channel: Channel) -> dict[str, Any]:
    """Write `out_dir` and return the model's name, size, context length and identity. Idempotent."""
    out_dir = Path(spec.out_dir)
    if not (out_dir / "config.json").exists():
        aside = out_dir.with_name(out_dir.name + ".part")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(parents=True)
        channel.emit("started", source=spec.source)
        _fill(spec, aside, channel)
        channel.check()
        if out_dir.exists():
            out_dir.rmdir()  # an empty folder may be waiting; a full one is not ours to replace
        aside.rename(out_dir)
    return describe(out_dir, spec.location or "SmolLM2-135M-Instruct")


def _fill(spec: PrepareSpec, out_dir: Path, channel: Channel) -> None:
    if spec.source == "bundled":
        from training_app.engine.bundled import convert

        convert(out_dir)
    elif spec.source == "gguf":
        from training_app.engine import dequantise

        gguf = dequantise.find_blob(spec.ollama_models, spec.location)
        dequantise.convert(gguf, out_dir, gguf.name)
        dequantise.prove_tokenizer(gguf, out_dir)
        dequantise.prove_answers(gguf, out_dir, channel)
    elif spec.source == "folder":
        _copy(check_folder(Path(spec.location)), out_dir)
    else:
        _download(spec.location, out_dir)


def check_folder(folder: Path) -> Path:
    """Refuse a model folder that lacks something or holds only pickles; return it."""
    if not folder.is_dir():
        raise InputError(f"The model folder {folder} does not exist.")
    if not (folder / "config.json").exists():
        raise InputError(f"The model folder {folder} has no config.json. Choose a folder in the Hugging Face layout.")
    if not list(folder.glob("*.safetensors")):
        pickles = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))]
        why = (
            f" Pickled weights ({', '.join(pickles[:3])}) are never loaded: convert them to safetensors."
            if pickles
            else ""
        )
        raise InputError(f"The model folder {folder} has no .safetensors file.{why}")
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(name for name in shards if not (folder / Path(name).name).exists()):
            raise InputError(f"The model folder {folder} lacks these weight files: {', '.join(missing)}.")
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise InputError(f"The model folder {folder} has no tokenizer ({', '.join(TOKENIZER_FILES)}).")
    return folder


def describe(folder: Path, name: str) -> dict[str, Any]:
    """What a model folder holds. Loading the tokenizer and the configuration proves that they can be loaded."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"The model in {folder.name} cannot be loaded: {str(error)[:300]}") from error
    text = config.get_text_config()
    return {
        "name": name,
        "architecture": (config.architectures or [config.model_type])[0],
        "parameters": count_parameters(folder),
        "context_length": int(text.max_position_embeddings),
        "vocabulary": int(text.vocab_size),
        "sha256": identity(folder),
        "chat_template": hashlib.sha256(str(tokenizer.chat_template).encode()).hexdigest()
        if tokenizer.chat_template
        else "",
    }


def identity(folder: Path) -> str:
    """SHA-256 over the weight files, in the order of their names: what this base model is."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def check_base(base_dir: str, sha256: str, chat_template_sha256: str) -> None:
    """`InputError` when a base is not the one that a run was trained beside; an empty hash asks for nothing."""
    from transformers import AutoTokenizer

    if sha256 and identity(Path(base_dir)) != sha256:
        raise InputError(
            "The base model's weights are not those that this run was trained on, so its adapter is refused. An "
            "operator puts the former weights back, or the run is trained again."
        )
    if not chat_template_sha256:
        return
    tokenizer = AutoTokenizer.from_pretrained(base_dir, local_files_only=True, trust_remote_code=False)
    if hashlib.sha256(str(tokenizer.chat_template or "").encode()).hexdigest() != chat_template_sha256:
        raise InputError(
            "The base model's chat template is not the one that this run was trained with, so it would read other "
            "prompts. An operator puts the former base back, or the run is trained again."
        )


def count_parameters(folder: Path) -> int:
    """Weights in the folder's safetensors files, from their headers alone."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        for tensor, entry in header.items():
            if tensor != "__metadata__":
                size = 1
                for side in entry["shape"]:
                    size *= side
                total += size
    return total


def _copy(source: Path, out_dir: Path) -> None:
    for pattern in HUB_FILES:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copy2(path, out_dir / path.name)


def _download(model_id: str, out_dir: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        snapshot_download(model_id, local_dir=out_dir, allow_patterns=HUB_FILES, etag_timeout=10)
    except HfHubHTTPError as error:
        raise InputError(_refused_by_hub(model_id, error)) from error
    except (HFValidationError, OSError, ValueError) as error:
        raise InputError(
            f"The model {model_id} cannot be fetched from the hub: {str(error).splitlines()[0][:200]}. "
            "Check the id and the connection, or choose a local folder."
        ) from error
    shutil.rmtree(out_dir / ".cache", ignore_errors=True)
    check_folder(out_dir)


def _refused_by_hub(model_id: str, error: Any) -> str:
    """What to do about the hub's answer. It tells a visitor of a private model the same as of one that is not there."""
    from huggingface_hub.errors import GatedRepoError

    status, page = error.response.status_code, f"https://huggingface.co/{model_id}"
    if isinstance(error, GatedRepoError):
        return (
            f"The model {model_id} is given only to those who have accepted its licence. Open {page} with an account "
            "of Hugging Face, accept the licence there, put a token of that account into HF_TOKEN in the environment "
            "of the workers, start them anew, and try again."
        )
    if status in (401, 403, 404):
        return (
            f"The hub shows no model {model_id}. Check the id; a private model also needs HF_TOKEN in the environment "
            "of the workers, of an account that may read it."
        )
    return (
        f"The hub answered {status} when the model {model_id} was asked for. Try again later, or choose a local folder."
    )
