"""What is known of Ollama's library: which tag holds which weights, under which licence, and what hinders training it.

Written down from model cards and Ollama's pages; a tag may be moved to other weights, so `shapes` holds what is found
here against the server before anything is trained. Standard library only.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

KNOWN, LIKELY, CHECK = "well known", "likely", "check before use"
OPEN, GATED, MAYBE_GATED = "", "gated", "maybe gated"
IMAGES = "it also reads images, and models of text alone are trained here"
EXPERTS = "it is a mixture of experts, which are not trained here"
COMPLETES = "it completes text and has no chat template to answer with"
GIGABYTE = 10**9
# Training with the base in 4 bits: the matrices with their scales, embeddings in 16 bits, adapter and activations.
LEAST_BYTES_A_WEIGHT, LEAST_BYTES = 0.6, GIGABYTE
HUB_HOSTS = ("hf.co/", "huggingface.co/")
HUB_NAME = re.compile(r"[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95}")
QUANTISATION = re.compile(r"(?:i?q\d\w*|[fb]{1,2}(?:16|32)|fp16)", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One row: `billions` of parameters; `sure`, how sure it is; `note`, what the tag held at other times; `also`, more
    tags of the same model; `hindrance`, why it cannot be trained here.
    """

    tag: str
    repository: str
    licence: str
    billions: float
    gate: str = OPEN
    sure: str = KNOWN
    note: str = ""
    also: tuple[str, ...] = ()
    hindrance: str = ""

    @property
    def family(self) -> str:
        return self.tag.partition(":")[0]

    @property
    def parameters(self) -> int:
        return round(self.billions * 10**9)


LLAMA2, LLAMA3, LLAMA31, LLAMA32, LLAMA33 = "Llama 2", "Llama 3", "Llama 3.1", "Llama 3.2", "Llama 3.3"
APACHE, MIT, GEMMA, RAIL = "Apache-2.0", "MIT", "Gemma", "BigCode OpenRAIL-M"
LATEST = ("latest",)
ENTRIES: tuple[Entry, ...] = (
    Entry("llama3.2:1b", "meta-llama/Llama-3.2-1B-Instruct", LLAMA32, 1.24, GATED),
    Entry("llama3.2:3b", "meta-llama/Llama-3.2-3B-Instruct", LLAMA32, 3.21, GATED, also=LATEST),
    Entry("llama3.1:8b", "meta-llama/Llama-3.1-8B-Instruct", LLAMA31, 8.03, GATED, also=LATEST),
    Entry("llama3.1:70b", "meta-llama/Llama-3.1-70B-Instruct", LLAMA31, 70.6, GATED),
    Entry("llama3.3:70b", "meta-llama/Llama-3.3-70B-Instruct", LLAMA33, 70.6, GATED, also=LATEST),
    Entry("llama3:8b", "meta-llama/Meta-Llama-3-8B-Instruct", LLAMA3, 8.03, GATED, also=LATEST),
    Entry("llama2:7b", "meta-llama/Llama-2-7b-chat-hf", LLAMA2, 6.74, GATED, also=LATEST),
    Entry("codellama:7b", "codellama/CodeLlama-7b-Instruct-hf", LLAMA2, 6.74, also=LATEST),
    Entry("codellama:13b", "codellama/CodeLlama-13b-Instruct-hf", LLAMA2, 13.0),
    Entry(
        "tinyllama:1.1b", "TinyLlama/TinyLlama-1.1B-Chat-v1.0", APACHE, 1.10, also=LATEST,
        note="Some pulls hold version 0.6.",
    ),
    Entry("smollm2:135m", "HuggingFaceTB/SmolLM2-135M-Instruct", APACHE, 0.135),
    Entry("smollm2:360m", "HuggingFaceTB/SmolLM2-360M-Instruct", APACHE, 0.362),
    Entry("smollm2:1.7b", "HuggingFaceTB/SmolLM2-1.7B-Instruct", APACHE, 1.71, also=LATEST),
    Entry("qwen2.5:0.5b", "Qwen/Qwen2.5-0.5B-Instruct", APACHE, 0.494),
    Entry("qwen2.5:1.5b", "Qwen/Qwen2.5-1.5B-Instruct", APACHE, 1.54),
    Entry("qwen2.5:3b", "Qwen/Qwen2.5-3B-Instruct", "Qwen Research (non-commercial)", 3.09),
    Entry("qwen2.5:7b", "Qwen/Qwen2.5-7B-Instruct", APACHE, 7.62, also=LATEST),
    Entry("qwen2.5:14b", "Qwen/Qwen2.5-14B-Instruct", APACHE, 14.8),
    Entry("qwen2.5:32b", "Qwen/Qwen2.5-32B-Instruct", APACHE, 32.8),
    Entry("qwen2.5:72b", "Qwen/Qwen2.5-72B-Instruct", "Qwen", 72.7),
    Entry("qwen2.5-coder:1.5b", "Qwen/Qwen2.5-Coder-1.5B-Instruct", APACHE, 1.54),
    Entry("qwen2.5-coder:7b", "Qwen/Qwen2.5-Coder-7B-Instruct", APACHE, 7.62, also=LATEST),
    Entry("qwen3:0.6b", "Qwen/Qwen3-0.6B", APACHE, 0.752),
    Entry("qwen3:1.7b", "Qwen/Qwen3-1.7B", APACHE, 2.03),
    Entry("qwen3:4b", "Qwen/Qwen3-4B-Thinking-2507", APACHE, 4.02, sure=LIKELY, note="Older pulls hold Qwen/Qwen3-4B."),
    Entry("qwen3:8b", "Qwen/Qwen3-8B", APACHE, 8.19, also=LATEST),
    Entry("qwen3:14b", "Qwen/Qwen3-14B", APACHE, 14.8),
    Entry(
        "qwen3:30b", "Qwen/Qwen3-30B-A3B-Thinking-2507", APACHE, 30.5, sure=LIKELY,
        note="Older pulls hold Qwen/Qwen3-30B-A3B.", hindrance=EXPERTS,
    ),
    Entry("qwen3:32b", "Qwen/Qwen3-32B", APACHE, 32.8),
    Entry("qwen3.5:0.8b", "Qwen/Qwen3.5-0.8B", APACHE, 0.8, sure=CHECK, hindrance=IMAGES),
    Entry("qwen3.5:2b", "Qwen/Qwen3.5-2B", APACHE, 2.0, sure=CHECK, hindrance=IMAGES),
    Entry("qwen3.5:4b", "Qwen/Qwen3.5-4B", APACHE, 4.0, sure=CHECK, hindrance=IMAGES),
    Entry("qwen3.5:9b", "Qwen/Qwen3.5-9B", APACHE, 8.95, sure=CHECK, hindrance=IMAGES),
    Entry("qwen3.5:27b", "Qwen/Qwen3.5-27B", APACHE, 27.0, sure=CHECK, hindrance=IMAGES),
    Entry("qwen3.5:35b", "Qwen/Qwen3.5-35B-A3B", APACHE, 35.0, sure=CHECK, hindrance=EXPERTS),
    Entry("gemma:2b", "google/gemma-2b-it", GEMMA, 2.5, GATED, LIKELY, "May hold version 1.1."),
    Entry("gemma:7b", "google/gemma-7b-it", GEMMA, 8.5, GATED, LIKELY, "May hold version 1.1.", LATEST),
    Entry("gemma2:2b", "google/gemma-2-2b-it", GEMMA, 2.61, GATED),
    Entry("gemma2:9b", "google/gemma-2-9b-it", GEMMA, 9.24, GATED, also=LATEST),
    Entry("gemma2:27b", "google/gemma-2-27b-it", GEMMA, 27.2, GATED),
    Entry("gemma3:270m", "google/gemma-3-270m-it", GEMMA, 0.268, GATED),
    Entry("gemma3:1b", "google/gemma-3-1b-it", GEMMA, 1.00, GATED),
    Entry("gemma3:4b", "google/gemma-3-4b-it", GEMMA, 4.3, GATED, also=LATEST, hindrance=IMAGES),
    Entry("gemma3:12b", "google/gemma-3-12b-it", GEMMA, 12.2, GATED, hindrance=IMAGES),
    Entry("gemma3:27b", "google/gemma-3-27b-it", GEMMA, 27.4, GATED, hindrance=IMAGES),
    Entry("gemma3n:e2b", "google/gemma-3n-E2B-it", GEMMA, 5.4, GATED, LIKELY, hindrance=IMAGES),
    Entry("gemma3n:e4b", "google/gemma-3n-E4B-it", GEMMA, 7.8, GATED, LIKELY, also=LATEST, hindrance=IMAGES),
    Entry("gemma4:e2b", "google/gemma-4-E2B-it", APACHE, 5.0, sure=LIKELY, hindrance=IMAGES),
    Entry("gemma4:e4b", "google/gemma-4-E4B-it", APACHE, 8.0, sure=LIKELY, hindrance=IMAGES),
    Entry("gemma4:12b", "google/gemma-4-12B-it", APACHE, 12.0, sure=CHECK, hindrance=IMAGES),
    Entry("gemma4:26b", "google/gemma-4-26B-A4B-it", APACHE, 26.0, sure=LIKELY, hindrance=EXPERTS),
    Entry("gemma4:31b", "google/gemma-4-31B-it", APACHE, 31.0, sure=LIKELY, hindrance=IMAGES),
    Entry(
        "phi3:mini", "microsoft/Phi-3-mini-4k-instruct", MIT, 3.82, sure=LIKELY, also=("latest", "3.8b"),
        note="Tags with 128k hold another model.",
    ),
    Entry("phi3.5:3.8b", "microsoft/Phi-3.5-mini-instruct", MIT, 3.82, also=LATEST),
    Entry("phi4:14b", "microsoft/phi-4", MIT, 14.7, also=LATEST),
    Entry("phi4-mini:3.8b", "microsoft/Phi-4-mini-instruct", MIT, 3.84, also=LATEST),
    Entry(
        "mistral:7b", "mistralai/Mistral-7B-Instruct-v0.3", APACHE, 7.25, MAYBE_GATED, LIKELY,
        "Older pulls hold version 0.1 or 0.2.", LATEST,
    ),
    Entry("mistral-nemo:12b", "mistralai/Mistral-Nemo-Instruct-2407", APACHE, 12.2, MAYBE_GATED, also=LATEST),
    Entry("mistral-small:24b", "mistralai/Mistral-Small-24B-Instruct-2501", APACHE, 23.6, MAYBE_GATED, LIKELY),
    Entry(
        "mistral-small3.2:24b", "mistralai/Mistral-Small-3.2-24B-Instruct-2506", APACHE, 24.0, MAYBE_GATED, LIKELY,
        hindrance=IMAGES,
    ),
    Entry("mixtral:8x7b", "mistralai/Mixtral-8x7B-Instruct-v0.1", APACHE, 46.7, MAYBE_GATED, hindrance=EXPERTS),
    Entry("deepseek-r1:1.5b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", MIT, 1.78),
    Entry("deepseek-r1:7b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", MIT, 7.62),
    Entry(
        "deepseek-r1:8b", "deepseek-ai/DeepSeek-R1-0528-Qwen3-8B", MIT, 8.19, sure=LIKELY, also=LATEST,
        note="Pulls before May 2025 hold deepseek-ai/DeepSeek-R1-Distill-Llama-8B.",
    ),
    Entry("deepseek-r1:14b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", MIT, 14.8),
    Entry("deepseek-r1:32b", "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", MIT, 32.8),
    Entry("deepseek-r1:70b", "deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "MIT and Llama 3.3", 70.6),
    Entry("granite3.3:2b", "ibm-granite/granite-3.3-2b-instruct", APACHE, 2.53),
    Entry("granite3.3:8b", "ibm-granite/granite-3.3-8b-instruct", APACHE, 8.17, also=LATEST),
    Entry("granite4:350m", "ibm-granite/granite-4.0-350m", APACHE, 0.35, sure=LIKELY),
    Entry("granite4:1b", "ibm-granite/granite-4.0-1b", APACHE, 1.0, sure=LIKELY),
    Entry("granite4:micro", "ibm-granite/granite-4.0-micro", APACHE, 3.0, sure=LIKELY, also=("3b",)),
    Entry("granite4:tiny-h", "ibm-granite/granite-4.0-h-tiny", APACHE, 7.0, sure=LIKELY, hindrance=EXPERTS),
    Entry("granite4:small-h", "ibm-granite/granite-4.0-h-small", APACHE, 32.0, sure=LIKELY, hindrance=EXPERTS),
    Entry("olmo2:7b", "allenai/OLMo-2-1124-7B-Instruct", APACHE, 7.3, also=LATEST),
    Entry("olmo2:13b", "allenai/OLMo-2-1124-13B-Instruct", APACHE, 13.7),
    Entry("gpt-oss:20b", "openai/gpt-oss-20b", APACHE, 20.9, also=LATEST, hindrance=EXPERTS),
    Entry("gpt-oss:120b", "openai/gpt-oss-120b", APACHE, 117.0, hindrance=EXPERTS),
    Entry("starcoder2:3b", "bigcode/starcoder2-3b", RAIL, 3.03, also=LATEST, hindrance=COMPLETES),
    Entry("starcoder2:7b", "bigcode/starcoder2-7b", RAIL, 7.17, hindrance=COMPLETES),
    Entry("starcoder2:instruct", "bigcode/starcoder2-15b-instruct-v0.1", RAIL, 16.0, sure=LIKELY),
)  # fmt: skip
BY_TAG: Mapping[str, Entry] = {
    name: entry for entry in ENTRIES for name in (entry.tag, *(f"{entry.family}:{tag}" for tag in entry.also))
}
BY_MODEL: Mapping[str, Entry] = {entry.repository.partition("/")[2].lower(): entry for entry in ENTRIES}


class How(StrEnum):
    """How it was found which weights a name stands for."""

    OPERATOR = "operator"
    DIGEST = "digest"
    CATALOGUE = "catalogue"
    KEYS = "keys"
    PARTS = "parts"
    NAME = "name"


IN_WORDS: Mapping[str, str] = {
    How.OPERATOR: "an operator's own entry",
    How.DIGEST: "the same file under another name",
    How.CATALOGUE: "the site's catalogue",
    How.KEYS: "what the file says of itself",
    How.PARTS: "put together from what the file calls itself: check it",
    How.NAME: "the name of the repository it was pulled from: check it",
}


@dataclass(frozen=True)
class Told:
    """What a server says of one model. `keys`: the file's own about where it comes from; `blob`: the file's SHA-256."""

    architecture: str = ""
    capabilities: Sequence[str] = ()
    parameters: int = 0
    blob: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Resolution:
    """Which repository holds a model's weights, and how that was found."""

    repository: str
    how: How
    entry: Entry | None = None


def find(name: str) -> Entry | None:
    """The row of a name as Ollama writes it; None for a tag that may hold something else.

    What follows the row's own tag must be a way to quantise, or stand in the repository's name too:
    `llama3.2:3b-instruct-q4_K_M` is the row's model, `llama3.2:3b-text-q4_K_M` is not.
    """
    family, _, tag = name.strip().lower().removeprefix("registry.ollama.ai/").removeprefix("library/").partition(":")
    parts = (tag or "latest").split("-")
    for length in range(len(parts), 0, -1):
        entry = BY_TAG.get(f"{family}:{'-'.join(parts[:length])}")
        if entry is None:
            continue
        words = set(re.split(r"[-_/]", entry.repository.lower()))
        return entry if all(part in words or QUANTISATION.fullmatch(part) for part in parts[length:]) else None
    return None


def of_repository(repository: str) -> Entry | None:
    """The row of a repository on the hub, whoever the owner of the copy is."""
    return BY_MODEL.get(repository.partition("/")[2].lower())


def resolve(name: str, told: Told) -> Resolution | None:
    """Where the weights of a model lie, by the catalogue, by the file's own keys, by its name; None: nobody knows.

    A file's `base_model` may be what it was itself tuned from, with the same shapes and other weights. It counts only
    where it bears the file's own `finetune` in its name.
    """
    if entry := find(name):
        return Resolution(entry.repository, How.CATALOGUE, entry)
    if found := _by_source(told.keys):
        return Resolution(found, How.KEYS, of_repository(found))
    if found := _by_base_model(told.keys):
        is_sure = bool(told.keys.get("general.finetune"))
        return Resolution(found, How.KEYS if is_sure else How.PARTS, of_repository(found))
    if found := _by_parts(told.keys):
        return Resolution(found, How.PARTS, of_repository(found))
    host = next((host for host in HUB_HOSTS if name.lower().startswith(host)), None)
    pulled = re.sub(r"[-_.]gguf$", "", name[len(host) :].partition(":")[0], flags=re.IGNORECASE) if host else ""
    if not HUB_NAME.fullmatch(pulled):
        return None
    known = of_repository(pulled)
    return Resolution(known.repository if known else pulled, How.NAME, known)


def _by_source(keys: Mapping[str, str]) -> str:
    names = ("repo_url", "url", "huggingface.repository")
    return next((found for name in names if (found := _repository(keys.get(f"general.source.{name}", "")))), "")


def _by_base_model(keys: Mapping[str, str]) -> str:
    finetune = keys.get("general.finetune", "").lower()
    organization, model = (keys.get(f"general.base_model.0.{part}", "") for part in ("organization", "name"))
    named = f"{organization}/{model}".replace(" ", "-") if organization and model else ""
    found = _repository(keys.get("general.base_model.0.repo_url", "")) or _repository(named)
    return found if finetune in found.lower() else ""


def _by_parts(keys: Mapping[str, str]) -> str:
    parts = [keys.get(f"general.{part}", "") for part in ("organization", "basename", "size_label", "finetune")]
    organization, *model = (part.replace(" ", "-") for part in parts)
    return (
        _repository(f"{organization}/{'-'.join(part for part in model if part)}") if organization and model[0] else ""
    )


def _repository(address: str) -> str:
    """owner/name out of an address on the hub, or as it stands; empty for anything else."""
    name = re.sub(r"^https?://(?:huggingface\.co|hf\.co)/", "", address.strip()).rstrip("/")
    return name if HUB_NAME.fullmatch(name) else ""


def hindrance(told: Told, entry: Entry | None, parameters: int, memory_bytes: int) -> str:
    """Why a model cannot be trained here, to be read after “because”; empty when nothing is known against it.

    `memory_bytes`: of the largest machine; 0 where nobody knows.
    """
    if told.capabilities and "completion" not in told.capabilities:
        return "it makes embeddings and does not write"
    if "vision" in told.capabilities:
        return IMAGES
    if entry and entry.hindrance:
        return entry.hindrance
    if re.search(r"moe$|^mixtral|^gpt-?oss", told.architecture):
        return EXPERTS
    return too_large(parameters, memory_bytes)


def too_large(parameters: int, memory_bytes: int) -> str:
    """That the largest machine's memory does not hold a training even with the base in 4 bits; 0: nobody knows it."""
    needed = LEAST_BYTES + LEAST_BYTES_A_WEIGHT * parameters
    if not memory_bytes or needed <= memory_bytes:
        return ""
    return (
        f"it needs about {needed / GIGABYTE:.0f} GB even with its base in 4 bits, and the largest machine here has "
        f"{memory_bytes / GIGABYTE:.0f} GB"
    )
