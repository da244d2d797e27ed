"""Recipes: templates that are only filled in, answers that follow a schema, and the rows that come of them."""

import json

import pytest

from datasets_app.engine.chunks import Chunk
from datasets_app.engine.recipes import KINDS, PLACEHOLDERS, Recipe
from finetune_site.lib.channel import InputError

CHUNK = Chunk(3, "The Corrin hopper holds 540 litres. It is made of ash wood.", 6, 6, ["The Corrin hopper"], "key")
QUOTE = "The Corrin hopper holds 540 litres."
FIELDS, LABELS = ["capacity: in litres", "colour: of the paint"], ["storage", "drive"]
SETTINGS = {"extraction": {"fields": FIELDS}, "classification": {"labels": LABELS}}
ITEM = {"quotes": [QUOTE], "question": "How much does the Corrin hopper hold?", "answer": "It holds 540 litres."}
ANSWERS = {
    "qa": {"items": [{**ITEM, "questions": [ITEM["question"], "What does the hopper hold?"]}]},
    "reasoning": {"items": [{**ITEM, "reasoning": "It holds 540 litres, so two fillings are 1,080."}]},
    "conversation": {
        "items": [
            {
                "quotes": [QUOTE],
                "turns": [
                    {"user": ITEM["question"], "assistant": ITEM["answer"]},
                    {"user": "And of what is it made?", "assistant": "It is made of ash wood."},
                ],
            }
        ]
    },
    "summary": {"quotes": [QUOTE], "summary": "An ash hopper of 540 litres."},
    "extraction": {"field_1": "540 litres", "field_2": None},
    "classification": {"quotes": [QUOTE], "label": "storage"},
    "instruction": {"items": [{"instruction": "Describe the Corrin hopper in two plain sentences."}]},
    "paraphrase": {"items": [{"quotes": [QUOTE], "sentences": ["540 litres fit into the Corrin hopper."]}]},
    "preference": {"items": [{**ITEM, "good": ITEM["answer"], "worse": "It holds quite a lot."}]},
}


def rows(kind, answer=None, **settings):
    recipe = Recipe(kind, settings={**SETTINGS.get(kind, {}), **settings})
    return recipe.rows(recipe.schema().model_validate(answer or ANSWERS[kind]), CHUNK)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_makes_rows_that_rest_on_the_passage(kind):
    made, refused = rows(kind)
    assert made and not refused
    for row in made:
        assert row["kind"] == KINDS[kind].makes
        assert row["support"] == "verified", row["doubts"]
        assert CHUNK.text[row["quote_start"] : row["quote_end"]] == row["quote"]
        held = {"chat": "messages", "preference": "chosen", "text": "text"}[row["kind"]]
        assert row[held]
    assert len({(row["fact"], row["wording"]) for row in made}) == len(made)


def test_what_each_kind_teaches():
    assert [row["messages"][0]["content"] for row in rows("qa")[0]] == ANSWERS["qa"]["items"][0]["questions"]
    assert len({row["fact"] for row in rows("qa")[0]}) == 1
    assert rows("reasoning")[0][0]["messages"][1]["content"].endswith("\n\nIt holds 540 litres.")
    tagged = rows("reasoning", is_reasoning_tagged=True)[0][0]["messages"][1]["content"]
    assert tagged.startswith("<think>\nIt holds") and "</think>\n\nIt holds 540 litres." in tagged
    assert [turn["role"] for turn in rows("conversation")[0][0]["messages"]] == ["user", "assistant"] * 2
    assert CHUNK.text in rows("summary", instruction="Sum it up.")[0][0]["messages"][0]["content"]
    [extraction] = rows("extraction")[0]
    assert json.loads(extraction["messages"][1]["content"]) == {"capacity": "540 litres", "colour": None}
    [classified] = rows("classification")[0]
    assert classified["messages"][1]["content"] == classified["answer_key"] == "storage"
    assert rows("instruction")[0][0]["messages"][1]["content"] == CHUNK.text
    [pair] = rows("preference")[0]
    assert (pair["prompt"], pair["rejected"]) == (ITEM["question"], "It holds quite a lot.")


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("qa", {"questions": ["What does the passage say?"]}, "speaks of “the passage”"),
        ("qa", {"questions": ["Hm?"]}, "a question is none"),
        ("qa", {"questions": ["The Corrin hopper"]}, "a question is none"),
        ("qa", {"questions": ["It holds 540 litres?"]}, "only repeats its question"),
        ("qa", {"questions": ["How heavy is it then?"], "answer": "I'm sorry, I cannot tell."}, "is a refusal"),
        ("preference", {"good": "The same answer.", "worse": "the same answer."}, "both answers are the same"),
    ],
)
def test_what_teaches_nothing_is_refused_with_its_reason(kind, change, told):
    made, refused = rows(kind, {"items": [{**ANSWERS[kind]["items"][0], **change}]})
    assert made == [] and told in refused[0]


def test_a_value_that_the_passage_does_not_say_is_marked():
    [row] = rows("extraction", {"field_1": "600 litres", "field_2": "red"})[0]
    assert row["support"] == "unverified" and len(row["doubts"]) == 3
    [row] = rows("qa", {"items": [{**ITEM, "questions": [ITEM["question"]], "answer": "It holds 600 litres."}]})[0]
    assert row["doubts"] == ["The number 600 does not stand in the passage."]


def test_a_tag_is_one_of_the_tree():
    recipe = Recipe("qa", settings={"tags": ["drive / gearbox", "storage"]})
    assert "- drive / gearbox" in recipe.prompt(CHUNK, "manual.pdf")
    schema = json.dumps(recipe.schema().model_json_schema())
    assert '"drive / gearbox"' in schema
    item = {**ITEM, "questions": [ITEM["question"]]}
    with pytest.raises(ValueError, match="tag"):
        rows("qa", {"items": [{**item, "tag": "elsewhere"}]}, tags=recipe.chosen.tags)
    assert rows("qa", {"items": [{**item, "tag": "storage"}]}, tags=recipe.chosen.tags)[0][0]["tag"] == "storage"


def test_a_template_is_filled_in_and_nothing_else():
    hostile = "{passage} {passage.__class__} {{document}} %(section)s {% now %} {manner}"
    told = Recipe("qa", template=hostile, settings={"audience": "fitters", "language": "German"}).prompt(CHUNK, "m.pdf")
    assert told.startswith(f"{CHUNK.text} {{passage.__class__}}")
    assert "{m.pdf}" in told and "%(section)s {% now %}" in told and "Write for fitters." in told
    # What stands in a document is not filled in.
    odd = Chunk(0, "A {document} of {count}", 1, 1, [], "k")
    assert "A {document} of {count}" in Recipe("qa").prompt(odd, "m.pdf")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"template": "Write something."}, "must hold {passage}"),
        ({"template": "{passage} {pasage}"}, "names {pasage}, which means nothing"),
        ({"template": "{passage}" + "x" * 9000}, "at most 8,000 characters"),
        ({"settings": {"count": 0}}, "1 to 20"),
        ({"settings": {"size": 4}}, "has no setting size"),
        ({"kind": "poem"}, "is one of qa"),
        ({"kind": "extraction"}, "Name the fields"),
        ({"kind": "classification", "settings": {"labels": ["one"]}}, "at least two labels"),
        ({"settings": {"fields": ["a", "a: again"]}}, "Name each field once"),
        ({"settings": {"tags": ["x" * 101]}}, "Each tag"),
        ({"settings": {"count": "3"}}, "must be whole numbers"),
        ({"settings": {"count": True}}, "must be whole numbers"),
        ({"settings": {"labels": [1, 2]}}, "must be a list of texts"),
        ({"settings": {"fields": "abc"}}, "must be a list of texts"),
        ({"settings": {"tone": {}}}, "are texts of at most"),
        ({"settings": {"tone": "a\x00b"}}, "cannot be kept"),
        ({"settings": {"tags": [str(n) for n in range(201)]}}, "at most 200"),
    ],
)
def test_a_recipe_that_cannot_work_says_why(fields, told):
    with pytest.raises(InputError, match=told.replace("{", r"\{")):
        Recipe(**{"kind": "qa", **fields})


def test_every_name_that_may_stand_in_a_template_is_filled_in():
    template = " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    told = Recipe("extraction", template=template, settings={"fields": FIELDS, "labels": LABELS}).prompt(CHUNK, "m.pdf")
    assert "{" not in told
    assert Recipe("qa", settings={"count": 4}).prompt(CHUNK, "m", 2).count("Write 2 facts") == 1


def test_what_a_model_says_twice_is_there_once():
    for kind in ("reasoning", "conversation", "instruction", "preference"):
        answer = {"items": ANSWERS[kind]["items"] * 2}
        made, refused = rows(kind, answer)
        assert len(made) == 1 and refused == ["an example was there twice"]


def test_the_same_answer_in_another_passage_is_another_fact():
    recipe = Recipe("qa")
    answer = recipe.schema().model_validate(ANSWERS["qa"])
    facts = {recipe.rows(answer, Chunk(**{**vars(CHUNK), "index": index}))[0][0]["fact"] for index in range(3)}
    assert len(facts) == 3


def test_a_value_is_not_found_within_a_word():
    [row] = rows("extraction", {"field_1": "54", "field_2": None})[0]
    assert row["support"] == "unverified"
