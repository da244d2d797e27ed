"""Runs side by side: what differs in configuration, result and data."""

import pytest
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import DatasetVersion, VersionEntry
from datasets_app.services import datasets, examples
from datasets_app.services.comparing import compare_versions, edits
from training_app.models import Evaluation, Run

pytestmark = pytest.mark.django_db


def content(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def versions(project, trainer):
    """v1 has examples A, B, C; v2 lost A, has B in another text, C in another split, and D."""
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    rows = {
        name: examples.write_example(actor=trainer, dataset=dataset, content=content(f"What is {name}?", "It is."))
        for name in "ABCD"
    }

    def seal(number: int, entries: list[tuple[str, str]]) -> DatasetVersion:
        version = DatasetVersion.objects.create(dataset=dataset, number=number, created_by=trainer)
        for name, split in entries:
            rows[name].refresh_from_db()
            VersionEntry.objects.create(version=version, example=rows[name], text=rows[name].text, split=split)
        DatasetVersion.objects.filter(pk=version.pk).update(sha256=str(number) * 64, sealed_at=timezone.now())
        return DatasetVersion.objects.get(pk=version.pk)

    first = seal(1, [("A", "train"), ("B", "train"), ("C", "train")])
    examples.edit_example(actor=trainer, example=rows["B"], content=content("What is B?", "Another answer."))
    second = seal(2, [("B", "train"), ("C", "validation"), ("D", "train")])
    return first, second, rows


@pytest.fixture
def runs(project, trainer, versions, base):
    made = []
    for number, version in enumerate(versions[:2], start=1):
        run = Run.objects.create(
            project=project,
            name=f"Run {number}",
            version=version,
            base=base,
            method="dora",
            config={"epochs": 4.0 * number, "rank": 16},
            preset="balanced",
            created_by=trainer,
            result={"validation_loss": 1.5 / number, "train_loss": 0.25},
        )
        made.append(run)
    sums = {"rows": 10, "base_right": 1.0, "tuned_right": 8.0, "base_exact": 0, "tuned_exact": 3}
    Evaluation.objects.create(run=made[1], created_by=trainer, summary={"sets": {"recall": sums}})
    return made


def test_two_versions_differ_row_by_row(versions):
    first, second, _ = versions
    found = compare_versions(first, second)
    asked = {name: [entry.text.question for entry in entries] for name, entries in vars(found).items()}
    assert asked == {
        "added": ["What is D?"],
        "removed": ["What is A?"],
        "edited": ["What is B?"],
        "moved": ["What is C?"],
    }
    assert not any(entries.exists() for entries in vars(compare_versions(first, first)).values())


def test_an_edit_is_told_word_by_word(versions):
    _, _, rows = versions
    text = rows["B"].text
    before, after = type(text)(content=content("What is B?", "It is a  red\nbox.")), type(text)()
    after.content = {"messages": [*before.messages[:1], {"role": "assistant", "content": "It is a  blue\nbox, new."}]}
    ((name, pieces),) = edits(before, after)
    assert name == "assistant"
    assert [(piece.how, piece.words) for piece in pieces] == [
        ("kept", "It is a"),
        ("removed", "  red\nbox."),
        ("added", "  blue\nbox, new."),
    ]
    pair = type(text)(content={"prompt": "p", "chosen": "good", "rejected": "bad"})
    other = type(text)(content={"prompt": "p", "chosen": "good", "rejected": "worse"})
    assert [name for name, _ in edits(pair, other)] == ["rejected"]
    assert edits(pair, pair) == []
    long = type(text)(content={"prompt": "p", "chosen": "word " * 3000, "rejected": "bad"})
    [(_, whole)] = edits(pair, long)
    assert [piece.how for piece in whole] == ["removed", "added"]


def test_the_page_shows_what_differs(runs, project, viewer, client_of):
    url = f"{reverse('run_compare', args=[project.pk])}?run={runs[0].pk}&run={runs[1].pk}"
    page = client_of(viewer).get(url).content.decode()
    asked, equal = page.split("What is the same in all")
    assert '<th scope="row">epochs</th><td>4.0</td><td>8.0</td>' in asked
    assert "<li>rank: 16</li>" in equal
    assert "8 of 10 (base 1)" in asked
    assert '<th scope="row">recall: exact match</th><td>–</td><td>3 of 10 (base 0)</td>' in asked
    assert "recall: ROUGE-L" not in asked  # was not measured
    assert '<th scope="row">Validation loss</th><td>1.5</td><td>0.75</td>' in asked
    assert "1 edited" in equal and "<del>It is.</del><ins>Another answer.</ins>" in equal
    assert "1 added" in equal and "What is D?" in equal
    assert "train → validation" in equal or "validation" in equal


@pytest.mark.parametrize("picked", [[], ["run=1"], ["run=x", "run=99999999999999999999"]])
def test_fewer_than_two_runs_are_asked_for(picked, project, viewer, client_of):
    url = f"{reverse('run_compare', args=[project.pk])}?{'&'.join(picked)}"
    page = client_of(viewer).get(url, follow=True)
    assert b"Tick two to 6 runs" in page.content


def test_runs_of_another_project_are_not_shown(runs, project, owner, client_of):
    from finetune_site.projects.services import create_project

    other = create_project(actor=owner, name="Other")
    url = f"{reverse('run_compare', args=[other.pk])}?run={runs[0].pk}&run={runs[1].pk}"
    assert b"Tick two to 6 runs" in client_of(owner).get(url, follow=True).content
