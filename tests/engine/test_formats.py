"""Files that people already have: each known format, and errors that name the line and say what to do."""

import io
import json

import pytest

from datasets_app.engine import exporting
from datasets_app.engine.formats import Row, RowError, read_rows, to_messages_line

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
BEFORE = [{"role": "user", "content": "Before?"}, {"role": "assistant", "content": "Then."}]
LED = [{"role": "system", "content": "S"}, *TURNS]


def read(text, format=""):
    return list(read_rows(io.StringIO(text), format))


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"messages": TURNS}, TURNS),
        ({"instruction": "Q", "input": "", "output": "A"}, TURNS),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, TURNS),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "S"}, LED),
        ({"instruction": "Q", "output": "A", "system": "S"}, LED),
        ({"instruction": "Q", "output": "A", "history": [["Before?", "Then."]]}, [*BEFORE, *TURNS]),
        ({"prompt": "Q", "completion": "A"}, TURNS),
        ({"prompt": [*BEFORE, TURNS[0]], "completion": TURNS[1:]}, [*BEFORE, *TURNS]),
        ({"prompt": "Q", "completion": "A", "label": True}, TURNS),
    ],
)
def test_each_format_is_recognised_line_by_line_and_as_an_array(record, messages):
    for text in (json.dumps(record) + "\n", json.dumps([record])):
        [row] = read(text)
        assert isinstance(row, Row)
        assert row.messages == messages


def test_a_preference_pair_keeps_its_three_texts():
    [row] = read('{"prompt": "P", "chosen": "a", "rejected": "b"}')
    assert (row.kind, row.prompt, row.chosen, row.rejected) == ("preference", "P", "a", "b")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not JSON"),
        ("[1]\n", "not a JSON object"),
        ('{"a": 1}', "no known format"),
        ('{"messages": []}', "empty"),
        ('{"messages": [{"role": "user", "content": "Q"}]}', "must alternate"),
        ('{"messages": [{"role": "robot", "content": "Q"}]}', "one of assistant, system, user"),
        ('{"instruction": "Q", "output": " "}', "missing or empty"),
        ('{"prompt": "P", "chosen": "a", "rejected": "a"}', "same text"),
        ('{"chosen": "a", "rejected": "b"}', "must be conversations that begin alike"),
        ('{"prompt": [{}, {}], "chosen": "a", "rejected": "b"}', "has 2 turns"),
        ('{"prompt": "P", "completion": "a", "label": 1}', "must be true"),
        ('{"prompt": "P", "completion": "a", "label": false}', "A bad answer alone"),
        ('{"instruction": "Q", "output": "A", "history": ["x"]}', "a list of pairs"),
    ],
)
def test_an_error_says_what_is_wrong(line, words):
    [row] = read(line)
    assert isinstance(row, RowError)
    assert words in row.message


def test_errors_name_their_line_and_the_rest_is_read():
    good = to_messages_line(TURNS)
    found = read(good + "broken\n\n" + good)
    assert [(row.line, isinstance(row, RowError)) for row in found] == [(1, False), (2, True), (4, False)]


def test_in_an_array_errors_name_the_line_where_the_entry_begins():
    found = read('[\n{"instruction": "Q", "output": "A"},\n{"instruction": "Q"}\n]')
    assert [(row.line, isinstance(row, RowError)) for row in found] == [(2, False), (3, True)]


def test_good_and_bad_answers_of_a_file_make_pairs():
    lines = [("P", "good", True), ("O", "other", True), ("P", "bad", False), ("P", "worse", False), ("P", "best", True)]
    text = "".join(json.dumps({"prompt": p, "completion": c, "label": label}) + "\n" for p, c, label in lines)
    found = read(text)
    assert [(row.line, row.kind, row.chosen, row.rejected) for row in found] == [
        (3, "preference", "good", "bad"), (5, "preference", "best", "worse"), (2, "chat", "", ""),
    ]  # fmt: skip


def test_pairs_of_conversations_that_begin_alike():
    chosen, rejected = [TURNS[0], TURNS[1]], [TURNS[0], {"role": "assistant", "content": "B"}]
    for record in ({"chosen": chosen, "rejected": rejected}, {"prompt": [TURNS[0]], "chosen": chosen, "rejected": "B"}):
        [row] = read(json.dumps(record))
        assert (row.kind, row.prompt, row.chosen, row.rejected) == ("preference", "Q", "A", "B")


def sealed(kind, **content):
    usual = dict.fromkeys(("messages", "prompt", "chosen", "rejected", "text", *exporting.PROVENANCE))
    return {**usual, "kind": kind, "example_id": 7, "page_start": 3, "quote": "words", **content}


ROWS = [
    sealed("chat", messages=TURNS),
    sealed("chat", messages=[LED[0], *BEFORE, *TURNS]),
    sealed("preference", prompt="P", chosen="a", rejected="b"),
    sealed("text", text="Some words."),
]


@pytest.mark.parametrize("key", exporting.EXPORTS)
@pytest.mark.parametrize("has_provenance", [False, True])
def test_what_is_exported_is_read_again_as_it_was(key, has_provenance):
    export = exporting.EXPORTS[key]
    lines = list(exporting.lines(key, ROWS, has_provenance=has_provenance))
    assert all(("metadata" in json.loads(line)) is has_provenance for line in lines)
    again = [row.content for row in read("".join(lines), export.key)]
    held = [row for row in ROWS if row["kind"] in export.kinds]
    if key == "kto":  # which holds single questions alone
        held = [row for row in held if row["kind"] == "preference" or len(row["messages"]) == 2]
    wanted = [
        {name: row[name] for name in ("messages", "prompt", "chosen", "rejected", "text") if row[name] is not None}
        for row in held
    ]
    assert sorted(again, key=json.dumps) == sorted(wanted, key=json.dumps)
    if has_provenance:
        assert json.loads(lines[0])["metadata"] == {"example_id": 7, "page_start": 3, "quote": "words"}


def test_what_a_format_cannot_hold_is_counted():
    kinds = {"chat": 4, "preference": 2, "text": 0}
    assert exporting.left_behind("alpaca", kinds) == {"preference": 2}
    assert exporting.left_behind("text", kinds) == {"chat": 4, "preference": 2}
    told = json.loads(exporting.dataset_info("mill", {"alpaca": "a.jsonl", "kto": "k.jsonl"}))
    assert told == {"mill_alpaca": {"file_name": "a.jsonl", **exporting.EXPORTS["alpaca"].columns}}


def test_what_trl_makes_of_pairs_is_read_as_these_pairs():
    """TRL's own functions: pairs taken apart for KTO, and prompts taken out of conversations that begin alike."""
    from datasets import Dataset
    from trl.data_utils import extract_prompt, unpair_preference_dataset

    pairs = [{"prompt": f"P{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(5)]
    apart = unpair_preference_dataset(Dataset.from_list(pairs))
    found = read("".join(json.dumps(row) + "\n" for row in apart))
    assert [row.content for row in found] == pairs
    turns = [{"role": "user", "content": "Q"}]
    alike = {name: [*turns, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    for record in (alike, extract_prompt(dict(alike))):
        [row] = read(json.dumps(record))
        assert row.content == {"prompt": "Q", "chosen": "chosen", "rejected": "rejected"}
