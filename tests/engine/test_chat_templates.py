"""Masks of the chat formats in use: exactly the answers and the tokens that end them, in eight families.

The templates in `chat_templates/` are ours, written after the formats that the models' makers describe; the tokenizer
is a tiny one that knows the special tokens of the family.
"""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.engine.tiny import make_tokenizer
from tests.go_template import render_go
from training_app.engine.go_template import derive
from training_app.engine.rows import Row
from training_app.engine.template import render, tokenize_row

FOLDER = Path(__file__).parent / "chat_templates"
TALK = [
    {"role": "user", "content": "How wide is part 7?"},
    {"role": "assistant", "content": "Part 7 is 4.5 mm wide – naïve?"},
    {"role": "user", "content": "And part 8?"},
    {"role": "assistant", "content": "It is 9 mm\nwide."},
]
SYSTEM = {"role": "system", "content": "Be brief."}
FIRST, LAST = TALK[1]["content"], TALK[3]["content"]


@dataclass(frozen=True)
class Family:
    """`specials`: padding first. `lead`: what the template writes between the question and the answer's first word."""

    specials: tuple[str, ...]
    bos: str
    eos: str
    stop: str
    lead: str = ""
    learns_earlier: bool = True


FAMILIES = {
    "chatml": Family(("<|endoftext|>", "<|im_start|>", "<|im_end|>"), "<|endoftext|>", "<|im_end|>", "<|im_end|>"),
    "llama3": Family(
        ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|eot_id|>",
    ),
    "mistral": Family(("<unk>", "<s>", "</s>", "[INST]", "[/INST]"), "<s>", "</s>", "</s>", lead=" "),
    "gemma": Family(("<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"), "<bos>", "<eos>", "<end_of_turn>"),
    "phi3": Family(
        ("<unk>", "<s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        "<s>",
        "<|endoftext|>",
        "<|end|>",
    ),
    "zephyr": Family(("<unk>", "<s>", "</s>"), "<s>", "</s>", "</s>"),
    "deepseek": Family(
        ("<pad>", "<|begin of sentence|>", "<|end of sentence|>"),
        "<|begin of sentence|>",
        "<|end of sentence|>",
        "<|end of sentence|>",
        lead=" ",
    ),
    # Its template drops the (empty) thoughts of earlier answers: what stood there is not what the model would write.
    "qwen3": Family(
        ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"),
        "<|endoftext|>",
        "<|im_end|>",
        "<|im_end|>",
        learns_earlier=False,
    ),
}


@pytest.fixture(params=sorted(FAMILIES))
def family(request):
    return request.param


@pytest.fixture
def tokenizer(family):
    kind = FAMILIES[family]
    template = (FOLDER / f"{family}.jinja").read_text().rstrip("\n")
    return make_tokenizer(chat_template=template, specials=list(kind.specials), bos=kind.bos, eos=kind.eos)


def learnt(tokenizer, messages) -> tuple[str, int]:
    """The trained text of a conversation and how many answers are only read."""
    row = tokenize_row(tokenizer, Row(1, "train", messages, ""), 512)
    assert tokenizer.decode(row.ids) == render(tokenizer, messages)
    ids = [token for token, trained in zip(row.ids, row.trained, strict=True) if trained]
    return tokenizer.decode(ids), row.skipped_answers


def test_one_answer(family, tokenizer):
    kind = FAMILIES[family]
    wanted = kind.lead + FIRST + kind.stop
    assert learnt(tokenizer, TALK[:2]) == (wanted, 0)
    assert learnt(tokenizer, [SYSTEM, *TALK[:2]]) == (wanted, 0)


def test_a_conversation(family, tokenizer):
    kind = FAMILIES[family]
    first, last = (kind.lead + content + kind.stop for content in (FIRST, LAST))
    wanted = (first + last, 0) if kind.learns_earlier else (last, 1)
    assert learnt(tokenizer, TALK) == wanted
    assert learnt(tokenizer, [SYSTEM, *TALK]) == wanted


def test_what_is_asked_is_what_was_trained(family, tokenizer):
    """The prompt of an evaluation or a chat is, token for token, what stood before the trained answer."""
    row = tokenize_row(tokenizer, Row(1, "train", TALK[:2], ""), 512)
    asked = tokenizer(render(tokenizer, TALK[:1], ask=True), add_special_tokens=False)["input_ids"]
    assert row.ids[: row.trained.index(True)] == asked


def test_a_server_that_wants_gos_language_gets_the_same_template(family, tokenizer):
    """Its Go twin writes every conversation alike, but for the token before all texts, which the server puts there."""
    twin = derive(tokenizer)
    for talk in ([TALK[0]], TALK[:3], [SYSTEM, TALK[0]], [SYSTEM, *TALK[:3]], [*TALK, TALK[0]]):
        system = "\n\n".join(message["content"] for message in talk if message["role"] == "system")
        named = [{"Role": message["role"], "Content": message["content"]} for message in talk]
        written = render(tokenizer, talk, ask=True)
        said = render_go(twin, {"System": system, "Messages": named})
        assert said in (written, written.removeprefix(str(tokenizer.bos_token)))


def test_a_template_that_cannot_be_taken_apart_has_no_twin():
    lengths = "{% for m in messages %}{{ m['content'] | length }}<|im_end|>{% endfor %}"
    assert derive(make_tokenizer(chat_template=lengths)) == ""
    assert derive(make_tokenizer(chat_template="{{ raise_exception('no') }}")) == ""
