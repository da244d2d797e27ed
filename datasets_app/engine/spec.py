"""The whole input of each engine task: frozen dataclasses that check themselves. Standard library only."""

from dataclasses import dataclass, field
from typing import Any

from finetune_site.lib.channel import InputError

GENERATORS = ("extractive", "verbatim", "llm")


@dataclass(frozen=True)
class ParseSpec:
    """Parse one file into elements and chunks in `out_dir`, within limits that keep a hostile file small."""

    input_path: str
    filename: str
    out_dir: str
    max_pages: int = 2000
    max_elements: int = 60_000
    max_element_chars: int = 20_000
    max_characters: int = 5_000_000
    max_uncompressed_bytes: int = 300_000_000
    max_archive_ratio: int = 200
    max_archive_members: int = 5000
    chunk_max_chars: int = 1800


@dataclass(frozen=True)
class PageSpec:
    """Draw one page of a PDF, from 1, as a PNG of so many pixels' width into `out_path`."""

    input_path: str
    page: int
    width: int
    out_path: str


@dataclass(frozen=True)
class Source:
    """One parsed document: its row id, its name as people see it, its elements and chunks."""

    id: int
    name: str
    elements_path: str
    chunks_path: str


@dataclass(frozen=True)
class ModelSpec:
    """A model behind Ollama or an OpenAI-compatible address. The key comes from the environment alone."""

    provider: str
    base_url: str
    model: str
    context_window: int = 4096
    temperature: float = 0.3
    timeout_seconds: float = 300
    pairs_per_chunk: int = 2
    wordings: int = 3

    def __post_init__(self) -> None:
        if self.provider not in {"ollama", "openai"}:
            raise InputError(f"The provider must be ollama or openai, not {self.provider!r}.")


@dataclass(frozen=True)
class GenerateSpec:
    """Make examples from the chunks of documents; `llm` is needed by the generator of that name."""

    documents: list[dict[str, Any]]
    out_dir: str
    generator: str = "extractive"
    wordings_per_fact: int = 6
    max_facts_per_chunk: int = 40
    llm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.generator not in GENERATORS:
            raise InputError(f"The generator must be one of {', '.join(GENERATORS)}, not {self.generator!r}.")
        if not self.documents:
            raise InputError("Choose at least one document.")
        if not 1 <= self.wordings_per_fact <= 12:
            raise InputError("Wordings per fact must lie between 1 and 12.")


TASKS = {"parse": ParseSpec, "page": PageSpec, "generate": GenerateSpec}
