"""Models behind an Ollama or OpenAI-compatible address, asked through LlamaIndex for answers that follow a schema.

Every call is told whole: what was asked, what came back, tokens and seconds. An answer that does not follow the schema
is asked for once more, with what is wrong about it.
"""

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from datasets_app.engine.spec import KEY_VARIABLE, ModelSpec

NAME = "llm"
LETTERS_A_TOKEN = 3  # of most languages it is more
BUSY_STATUS, BUSY_PAUSES = (429, 503), (1.0, 4.0)  # a server that loads a model or has no room asks for patience


class Refused(Exception):
    """The model's answer cannot be used; the message says why."""


@dataclass(frozen=True)
class Call:
    """One request: `seconds` until the answer was whole; tokens None where the server does not count. `problem`: why
    the answer could not be used, empty when it could."""

    prompt: str
    answer: str
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    problem: str = ""

    def fields(self) -> dict[str, Any]:
        return asdict(self)


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
            additional_kwargs={"num_predict": spec.answer_tokens},
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
        max_tokens=spec.answer_tokens,
        temperature=spec.temperature,
        timeout=spec.timeout_seconds,
        max_retries=0,
    )


def digest(model: Any, spec: ModelSpec) -> str:
    """Which weights Ollama has under the name at this moment; empty where nobody tells."""
    if spec.provider != "ollama":
        return ""
    try:
        found = {entry.model: entry.digest for entry in model.client.list().models}
    except Exception:  # what is wrong with the server, the first answer tells
        return ""
    return found.get(spec.model) or found.get(f"{spec.model}:latest") or ""


def ask(model: Any, spec: ModelSpec, schema: type[BaseModel], prompt: str, shorter: str, calls: list[Call]) -> Any:
    """The model's answer as the schema has it; every request is added to `calls`. An answer cut at the length limit is
    asked for again as `shorter` says, another one that does not follow the schema with what is wrong. `Refused` when
    the second does not either."""
    from llama_index.core.llms import ChatMessage

    room = LETTERS_A_TOKEN * (spec.context_window - spec.answer_tokens)
    if len(prompt) > room:
        raise Refused(
            f"passage and template are longer than the model's context of {spec.context_window} tokens; choose shorter "
            "passages, or ask the operator for a larger context"
        )
    messages = [ChatMessage(role="user", content=prompt)]
    for _ in range(2):
        call, is_cut = _call(model, spec, schema, messages, calls)
        try:
            found = schema.model_validate_json(call.answer)
        except ValidationError as error:
            problem = "the answer was cut at the length limit" if is_cut else _told(error)
            calls.append(Call(**{**call.fields(), "problem": problem}))
            wrong = f"Your answer cannot be used: {problem}. Send all of it again, as JSON that follows the schema."
            if is_cut or len(prompt + call.answer + wrong) > room:
                messages = [ChatMessage(role="user", content=shorter)]
            else:
                messages += [
                    ChatMessage(role="assistant", content=call.answer or "–"),
                    ChatMessage(role="user", content=wrong),
                ]
        else:
            calls.append(call)
            return found
    raise Refused(f"the model's answer does not follow the schema: {calls[-1].problem}")


def _call(
    model: Any, spec: ModelSpec, schema: type[BaseModel], messages: list[Any], calls: list[Call]
) -> tuple[Call, bool]:
    """One request, and whether its answer was cut at the length limit. Waits where a server says that it is busy. One
    that fails is added to `calls`."""
    prompt = "\n\n".join(message.content or "" for message in messages)
    form = schema.model_json_schema()
    if spec.provider == "ollama":
        wanted: dict[str, Any] = {"format": form}
    else:
        told = {"name": "answer", "schema": form, "strict": True}
        wanted = {"response_format": {"type": "json_schema", "json_schema": told}}
    for pause in (*BUSY_PAUSES, None):
        started = time.monotonic()
        try:
            reply = model.chat(messages, **wanted)
            break
        except Exception as error:
            if pause is None or getattr(error, "status_code", None) not in BUSY_STATUS:
                seconds = round(time.monotonic() - started, 3)
                calls.append(Call(prompt, "", None, None, seconds, type(error).__name__))
                raise
            time.sleep(pause)
    seconds = round(time.monotonic() - started, 3)
    raw = reply.raw if isinstance(reply.raw, dict) else reply.raw.model_dump()
    usage = raw.get("usage") or {}
    ended = raw.get("done_reason") or (raw.get("choices") or [{}])[0].get("finish_reason")
    tokens = usage.get("prompt_tokens"), usage.get("completion_tokens")
    return Call(prompt, reply.message.content or "", *tokens, seconds), ended == "length"


def _told(error: ValidationError) -> str:
    """The first thing that is wrong, in short and without the answer's own words."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return "it is no JSON"
    return (f"{place}: " if place else "") + first["msg"][:200]
