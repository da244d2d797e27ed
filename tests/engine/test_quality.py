"""What is found in examples without a model; and nothing alike, and no section, stands on both sides of a split."""

import json
import random
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_app.engine import alike, quality, seal
from finetune_site.lib.process import Engine

QUESTION = "How many litres of oil does the Brannick gearbox of the mill take at the first filling?"


def examine(*pairs, groups=None, **options):
    """The findings of questions with their answers."""
    lines = [
        {
            "id": number + 1,
            "text_id": 100 + number,
            "group": groups[number] if groups else "one",
            "content": {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]},
        }
        for number, (q, a) in enumerate(pairs)
    ]
    usual = {"max_tokens": 1024, "finds_names": False, "tell": lambda done: None, **options}
    return [(line["findings"], line["cluster"]) for line in quality.examine(list(quality.look(lines)), **usual)]


@pytest.mark.parametrize(
    ("one", "other", "is_alike"),
    [
        (QUESTION, QUESTION.lower(), True),
        (QUESTION, QUESTION.replace("?", " ?!"), True),
        (QUESTION, QUESTION.replace("at the first filling", "at its first filling"), False),
        (QUESTION + " Please tell.", QUESTION, True),
        (QUESTION + " In part 3?", QUESTION + " In part 4?", False),  # a number makes another question
        (QUESTION, "How often is the oil of the Brannick gearbox changed?", False),
        ("Oil?", "oil", True),
        ("Oil?", "Water?", False),
        ("", "Water?", False),
    ],
)
def test_what_is_alike(one, other, is_alike):
    assert (alike.groups([one, other]) == [0, 0]) is is_alike


def test_of_many_texts_every_alike_pair_is_found():
    chance = random.Random(3)
    words = [f"word{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(300)]
    texts, wanted = [], []
    for number in range(3000):
        if number % 10 == 9:
            source = chance.randrange(number)
            said = texts[source].split()
            said[0] = "changed"  # 3 of 58 runs are others
            texts.append(" ".join(said))
            wanted.append(wanted[source])
        else:
            texts.append(" ".join(chance.choice(words) for _ in range(30)))
            wanted.append(number)
    assert alike.groups(texts) == wanted


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 30), st.integers(0, 2)), max_size=60), st.floats(0.05, 0.5))
def test_no_section_and_nothing_alike_is_trained_and_asked(made, share):
    endings = ("", " Please tell.", " I wonder.")
    rows = [
        {
            "document": "d",
            "section_key": f"s{section}" if section < 7 else "",
            "fact": f"f{topic}",
            "wording": f"{section}/{number}",
            "kind": "chat",
            "messages": [
                {
                    "role": "user",
                    "content": f"What does the instrument called {chr(97 + topic % 26) * 5} measure in the great hall "
                    f"of the observatory above the harbour at {chr(97 + topic // 26) * 5}?{endings[ending]}",
                },
                {"role": "assistant", "content": "Wind."},
            ],
        }
        for number, (section, topic, ending) in enumerate(made)
    ]
    splits = seal.assign_splits(rows, validation_share=share, recall_share=0)
    sides = defaultdict(set)
    places = alike.groups(seal._question(row) for row in rows)
    for row, split, place in zip(rows, splits, places, strict=True):
        sides["alike", place].add(split)
        if row["section_key"]:
            sides["section", row["section_key"]].add(split)
    assert all(len(found) == 1 for found in sides.values())


def test_what_is_the_same_alike_or_contradicts():
    told = examine(
        (QUESTION, "It takes 23 litres."),
        (QUESTION, "It takes 23 litres."),
        (QUESTION + " Please tell.", "It takes 23 litres."),
        (QUESTION, "It takes 32 litres."),
        ("What colour is the hopper?", "Grey."),
        groups=["one", "one", "two", "one", "one"],
    )
    assert told == [
        (["contradicts", "straddles"], 1),
        (["same", "contradicts", "straddles"], 1),
        (["alike", "straddles"], 1),
        (["alike", "contradicts", "straddles"], 1),
        ([], 0),
    ]


@pytest.mark.parametrize(
    ("question", "answer", "finding"),
    [
        ("How heavy is it?", "I'm sorry, I cannot say.", "refuses"),
        ("How heavy is it?", "That is not mentioned in the text.", "refuses"),
        ("What does the passage say of the pump?", "It is heavy.", "not alone"),
        ("Whom do I ask?", "Write to ada@example.org.", "personal"),
        ("How heavy is it?", "x" * 5000, "long"),
        ("How heavy is it?", "?", "short"),
    ],
)
def test_what_is_found_in_one_example(question, answer, finding):
    assert examine((question, answer)) == [([finding], 0)]
    assert examine(("Summarise this text: " + "The passage is long. " * 30, "It is long."))[0][0] == []


def test_another_language_than_most_is_told():
    german = "Wie viele Liter Öl werden für das Getriebe der großen Mühle im Frühjahr gebraucht, wenn es kalt ist?"
    english = [(f"{QUESTION} Question {name}", "It takes some litres, as the manual says.") for name in "abcdef"]
    found = examine(*english, (german, "Es werden dreiundzwanzig Liter gebraucht."))
    assert "language" in found[-1][0] and all("language" not in told for told, _ in found[:-1])


def test_names_are_looked_for_on_a_wish():
    pair = ("Who built the mill in the valley?", "It was built by Amelia Brannick in London.")
    assert examine(pair) == [([], 0)]
    assert examine(pair, finds_names=True) == [(["names"], 0)]


def test_the_task_writes_a_line_for_every_example(tmp_path):
    lines = [
        {"id": 7, "text_id": 70, "group": "a", "content": {"text": "Some text that stands alone."}},
        {"id": 8, "text_id": 80, "group": "b", "content": {"prompt": "Which?", "chosen": "This.", "rejected": "That."}},
    ]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    spec = {"examples_path": str(tmp_path / "examples.jsonl"), "out_dir": str(tmp_path)}
    (tmp_path / "spec.json").write_text(json.dumps(spec))
    events = []
    arguments = ["check", str(tmp_path / "spec.json")]
    with Engine("datasets_app.engine", arguments, log_path=tmp_path / "log") as engine:
        assert engine.run(events.append, lambda: False).returncode == 0
    found = [json.loads(line) for line in (tmp_path / "findings.jsonl").read_text().splitlines()]
    assert [line["id"] for line in found] == [7, 8] and found[0]["findings"] == []
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["examples"] == 2 and set(result["counts"]) == set(quality.FINDINGS)


def test_a_section_that_is_named_can_be_asked_about():
    assert examine(("What does the section “The brake” say?", "It stops the mill.")) == [([], 0)]
    assert examine(("What does the section say?", "It stops the mill.")) == [(["not alone"], 0)]


def seal_row(document, section, question, system=""):
    led = [{"role": "system", "content": system}] if system else []
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "Yes."}]
    key = {"document": document, "section_key": section, "fact": question, "wording": "w", "kind": "chat"}
    return {**key, "messages": [*led, *turns]}


def letters(number):
    return "".join(chr(97 + number // 26**place % 26) for place in range(4))


def test_versions_of_one_document_are_still_trained():
    rows = [
        seal_row(f"edition {edition}", f"s{edition}/{section}", f"What is said of the {letters(section)} of the mill?")
        for edition in range(20)
        for section in range(60)
    ]
    splits = seal.assign_splits(rows, validation_share=0.1, recall_share=0)
    assert 0.02 < splits.count("validation") / len(rows) < 0.3


def test_a_system_message_that_all_share_joins_nothing():
    rows = [seal_row("d", f"s{n}", f"What is the {letters(n)} for?", "You are the mill's helper.") for n in range(200)]
    splits = seal.assign_splits(rows, validation_share=0.1, recall_share=0)
    assert 5 < splits.count("validation") < 40
