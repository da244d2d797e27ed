"""Splits that never leak, the same in every version, and a file that is the same for the same rows."""

import pyarrow.parquet

from datasets_app.engine.seal import assign_splits, write_parquet


def make_rows(sections=20, facts=4, wordings=5):
    return [
        {
            "kind": "chat",
            "document": "a.pdf",
            "section_key": f"s{section}",
            "fact": f"f{section}-{fact}",
            "wording": f"w{wording}",
            "messages": [
                {"role": "user", "content": f"Q {section} {fact} {wording}"},
                {"role": "assistant", "content": "A"},
            ],
        }
        for section in range(sections)
        for fact in range(facts)
        for wording in range(wordings)
    ]


def test_a_section_lies_on_one_side_and_a_recalled_fact_is_trained():
    rows = make_rows()
    splits = assign_splits(rows, validation_share=0.2)
    sides = {}
    for row, split in zip(rows, splits, strict=True):
        sides.setdefault(row["section_key"], set()).add("validation" if split == "validation" else "seen")
    assert all(len(side) == 1 for side in sides.values())
    trained = {row["fact"] for row, split in zip(rows, splits, strict=True) if split == "train"}
    recalled = [row["fact"] for row, split in zip(rows, splits, strict=True) if split == "recall"]
    assert set(recalled) == trained
    assert len(recalled) == len(set(recalled))


def test_the_next_version_splits_what_it_shares_in_the_same_way():
    rows = make_rows()
    before = dict(zip([str(row["messages"]) for row in rows], assign_splits(rows), strict=True))
    more = [*make_rows(sections=26), *rows[:0]]
    after = dict(zip([str(row["messages"]) for row in more], assign_splits(more), strict=True))
    assert all(after[key] == split for key, split in before.items())


def test_a_question_that_is_trained_is_never_asked():
    rows = make_rows(sections=1, facts=1, wordings=4)
    rows += [{**row, "fact": "another", "wording": f"x{number}"} for number, row in enumerate(rows)]
    splits = assign_splits(rows, validation_share=0)
    trained = {row["messages"][0]["content"] for row, split in zip(rows, splits, strict=True) if split == "train"}
    asked = {row["messages"][0]["content"] for row, split in zip(rows, splits, strict=True) if split == "recall"}
    assert not trained & asked


def test_few_wordings_are_all_trained_and_something_is_always_trained():
    assert set(assign_splits(make_rows(wordings=2), validation_share=0)) == {"train"}
    assert "train" in assign_splits(make_rows(sections=1, facts=1, wordings=1), validation_share=0.5)


def test_the_same_rows_give_the_same_file(tmp_path):
    rows = [
        {
            "example_id": 1,
            "text_id": 2,
            "split": "train",
            "kind": "chat",
            "messages": [{"role": "user", "content": "Q"}],
        }
    ]
    first, second = write_parquet(rows, tmp_path / "a"), write_parquet(rows, tmp_path / "b")
    assert first == second
    assert pyarrow.parquet.read_table(tmp_path / "a").to_pylist()[0]["messages"] == rows[0]["messages"]
