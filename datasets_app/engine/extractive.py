"""The generator that needs no model: the facts of each chunk become questions in several wordings."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from datasets_app.engine import facts
from datasets_app.engine.chunks import Chunk
from datasets_app.engine.elements import Element
from datasets_app.engine.evidence import at

NAME, VERSION = "extractive", "extractive-2"


def rows_of(
    chunk: Chunk, elements: list[Element], document: str, count: int, seen: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Examples of one chunk. `seen` counts questions over the whole document: one that would come again with another
    answer is left out, since it could not be answered without its source."""
    by_index = {element.index: element for element in elements}
    members = [by_index[index] for index, _, _ in chunk.spans]
    starts = {index: start for index, start, _ in chunk.spans}
    for fact in facts.find(members, document, count):
        place = fact.element.text.find(fact.quote)
        if place < 0:
            continue
        start = starts[fact.element.index] + place
        key = hashlib.sha256(fact.name.encode()).hexdigest()[:16]
        for wording, question in fact.questions.items():
            if seen[question.lower()]:
                continue
            seen[question.lower()] += 1
            yield {
                "messages": [{"role": "user", "content": question}, {"role": "assistant", "content": fact.answer}],
                "kind": "chat",
                **at(fact.quote, start).fields(),
                "fact": key,
                "wording": f"{fact.shape}/{wording}",
                "answer_key": fact.key,
                "generator": NAME,
                "model": "",
                "prompt_version": VERSION,
            }
