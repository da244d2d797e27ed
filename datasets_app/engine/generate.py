"""Make examples chunk by chunk. Every chunk gets a stated outcome; a stopped run goes on with the next chunk."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets_app.engine import chunks, elements, extractive, verbatim
from datasets_app.engine.chunks import Chunk
from datasets_app.engine.flight import in_flight
from datasets_app.engine.spec import OUTCOMES, GenerateSpec, ModelSpec, Source
from finetune_site.lib.channel import Channel, read_journal, read_spec
from finetune_site.lib.files import write_whole

JOURNALS = ("outcomes", "examples", "calls")


@dataclass(frozen=True)
class Made:
    """What came of one passage: rows, its outcome and why, and the requests that were made for it."""

    rows: list[dict[str, Any]]
    outcome: str
    reason: str
    calls: list[dict[str, Any]] = field(default_factory=list)


Passage = tuple[Source, Chunk]


def run(spec: GenerateSpec, link: Channel) -> dict[str, Any]:
    """Append to `examples.jsonl`, `calls.jsonl` and then `outcomes.jsonl`; one `chunk` event each."""
    out = Path(spec.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    done = _tidied(out)
    sources = [read_spec(Source, fields) for fields in spec.documents]
    passages = [(source, chunk) for source in sources for chunk in chunks.read(Path(source.chunks_path))]
    by_model = _ByModel(spec) if spec.generator == "llm" else None
    link.emit("started", total=len(passages), done=len(done), digest=by_model.digest if by_model else "")
    open_ones = [(source, chunk) for source, chunk in passages if (source.id, chunk.index) not in done]
    settled = by_model.settle(open_ones, link) if by_model else _without_model(spec, passages, done, link)
    with Journals(out) as journals:
        for (source, chunk), made in settled:
            for row in made.rows:
                journals.write("examples", _filed(row, source, chunk))
            for call in made.calls:
                journals.write("calls", {"document": source.id, "chunk": chunk.index, **call})
            entry: dict[str, Any] = {
                "document": source.id,
                "chunk": chunk.index,
                "outcome": made.outcome,
                "made": len(made.rows),
                "reason": made.reason,
            }
            journals.write("outcomes", entry)
            link.emit("chunk", **entry)
    counts: Counter[str] = Counter()
    for line in read_journal(out / "outcomes.jsonl"):
        counts[line["outcome"]] += 1
        counts["examples"] += line["made"]
    return {"chunks": len(passages), **{name: counts[name] for name in (*OUTCOMES, "examples")}}


class Journals:
    """The files that are appended to. A passage's outcome is written last: with it, all of the passage is there."""

    def __init__(self, out: Path) -> None:
        self._streams = {name: (out / f"{name}.jsonl").open("a", encoding="utf-8") for name in JOURNALS}

    def __enter__(self) -> "Journals":
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams.values():
            stream.close()

    def write(self, name: str, line: dict[str, Any]) -> None:
        if name == "outcomes":
            self._streams["examples"].flush()
            self._streams["calls"].flush()
        self._streams[name].write(json.dumps(line, ensure_ascii=False) + "\n")
        if name == "outcomes":
            self._streams[name].flush()


class _ByModel:
    """Asks a model about passages, several at once."""

    def __init__(self, spec: GenerateSpec) -> None:
        from datasets_app.engine import llm
        from datasets_app.engine.recipes import Recipe

        self._recipe = read_spec(Recipe, spec.recipe or {"kind": "qa"})
        self._schema = self._recipe.schema()
        model = read_spec(ModelSpec, spec.llm)
        room = min(self._recipe.answer_tokens, model.context_window // 2)
        self._spec = read_spec(ModelSpec, {**spec.llm, "answer_tokens": room})
        self._model = llm.connect(self._spec)
        self.digest = llm.digest(self._model, self._spec)

    def settle(self, passages: Iterable[Passage], link: Channel) -> Iterator[tuple[Passage, Made]]:
        """Each passage with what came of it, as the answers come."""
        return in_flight(passages, self._ask, self._spec.parallel, link.check)

    def _ask(self, passage: Passage) -> Made:
        """A model that fails on one passage must not end the others."""
        from datasets_app.engine import llm

        source, chunk = passage
        count = self._recipe.chosen.count
        calls: list[llm.Call] = []
        prompt = self._recipe.prompt(chunk, source.name)
        shorter = self._recipe.prompt(chunk, source.name, max(1, count // 2))
        try:
            answer = llm.ask(self._model, self._spec, self._schema, prompt, shorter, calls)
        except llm.Refused as error:
            return self._made([], "refused", str(error), calls)
        except Exception as error:  # the client libraries raise many kinds for a server that is slow, gone or confused
            name = type(error).__name__
            is_late = "timeout" in name.lower()
            return self._made([], "timed out" if is_late else "failed", f"{name}: {error}"[:300], calls)
        rows, refused = self._recipe.rows(answer, chunk)
        told = "; ".join(refused)[:300]
        rows = [{**row, "generator": llm.NAME, "model": self._spec.model, "call": len(calls)} for row in rows]
        return self._made(rows, "made" if rows else "refused", told or ("" if rows else "it stated nothing"), calls)

    def _made(self, rows: list[dict[str, Any]], outcome: str, reason: str, calls: list[Any]) -> Made:
        return Made(rows, outcome, reason, [{"number": n, **call.fields()} for n, call in enumerate(calls, start=1)])


def _without_model(
    spec: GenerateSpec, passages: list[Passage], done: set[tuple[int, int]], link: Channel
) -> Iterator[tuple[Passage, Made]]:
    """In order: what was asked once in a document is not asked again. What is done already only counts as seen."""
    makers: dict[int, Callable[[Chunk], Iterable[dict[str, Any]]]] = {}
    for source, chunk in passages:
        link.check()
        is_done = (source.id, chunk.index) in done
        if source.id not in makers:
            makers = {source.id: _maker(spec, source)}  # a document after the other
        if is_done and spec.generator != extractive.NAME:
            continue
        rows = list(makers[source.id](chunk))
        if not is_done:
            yield (source, chunk), Made(rows, "made", "") if rows else Made([], "nothing", "nothing was found")


def _maker(spec: GenerateSpec, source: Source) -> Callable[[Chunk], Iterable[dict[str, Any]]]:
    """How the chunks of one document become rows."""
    if spec.generator == verbatim.NAME:
        return verbatim.rows_of
    found = elements.read(Path(source.elements_path))
    seen: Counter[str] = Counter()
    name = Path(source.name).stem
    return lambda chunk: extractive.rows_of(chunk, found, name, spec.wordings_per_fact, seen)


def _filed(row: dict[str, Any], source: Source, chunk: Chunk) -> dict[str, Any]:
    """A row with where it came from."""
    return {
        "document": source.id,
        "chunk": chunk.index,
        "page_start": chunk.page_start,
        "page_end": chunk.page_end,
        "section": chunk.section,
        "section_key": chunk.section_key,
        **row,
    }


def _tidied(out: Path) -> set[tuple[int, int]]:
    """The passages, by document and chunk, that an earlier attempt brought to an outcome. What it left of others when
    it was killed, a torn line or some of a passage's rows, is removed: they are made again."""
    lines = {name: list(read_journal(out / f"{name}.jsonl")) for name in JOURNALS}
    done = {(entry["document"], entry["chunk"]) for entry in lines["outcomes"]}
    for name, entries in lines.items():
        kept = (entry for entry in entries if (entry["document"], entry["chunk"]) in done)
        write_whole(out / f"{name}.jsonl", (f"{json.dumps(line, ensure_ascii=False)}\n".encode() for line in kept))
    return done
