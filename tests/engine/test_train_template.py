"""Which tokens are trained: proved for every row, refused where it cannot be."""

from pathlib import Path

import pytest

from finetune_site.lib.channel import InputError
from tests.engine.tiny import CHAT_TEMPLATE, make_tiny_model
from training_app.engine.rows import Row
from training_app.engine.template import Tokens, load_tokenizer, render, tokenize_row

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": "A 4.2 bar pump – naïve?"},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "  Nothing.  "},
]


def trained_text(tokenizer, row: Tokens) -> str:
    return tokenizer.decode([token for token, trained in zip(row.ids, row.trained, strict=True) if trained])


def test_exactly_the_answers_and_their_ends_are_trained(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    row = tokenize_row(tokenizer, Row(1, "train", TALK, ""), 512)
    assert trained_text(tokenizer, row) == "A 4.2 bar pump – naïve?<|im_end|>  Nothing.  <|im_end|>"
    assert tokenizer.decode(row.ids) == render(tokenizer, TALK)


def test_a_template_that_trims_answers_trains_what_it_writes(tmp_path: Path) -> None:
    trimming = CHAT_TEMPLATE.replace("message['content'] +", "message['content'] | trim +")
    tokenizer = load_tokenizer(str(make_tiny_model(tmp_path / "m", chat_template=trimming)))
    row = tokenize_row(tokenizer, Row(1, "train", TALK, ""), 512)
    assert trained_text(tokenizer, row).endswith("<|im_end|>Nothing.<|im_end|>")


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m['content'] }}\n{% endfor %}", "does not end the answer with a special token"),
        (
            "{% for m in messages %}{{ m['role'] if loop.last else 'x' }}{{ m['content'] }}<|im_end|>{% endfor %}",
            "writes earlier turns differently",
        ),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
    ],
)
def test_a_mask_that_cannot_be_proved_is_refused(tmp_path: Path, template: str, reason: str) -> None:
    from training_app.engine.template import tokenize

    tokenizer = load_tokenizer(str(make_tiny_model(tmp_path / "m", chat_template=template)))
    with pytest.raises(InputError, match=reason) as refusal:
        tokenize(tokenizer, [Row(77, "train", TALK, "")], 512)
    assert "Row 77" in str(refusal.value)


def test_rows_that_teach_nothing_are_refused(tiny_model: Path) -> None:
    tokenizer = load_tokenizer(str(tiny_model))
    with pytest.raises(InputError, match="Row 3 has no assistant answer"):
        tokenize_row(tokenizer, Row(3, "train", TALK[:2], ""), 512)
    with pytest.raises(InputError, match=r"Row 4: its answer begins beyond max_length \(8 tokens\)"):
        tokenize_row(tokenizer, Row(4, "train", TALK[:3], ""), 8)
    assert tokenize_row(tokenizer, Row(5, "train", TALK, ""), 60).truncated


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    make_tiny_model(tmp_path / "m", chat_template=None)
    with pytest.raises(InputError, match="no chat template"):
        load_tokenizer(str(tmp_path / "m"))
