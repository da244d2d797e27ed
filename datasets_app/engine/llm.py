"""The generator that asks a model, through LlamaIndex, for answers checked against a schema and against the text."""

import hashlib
import os
import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel, Field

from datasets_app.engine.chunks import Chunk
from datasets_app.engine.spec import KEY_VARIABLE, ModelSpec

NAME, VERSION = "llm", "llm-1"
FUZZY_SHARE = 0.9
ANSWER_TOKENS = 900
PROMPT = """You write training examples from a passage of a document.

Passage (from “{document}”, section “{section}”):
---
{text}
---

Write {pairs} facts that the passage states. For each fact give: {wordings} different questions that ask for it, each
understandable without the passage (name the thing that is meant); one answer in a full sentence; and the exact words of
the passage on which the answer rests. Use only what the passage says."""


class Refused(Exception):
    """The model's answer cannot be used; the message says why."""


class Pair(BaseModel):
    """One fact: several questions, one answer, the words it rests on."""

    questions: list[str] = Field(min_length=1, max_length=8)
    answer: str = Field(min_length=3, max_length=600)
    quote: str = Field(min_length=3, max_length=600)


class Pairs(BaseModel):
    """What the model returns for one passage."""

    facts: list[Pair] = Field(min_length=1, max_length=10)


def connect(spec: ModelSpec) -> Any:
    """The model behind an Ollama or OpenAI-compatible address."""
    key = os.environ.get(KEY_VARIABLE, "")
    if spec.provider == "ollama":
        from llama_index.llms.ollama import Ollama

        headers = {"Authorization": f"Bearer {key}"} if key else None
        return Ollama(
            model=spec.model,
            base_url=spec.base_url,
            request_timeout=spec.timeout_seconds,
            context_window=spec.context_window,
            temperature=spec.temperature,
            thinking=False,
            headers=headers,
        )
    from llama_index.llms.openai_like import OpenAILike

    return OpenAILike(
        model=spec.model,
        api_base=spec.base_url,
        api_key=key or "none",
        is_chat_model=True,
        is_function_calling_model=False,
        should_use_structured_outputs=True,
        context_window=spec.context_window,
        max_tokens=ANSWER_TOKENS,
        temperature=spec.temperature,
        timeout=spec.timeout_seconds,
        max_retries=0,
    )


def rows_of(model: Any, spec: ModelSpec, chunk: Chunk, document: str) -> Iterator[dict[str, Any]]:
    """Examples of one chunk; `Refused` when the model answered nothing usable, twice."""
    pairs = _ask(model, spec, chunk, document)
    refused: list[str] = []
    made = 0
    for pair in pairs.facts:
        place = find_quote(chunk.text, pair.quote)
        if place is None:
            refused.append("a quote does not stand in the passage")
            continue
        start, end = place
        fact = hashlib.sha256(f"{start}:{pair.answer}".encode()).hexdigest()[:16]
        for number, question in enumerate(dict.fromkeys(text.strip() for text in pair.questions)):
            if not question.endswith("?") and len(question) < 12:
                refused.append("a question is none")
                continue
            made += 1
            yield {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": pair.answer.strip()},
                ],
                "quote": chunk.text[start:end],
                "quote_start": start,
                "quote_end": end,
                "fact": fact,
                "wording": f"model/{number + 1}",
                "answer_key": "",
                "generator": NAME,
                "model": spec.model,
                "prompt_version": VERSION,
            }
    if not made:
        raise Refused("; ".join(dict.fromkeys(refused)) or "the model stated no fact")


def find_quote(text: str, quote: str) -> tuple[int, int] | None:
    """Where a quote stands: word for word but for space and case, else the closest run of words if it is close."""
    words = quote.split()
    if not words:
        return None
    if match := re.search(r"\s+".join(map(re.escape, words)), text, re.I):
        return match.span()
    spans = [match.span() for match in re.finditer(r"\S+", text)]
    best: tuple[float, tuple[int, int]] | None = None
    for first in range(max(0, len(spans) - len(words) + 1)):
        start, end = spans[first][0], spans[first + len(words) - 1][1]
        ratio = SequenceMatcher(None, text[start:end].lower(), " ".join(words).lower(), autojunk=False).ratio()
        if best is None or ratio > best[0]:
            best = ratio, (start, end)
    return best[1] if best and best[0] >= FUZZY_SHARE else None


def _ask(model: Any, spec: ModelSpec, chunk: Chunk, document: str) -> Pairs:
    """One structured call, tried twice: a cut or malformed answer often comes whole the second time."""
    from llama_index.core.prompts import PromptTemplate

    template = PromptTemplate(PROMPT)
    words = {
        "document": document,
        "section": " > ".join(chunk.section) or "–",
        "text": chunk.text,
        "pairs": spec.pairs_per_chunk,
        "wordings": spec.wordings,
    }
    for attempt in (1, 2):
        try:
            answer = model.structured_predict(Pairs, template, **words)
        except ValueError as error:  # pydantic's and the JSON decoder's
            if attempt == 2:
                raise Refused("the model's answer does not follow the schema") from error
        else:
            if isinstance(answer, Pairs):
                return answer
    raise Refused("the model's answer does not follow the schema")
