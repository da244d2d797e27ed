"""Quotes and numbers held against their passage: what stands there is found, what does not is marked."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_app.engine.evidence import CLOSE, EXACT, NONE, UNVERIFIED, VERIFIED, find, numbers, weigh

PASSAGE = "The gearbox takes 23 litres of Lorvan 150. Change it every 1,400 hours, and at 84.50 degrees stop at once."


@pytest.mark.parametrize(
    ("quote", "match", "found"),
    [
        ("Lorvan  150", EXACT, "Lorvan 150"),
        ("lorvan 150", EXACT, "Lorvan 150"),
        ("The gear box takes 23 litres of Lorvan 150.", CLOSE, None),
        ("the gearbox take 23 litres of Lorvan 150", CLOSE, "The gearbox takes 23 litres of Lorvan 150."),
        ("The gearbox takes 24 litres of Lorvan 150.", NONE, None),  # near in letters, far in fact
        ("the oil type is Lorvan 150", NONE, None),
        ("nowhere", NONE, None),
        ("", NONE, None),
    ],
)
def test_a_quote_is_found_word_for_word_or_nearly_so(quote, match, found):
    span = find(PASSAGE, quote)
    assert span.match == match
    if match != NONE:
        assert PASSAGE[span.start : span.end] == span.quote
    if found:
        assert span.quote == found


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.text(max_size=120))
def test_what_is_verified_stands_in_the_passage(passage, quote):
    span = find(passage, quote)
    if span.match == NONE:
        assert (span.start, span.end) == (None, None)
    else:
        assert passage[span.start : span.end] == span.quote
    if span.match == EXACT:
        assert span.quote.lower().split() == quote.lower().split()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_words_of_the_passage_are_always_found(data):
    passage = data.draw(st.lists(st.sampled_from(PASSAGE.split()), min_size=3, max_size=60))
    first = data.draw(st.integers(0, len(passage) - 1))
    last = data.draw(st.integers(first + 1, len(passage)))
    assert find("  ".join(passage), " ".join(passage[first:last])).match == EXACT


def test_fifty_planted_quotes_are_all_marked():
    chance = random.Random(7)
    words = PASSAGE.split()
    planted = []
    for number in range(50):
        said = words[:]
        chance.shuffle(said)
        planted.append(" ".join([*said[: 6 + number % 5], f"by {number + 200} percent"]))
    for quote in planted:
        found = weigh(PASSAGE, [quote], "It takes 23 litres.")
        assert found.support == UNVERIFIED and quote in found.doubts[0]


@pytest.mark.parametrize(
    ("answer", "question", "doubts"),
    [
        ("It takes 23 litres.", "", 0),
        ("It takes 32 litres.", "", 1),
        ("It takes 32 litres.", "Does it take 32 litres?", 0),
        ("Every 1400 hours.", "", 0),
        ("Every 1.400 hours.", "", 0),
        ("At 84.5 degrees.", "", 0),
        ("At 84,5 degrees.", "", 0),
        ("1. Stop it.\n2. Wait for 23 seconds.", "", 0),
        ("7 and 8 and 7.", "", 2),
    ],
)
def test_a_number_that_the_passage_does_not_say_is_marked(answer, question, doubts):
    found = weigh(PASSAGE, ["Lorvan 150"], answer, question)
    assert len(found.doubts) == doubts, found.doubts
    assert found.support == (UNVERIFIED if doubts else VERIFIED)


def test_without_a_quote_nothing_is_verified():
    assert weigh(PASSAGE, [], "It takes 23 litres.").support == UNVERIFIED
    assert weigh(PASSAGE, ["Lorvan 150", "every 1,400 hours"], "").fields()["quote"] == "Lorvan 150"


def test_numbers_are_written_alike():
    assert numbers("1,430.5 and 1 430 000 and 3,5 and 0.50") == ["1430.5", "1430000", "3.5", "0.5"]
    assert numbers("In 2019 23 people; 10 20 30") == ["2019", "23", "10", "20", "30"]
