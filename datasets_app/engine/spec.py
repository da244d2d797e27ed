"""The whole input of each engine task: frozen dataclasses that check themselves. Standard library only."""

import re
from dataclasses import dataclass, field
from typing import Any

from datasets_app.engine.media_type import MAX_CHARACTERS
from finetune_site.lib.channel import InputError

KEY_VARIABLE = "FINETUNE_LLM_API_KEY"  # under which an engine finds the key of its model server
GENERATORS = ("extractive", "verbatim", "llm")
# Of a passage: examples, nothing to say, an answer that cannot be used, a server that fails or is too slow.
OUTCOMES = ("made", "nothing", "refused", "failed", "timed out")
MAX_PARALLEL = 64
AGAIN = OUTCOMES[2:]  # where a second try may end otherwise
STRATEGIES = ("auto", "text", "ocr", "layout")
CUTS = ("section", "page")
MIN_PASSAGE, MAX_PASSAGE = 200, 20_000  # in characters; in tokens a quarter of it
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True)
class Reading:
    """How a file is read and cut into passages: what people choose. `last_page` 0 is the end; `languages` as tesseract
    names them; `passage_size` in characters, or in tokens of the base model that `tokens_of` names; `overlap`: whole
    pieces of at most that length begin the next passage."""

    strategy: str = "auto"
    languages: tuple[str, ...] = ("eng",)
    first_page: int = 1
    last_page: int = 0
    keeps_running_heads: bool = False
    finds_tables: bool = True
    finds_names: bool = False
    cut: str = "section"
    passage_size: int = 1800
    overlap: int = 0
    tokens_of: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "languages", tuple(self.languages))
        if self.strategy not in STRATEGIES or self.cut not in CUTS:
            raise InputError(f"Read by one of {', '.join(STRATEGIES)}, and cut by {' or '.join(CUTS)}.")
        if not self.languages or not all(re.fullmatch(r"[A-Za-z_]{2,20}", name) for name in self.languages):
            raise InputError("Name at least one language for text recognition, as tesseract does: eng, deu, fra.")
        if self.first_page < 1 or (self.last_page and self.last_page < self.first_page):
            raise InputError("The first page must be 1 or more, and the last one not before it.")
        least, most = MIN_PASSAGE // self.unit_characters, MAX_PASSAGE // self.unit_characters
        if not least <= self.passage_size <= most:
            raise InputError(f"A passage must take between {least} and {most:,} {self.unit}.")
        if not 0 <= self.overlap <= self.passage_size // 2:
            raise InputError("Passages may overlap by at most half their size.")

    @property
    def unit(self) -> str:
        """What `passage_size` and `overlap` count."""
        return "tokens" if self.tokens_of else "characters"

    @property
    def unit_characters(self) -> int:
        """So many characters of English its unit has, about."""
        return CHARACTERS_A_TOKEN if self.tokens_of else 1

    def pages(self, count: int) -> range:
        """The pages to read of so many, from 1; `InputError` when there is none."""
        if self.first_page > count:
            raise InputError(
                f"The file has {count} page{'s' if count > 1 else ''}; page {self.first_page} is not among them."
            )
        return range(self.first_page, min(self.last_page or count, count) + 1)


@dataclass(frozen=True)
class ParseSpec:
    """Parse one file into elements and chunks in `out_dir`, within limits that keep a hostile file small. `reading`:
    the fields of `Reading`. `layout_model`: the file of the model that its strategy `layout` needs."""

    input_path: str
    filename: str
    out_dir: str
    reading: dict[str, Any] = field(default_factory=dict)
    layout_model: str = ""
    max_pages: int = 2000
    max_elements: int = 60_000
    max_element_chars: int = 20_000
    max_characters: int = MAX_CHARACTERS
    max_uncompressed_bytes: int = 300_000_000
    max_archive_ratio: int = 200
    max_archive_members: int = 5000


@dataclass(frozen=True)
class PageSpec:
    """Draw one page of a PDF or picture, from 1, as a PNG of so many pixels' width into `out_path`."""

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
    """A model behind Ollama or an OpenAI-compatible address. The key comes from the environment alone. Context and
    answer in tokens; `parallel`: requests at once."""

    provider: str
    base_url: str
    model: str
    context_window: int = 4096
    temperature: float = 0.3
    timeout_seconds: float = 300
    answer_tokens: int = 900
    parallel: int = 1

    def __post_init__(self) -> None:
        if self.provider not in {"ollama", "openai"}:
            raise InputError(f"The provider must be ollama or openai, not {self.provider!r}.")
        if not 1 <= self.parallel <= MAX_PARALLEL:
            raise InputError(f"Between 1 and {MAX_PARALLEL} requests can be in flight at once.")


@dataclass(frozen=True)
class GenerateSpec:
    """Make examples from the chunks of documents. The generator `llm` needs the fields of a `ModelSpec`, and takes
    those of a `Recipe`."""

    documents: list[dict[str, Any]]
    out_dir: str
    generator: str = "extractive"
    wordings_per_fact: int = 6
    llm: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.generator not in GENERATORS:
            raise InputError(f"The generator must be one of {', '.join(GENERATORS)}, not {self.generator!r}.")
        if not self.documents:
            raise InputError("Choose at least one document.")
        if not 1 <= self.wordings_per_fact <= 12:
            raise InputError("Wordings per fact must lie between 1 and 12.")


@dataclass(frozen=True)
class CheckSpec:
    """Look at the examples of a file (JSON Lines of `id`, `text_id`, `content` and `group`, their section). A row
    longer than `max_tokens` is told; names are looked for on a wish, which takes far longer than all the rest."""

    examples_path: str
    out_dir: str
    max_tokens: int = 1024
    finds_names: bool = False


TASKS = {"parse": ParseSpec, "page": PageSpec, "generate": GenerateSpec, "check": CheckSpec}
