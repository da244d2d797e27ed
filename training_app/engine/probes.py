"""Task `prompts`: what a published model must read, text and tokens, and how a server's template says the same.

Also the questions that a GGUF and a served model are asked: from the sealed version, where there is one, and general.
"""

from dataclasses import dataclass
from typing import Any

from finetune_site.lib.channel import Channel
from training_app.engine.general import QUESTIONS
from training_app.engine.go_template import derive
from training_app.engine.prepare import check_base
from training_app.engine.rows import Message, read_rows
from training_app.engine.spec import PromptsSpec
from training_app.engine.template import load_tokenizer, render

COUNT = 8
MAX_TOKENS = 1024
# One of each kind of conversation that people have, and letters, spaces and signs that tokenizers cut differently.
CONVERSATIONS: tuple[tuple[str, list[Message]], ...] = (
    ("a question", [{"role": "user", "content": "What is the capital of France?"}]),
    (
        "a system message and a question",
        [
            {"role": "system", "content": "Answer in one word."},
            {"role": "user", "content": "Which planet do we live on?"},
        ],
    ),
    (
        "several turns",
        [
            {"role": "user", "content": "Name a colour."},
            {"role": "assistant", "content": "Blue."},
            {"role": "user", "content": "And another?"},
        ],
    ),
    (
        "signs, code and other scripts",
        [
            {
                "role": "user",
                "content": "Größe: 2026 mm – “naïve” 東京 🙂\n\n```python\nfor i in range(10):\n\tprint(i)\n```",
            }
        ],
    ),
)
TEXTS = (
    "In 2026  the pump, don't stop:\t3.5 kg",
    "Überprüfen Sie das Ventil №7 — 東京 🙂",
    "def f(x):\n    return x ** 2",
)


@dataclass(frozen=True)
class Asked:
    """A question as the model reads it."""

    question: str
    text: str
    ids: list[int]


def prompts(spec: PromptsSpec, channel: Channel) -> dict[str, Any]:
    """The four conversations as the trained template writes them with `system` as their default, with their number of
    tokens; texts with theirs; a Go template that says the same (empty where none is found), strings that end a turn.
    """
    check_base(spec.base_dir, spec.base_sha256, spec.chat_template_sha256)
    tokenizer = load_tokenizer(spec.base_dir)
    conversations: list[dict[str, Any]] = []
    for name, messages in CONVERSATIONS:
        whole = messages
        if spec.system and messages[0]["role"] != "system":
            whole = [{"role": "system", "content": spec.system}, *messages]
        try:
            text = render(tokenizer, whole, ask=True)
        except Exception as error:  # a template raises what it likes, TemplateError among others
            conversations.append({"name": name, "messages": messages, "refusal": str(error)[:200]})
            continue
        tokens = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        conversations.append({"name": name, "messages": messages, "text": text, "tokens": tokens})
    chosen = questions(tokenizer, spec.data_path, spec.data_sha256)
    return {
        "conversations": conversations,
        "texts": [{"text": text, "tokens": len(tokenizer(text)["input_ids"])} for text in TEXTS],
        "questions": [entry.question for entry in chosen],
        "answer_tokens": _longest_answer(tokenizer, spec),
        "template": derive(tokenizer),
        "leading": tokenizer.bos_token if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else "",
        "stop": _ends(tokenizer),
    }


def questions(tokenizer: Any, data_path: str = "", data_sha256: str = "") -> list[Asked]:
    """Eight questions: half of them the version's own, the rest general ones."""
    texts: list[list[Message]] = []
    if data_path:
        rows = [row for row in read_rows(data_path, data_sha256) if row.is_answered and row.kind == "chat"]
        rows.sort(key=lambda row: ("recall", "train", "validation").index(row.split))
        texts = [row.messages[:-1] for row in rows[: COUNT // 2]]
    texts += [[{"role": "user", "content": question}] for question, _ in QUESTIONS]
    found: list[Asked] = []
    for messages in texts:
        text = render(tokenizer, messages, ask=True)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(ids) <= MAX_TOKENS:
            found.append(Asked(messages[-1]["content"], text, ids))
    return found[:COUNT]


def _longest_answer(tokenizer: Any, spec: PromptsSpec) -> int:
    """Tokens of the longest answer that was taught."""
    rows = read_rows(spec.data_path, spec.data_sha256) if spec.data_path else []
    answers = sorted((row.messages[-1]["content"] for row in rows if row.is_answered), key=len)
    return len(tokenizer(answers[-1], add_special_tokens=False)["input_ids"]) if answers else 0


def _ends(tokenizer: Any) -> list[str]:
    from training_app.engine.answers import end_tokens

    return [str(tokenizer.convert_ids_to_tokens(token)) for token in end_tokens(tokenizer)]
