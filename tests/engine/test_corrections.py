"""A correction finds its piece in another reading of the same file, or says that it did not."""

from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_app.engine.corrections import Correction, find
from datasets_app.engine.elements import Element


def piece(text, page=1, kind="text", box=None):
    return Element(0, kind, text, page=page, box=box)


def test_the_same_words_at_the_same_place_come_first():
    read = [piece("a b", 1), piece("a b", 2), piece("a b", 2)]
    wanted = [Correction(1, 2, "a b", occurrence=1), Correction(2, 1, "a b")]
    assert find(read, wanted) == {1: 2, 2: 0}


def test_what_moved_to_another_page_is_found_if_it_stands_there_once():
    assert find([piece("a b", 3)], [Correction(1, 2, "a b")]) == {1: 0}
    assert find([piece("a b", 3), piece("a b", 4)], [Correction(1, 2, "a b")]) == {}


def test_words_that_were_recognised_a_little_otherwise_are_found_by_their_place():
    box, text = [0.1, 0.1, 0.9, 0.2], "The gearbox weighs forty kilograms"
    read = [piece("Another line of words that stand here", box=[0.1, 0.5, 0.9, 0.6])]
    read.append(piece("Tne gearb0x weighs f0rty k1lograms", box=[0.1, 0.11, 0.9, 0.2]))
    assert find(read, [Correction(1, 1, text, box=box)]) == {1: 1}
    assert find(read[:1], [Correction(1, 1, text, box=box)]) == {}


def test_no_piece_is_taken_twice():
    assert len(find([piece("a b c d")], [Correction(1, 1, "a b c d"), Correction(2, 1, "a b c e")])) == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=12), st.data())
def test_the_same_reading_gives_each_correction_its_own_piece_back(pieces, data):
    read = [piece(text * 5, page) for text, page in sorted(pieces, key=lambda each: each[1])]
    positions = data.draw(st.sets(st.integers(0, len(read) - 1)))
    wanted = [
        Correction(
            at, read[at].page, read[at].text,
            occurrence=sum(other.page == read[at].page and other.text == read[at].text for other in read[:at]),
        )
        for at in positions
    ]  # fmt: skip
    assert find(read, wanted) == {at: at for at in positions}


def test_a_table_is_written_as_rows():
    table = Element(0, "table", "a | b", html="<table><tr><td>a</td><td>b</td></tr></table>")
    made = Correction(1, None, "a | b", new_text="a | b\nc | <d>").applied_to(table)
    assert made.html == "<table><tr><td>a</td><td>b</td></tr><tr><td>c</td><td>&lt;d&gt;</td></tr></table>"
    assert Correction(1, None, "a | b", new_kind="text").applied_to(table).html is None
