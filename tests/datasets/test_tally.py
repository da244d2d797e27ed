"""What Postgres counts of examples is what is there, whatever is done to them and by how many at once."""

import threading

import pytest
from django.contrib.auth.models import User
from django.db import connection, transaction
from django.urls import reverse

from datasets_app.models import Dataset, Example, Tally
from datasets_app.services import datasets, examples
from datasets_app.services.datasets import settle_tally

CONTENT = {"messages": [{"role": "user", "content": "Q?"}, {"role": "assistant", "content": "A."}]}


@pytest.fixture
def dataset(project, trainer) -> Dataset:
    made = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    for _ in range(5):
        examples.write_example(actor=trainer, dataset=made, content=CONTENT)
    return made


def counted(dataset) -> tuple[int, int, int]:
    counts = Tally.objects.counts_of(dataset)
    assert counts.total == dataset.examples.count()
    return counts.draft, counts.approved, counts.rejected


@pytest.mark.django_db
def test_every_way_in_out_and_through_is_counted(dataset, trainer, owner, project):
    assert counted(dataset) == (5, 0, 0)
    third = dataset.examples.all()[2].pk
    examples.judge(actor=trainer, example=dataset.examples.first(), verdict="approved")
    examples.judge_all(
        actor=trainer, dataset=dataset, examples=dataset.examples.filter(pk__gt=third), verdict="rejected"
    )
    assert counted(dataset) == (2, 1, 2)
    examples.edit_example(
        actor=trainer, example=dataset.examples.first(),
        content={"messages": [CONTENT["messages"][0], {"role": "assistant", "content": "B."}]},
    )  # fmt: skip
    assert counted(dataset) == (3, 0, 2)
    before = Tally.objects.count()
    Example.objects.update(answer_key="7 kg")
    assert Tally.objects.count() == before, "what changes no state leaves no row"
    other = datasets.create_dataset(actor=trainer, project=project, name="Other")
    Example.objects.filter(pk=dataset.examples.last().pk).update(dataset=other)
    assert counted(dataset) == (3, 0, 1) and counted(other) == (0, 0, 1)
    with pytest.raises(RuntimeError), transaction.atomic():
        Example.objects.update(state="draft", decided_by=None)
        assert counted(dataset) == (4, 0, 0)
        raise RuntimeError
    assert counted(dataset) == (3, 0, 1)


@pytest.mark.django_db
def test_settling_changes_nothing_but_the_number_of_rows(dataset, trainer, owner):
    examples.judge(actor=trainer, example=dataset.examples.first(), verdict="approved")
    settle_tally()
    assert counted(dataset) == (4, 1, 0) and Tally.objects.count() == 2
    datasets.delete_dataset(actor=owner, dataset=dataset)
    settle_tally()
    assert not Tally.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_many_write_while_it_is_settled(dataset, trainer):
    keys, gate = list(dataset.examples.values_list("pk", flat=True)), threading.Barrier(6)

    def judge(key: int) -> None:
        try:
            gate.wait()
            for verdict in ("approved", "rejected", "approved"):
                examples.judge(
                    actor=User.objects.get(pk=trainer.pk), example=Example.objects.get(pk=key), verdict=verdict
                )
        finally:
            connection.close()

    def settle() -> None:
        try:
            gate.wait()
            for _ in range(10):
                settle_tally()
        finally:
            connection.close()

    threads = [threading.Thread(target=judge, args=[key]) for key in keys] + [threading.Thread(target=settle)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted(dataset) == (0, 5, 0)


@pytest.mark.django_db
def test_pages_show_what_is_counted(dataset, trainer, project, client_of):
    examples.judge(actor=trainer, example=dataset.examples.first(), verdict="approved")
    client = client_of(trainer)
    for address in (reverse("dataset_list", args=[project.pk]), dataset.get_absolute_url()):
        page = client.get(address).content.decode()
        assert ">5<" in page and ">4<" in page and ">1<" in page, address
    shown = client.get(reverse("example_list", args=[dataset.pk]), {"state": "draft"})
    assert shown.context["count"] == 4 and len(shown.context["page"]) == 4
    assert client.get(reverse("example_list", args=[dataset.pk])).context["count"] == 5
    assert client.get(reverse("example_list", args=[dataset.pk]), {"text": "zebra"}).context["count"] == 0


@pytest.mark.django_db
def test_many_documents_are_found_by_a_part_of_their_name(dataset, trainer, client_of, monkeypatch):
    from datasets_app.views import review

    Example.objects.filter(pk=dataset.examples.first().pk).update(document_name="Annual Report 2025.pdf")
    monkeypatch.setattr(review, "MOST_DOCUMENTS", -1)
    shown = client_of(trainer).get(reverse("example_list", args=[dataset.pk]), {"document": "report"})
    assert shown.context["count"] == 1 and 'value="report"' in shown.content.decode()
