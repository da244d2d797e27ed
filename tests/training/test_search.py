"""Search: what is found, by whom, and what is asked of Postgres."""

import pytest
from django.contrib.postgres.search import SearchVector
from django.db import connection
from django.urls import reverse

from datasets_app.models import Chunk, Document, ExampleText
from datasets_app.services import datasets, examples
from finetune_site.projects.services import create_project
from training_app import finding
from training_app.models import Run

pytestmark = pytest.mark.django_db


def write(dataset, actor, question, answer):
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return examples.write_example(actor=actor, dataset=dataset, content={"messages": turns})


def passage(project, actor, name, text):
    document = Document.objects.create(
        project=project, name=name, sha256=f"{Document.objects.count():064}", size=1, media_type="text/plain",
        uploaded_by=actor,
    )  # fmt: skip
    return Chunk.objects.create(document=document, index=0, text=text, section=["Drive"], page_start=3)


def found(client_of, user, asked) -> dict[str, list[str]]:
    answer = client_of(user).get(reverse("search"), {"q": asked})
    assert answer.status_code == 200
    return {group.title: [hit.name for hit in group.hits] for group in answer.context["groups"]}


@pytest.fixture
def filled(project, trainer, stranger, version, base):
    passage(project, trainer, "manual.txt", "The gearbox of the machine was made in Norvald.")
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Gearbox facts")
    example = write(dataset, trainer, "Who built the gearbox?", "Norvald Works.")
    Run.objects.create(
        project=project, name="Gearbox run", version=version, base=base, method="lora", preset="balanced", config={},
        created_by=trainer,
    )  # fmt: skip
    other = create_project(actor=stranger, name="Elsewhere")
    passage(other, stranger, "gearbox of others.txt", "Their gearbox.")
    write(datasets.create_dataset(actor=stranger, project=other, name="Their gearbox"), stranger, "A gearbox?", "Yes.")
    return example


def test_everything_that_has_the_words_is_found_by_their_beginnings(client_of, filled, viewer, operator):
    mine = {
        "Passages": ["manual.txt, page 3"],
        "Datasets": ["Gearbox facts"],
        "Examples": [str(filled)],
        "Runs": ["Gearbox run"],
    }
    assert found(client_of, viewer, "GEARB") == mine
    assert found(client_of, viewer, "norvald works") == {"Examples": [str(filled)]}
    assert found(client_of, viewer, "manual") == {"Documents": ["manual.txt"]}
    assert "gearbox of others.txt" in found(client_of, operator, "gearbox")["Documents"]


def test_a_text_that_was_edited_away_is_not_found(client_of, filled, viewer, trainer):
    content = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Nobody."}]}
    examples.edit_example(actor=trainer, example=filled, content=content)
    assert "Examples" not in found(client_of, viewer, "norvald works")
    assert found(client_of, viewer, "nobody") == {"Examples": [str(filled)]}


@pytest.mark.parametrize("asked", ["' | !(", "a" * 5000, "a & b | c:*", "\x00", "%%%", "<b>x</b>", "gear " * 900])
def test_whatever_is_typed_gets_a_page(asked, client_of, filled, viewer):
    answer = client_of(viewer).get(reverse("search"), {"q": asked})
    assert answer.status_code == 200 and b"<b>x" not in answer.content


def test_what_was_found_is_marked_and_nothing_of_it_is_markup(client_of, filled, viewer, trainer):
    write(filled.dataset, trainer, "What is <b>gear</b>?", "x" * 400 + " A wheel with teeth.")
    page = client_of(viewer).get(reverse("search"), {"q": "gear"}).content.decode()
    assert "&lt;b&gt;<mark>gear</mark>&lt;/b&gt;" in page and "…" in page
    assert "Type some words" in client_of(viewer).get(reverse("search")).content.decode()
    assert "Nothing has all these words" in client_of(viewer).get(reverse("search"), {"q": "zebra"}).content.decode()


@pytest.mark.parametrize(
    ("model", "field", "index"), [(Chunk, "text", "chunk_words"), (ExampleText, "search", "example_words")]
)
def test_many_texts_are_found_through_an_index(model, field, index):
    rows = model.objects.annotate(words=SearchVector(field, config="simple")).filter(words=finding.query_of(["zebra"]))
    with connection.cursor() as cursor:
        for way in ("seqscan", "indexscan", "indexonlyscan"):  # on an empty table every way is as good
            cursor.execute(f"set local enable_{way} = off")
        sql, parameters = rows.order_by().query.sql_with_params()
        cursor.execute(f"explain {sql}", parameters)
        plan = "\n".join(line for (line,) in cursor.fetchall())
    assert index in plan, plan


def test_a_common_word_is_found_among_the_newest_and_a_rare_one_anywhere(project, trainer, client_of, monkeypatch):
    from datasets_app.services import datasets, examples
    from training_app import finding

    monkeypatch.setattr(finding, "LOOKED_AT_FIRST", 12)
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    made = []
    for number in range(30):
        said = "Everything about the zebra." if number == 0 else f"Everything about part {number}."
        turns = [{"role": "user", "content": "Tell me."}, {"role": "assistant", "content": said}]
        made.append(examples.write_example(actor=trainer, dataset=dataset, content={"messages": turns}).pk)
    common = next(group for group in finding.search(trainer, ["everything"]) if group.title == "Examples")
    assert [hit.name for hit in common.hits] == [f"example {pk}" for pk in made[:-9:-1]] and common.more
    rare = next(group for group in finding.search(trainer, ["zebra"]) if group.title == "Examples")
    assert [hit.name for hit in rare.hits] == [f"example {made[0]}"] and not rare.more
