"""Files that people already have: each known format, and errors that name the line and say what to do."""

import io
import json

import pytest

from datasets_app.engine.formats import Row, RowError, read_rows, to_messages_line

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def read(text, format=""):
    return list(read_rows(io.StringIO(text), format))


@pytest.mark.parametrize(
    ("record", "messages"),
    [
        ({"messages": TURNS}, TURNS),
        ({"instruction": "Q", "input": "", "output": "A"}, TURNS),
        ({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]}, TURNS),
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
