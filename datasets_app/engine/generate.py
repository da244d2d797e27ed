"""Make examples chunk by chunk. Every chunk gets a stated outcome; a stopped run goes on with the next chunk."""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets_app.engine import chunks, elements, extractive, verbatim
from datasets_app.engine.chunks import Chunk
from datasets_app.engine.spec import OUTCOMES, GenerateSpec, ModelSpec, Source
from finetune_site.lib.channel import Channel, InputError, read_journal, read_spec
from finetune_site.lib.files import write_whole

Maker = Callable[[Chunk], Iterator[dict[str, Any]]]


def run(spec: GenerateSpec, link: Channel) -> dict[str, Any]:
    """Append to `examples.jsonl` and `outcomes.jsonl`; one `chunk` event each."""
    out = Path(spec.out_dir)
    out.mkdir(parents=True, exist_ok=True)
    done = _tidied(out)
    sources = [read_spec(Source, fields) for fields in spec.documents]
    passages = {source.id: chunks.read(Path(source.chunks_path)) for source in sources}
    total = sum(map(len, passages.values()))
    link.emit("started", total=total, done=len(done))
    counts: Counter[str] = Counter()
    with (
        (out / "examples.jsonl").open("a", encoding="utf-8") as examples,
        (out / "outcomes.jsonl").open("a", encoding="utf-8") as outcomes,
    ):
        for source in sources:
            make = _maker(spec, source)
            for chunk in passages[source.id]:
                link.check()
                if (source.id, chunk.index) in done and spec.generator != extractive.NAME:
                    continue
                rows, outcome, reason = _try(make, chunk)
                if (source.id, chunk.index) in done:
                    continue  # made again only so that its questions count as seen
                for row in rows:
                    examples.write(json.dumps(_filed(row, source, chunk), ensure_ascii=False) + "\n")
                examples.flush()
                entry: dict[str, Any] = {
                    "document": source.id,
                    "chunk": chunk.index,
                    "outcome": outcome,
                    "made": len(rows),
                    "reason": reason,
                }
                outcomes.write(json.dumps(entry) + "\n")
                outcomes.flush()
                link.emit("chunk", **entry)
    for line in read_journal(out / "outcomes.jsonl"):
        counts[line["outcome"]] += 1
        counts["examples"] += line["made"]
    return {"chunks": total, **{name: counts[name] for name in (*OUTCOMES, "examples")}}


def _try(make: Maker, chunk: Chunk) -> tuple[list[dict[str, Any]], str, str]:
    """The rows of a chunk, its outcome and why. A model that fails on one chunk must not end the others."""
    from datasets_app.engine.llm import Refused

    try:
        rows = list(make(chunk))
    except Refused as error:
        return [], "refused", str(error)
    except InputError:
        raise
    except Exception as error:  # the client libraries raise many kinds for a server that is slow, gone or confused
        name = type(error).__name__
        return [], "timed out" if "timeout" in name.lower() else "failed", f"{name}: {error}"[:300]
    return (rows, "made", "") if rows else ([], "nothing", "nothing was found in the passage")


def _maker(spec: GenerateSpec, source: Source) -> Maker:
    """How the chunks of one document become rows."""
    if spec.generator == verbatim.NAME:
        return lambda chunk: iter(verbatim.rows_of(chunk))
    if spec.generator == extractive.NAME:
        found = elements.read(Path(source.elements_path))
        seen: Counter[str] = Counter()
        name = Path(source.name).stem
        return lambda chunk: extractive.rows_of(chunk, found, name, spec.wordings_per_fact, seen)
    from datasets_app.engine import llm

    model_spec = read_spec(ModelSpec, spec.llm)
    model = llm.connect(model_spec)
    return lambda chunk: llm.rows_of(model, model_spec, chunk, source.name)


def _filed(row: dict[str, Any], source: Source, chunk: Chunk) -> dict[str, Any]:
    """A row with where it came from."""
    return {
        "document": source.id,
        "chunk": chunk.index,
        "kind": "chat",
        "page_start": chunk.page_start,
        "page_end": chunk.page_end,
        "section": chunk.section,
        "section_key": chunk.section_key,
        **row,
    }


def _tidied(out: Path) -> set[tuple[int, int]]:
    """The passages, by document and chunk, that an earlier attempt brought to an outcome. What it left of others when
    it was killed, a torn line or some of a passage's rows, is removed: they are made again."""
    outcomes = list(read_journal(out / "outcomes.jsonl"))
    done = {(entry["document"], entry["chunk"]) for entry in outcomes}
    rows = [row for row in read_journal(out / "examples.jsonl") if (row["document"], row["chunk"]) in done]
    for name, lines in (("outcomes", outcomes), ("examples", rows)):
        write_whole(out / f"{name}.jsonl", (f"{json.dumps(line, ensure_ascii=False)}\n".encode() for line in lines))
    return done
