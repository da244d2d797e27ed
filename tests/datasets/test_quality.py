"""Findings as people meet them: looked for after examples came in, counted, filtered by, and held against the rules of
a project before a version is sealed; and what of its documents a dataset has examples of."""

import json

import pytest
from django.urls import reverse

from datasets_app.models import DatasetVersion, Example, Generation, QualityRules
from datasets_app.services import datasets, documents, examples, quality
from datasets_app.services.errors import DatasetError
from finetune_site.api.services import make_token
from finetune_site.jobs.runner import Runner
from finetune_site.projects.models import AuditEntry
from tests.factories import claim, run_all, words

pytestmark = pytest.mark.django_db
QUESTION = "How many litres of oil does the Brannick gearbox of the mill take at the first filling?"
PAIRS = [
    (QUESTION, "It takes 23 litres."),
    (QUESTION + " Please tell.", "It takes 23 litres."),
    ("Whom do I ask about the mill?", "Write to ada@example.org."),
    ("What colour is the hopper of the mill?", "It is grey."),
]


def chat(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def dataset(project, trainer):
    made = datasets.create_dataset(actor=trainer, project=project, name="Mill")
    lines = "".join(json.dumps(chat(*pair)) + "\n" for pair in PAIRS)
    datasets.import_examples(actor=trainer, dataset=made, name="a.jsonl", format="", blocks=[lines.encode()])
    run_all()
    made.refresh_from_db()
    return made


def found(dataset):
    return [example.findings for example in dataset.examples.order_by("pk")]


def test_what_comes_in_is_looked_at_by_itself(dataset, viewer, client_of):
    assert dataset.check_job.state == "succeeded", dataset.check_job.error_text
    assert found(dataset) == [["straddles"], ["alike", "straddles"], ["personal"], []]
    client = client_of(viewer)
    page = words(client.get(reverse("quality", args=[dataset.pk])))
    assert "Holds personal data" in page and "not looked at" not in page and "Check again" not in page
    counts = {figure.name: figure.count for figure in quality.figures(dataset) if figure.count}
    assert counts == {"straddles": 2, "alike": 1, "personal": 1}
    listed = words(client.get(reverse("example_list", args=[dataset.pk]), {"finding": "personal"}))
    assert "Whom do I ask" in listed and "What colour" not in listed
    first = dataset.examples.earliest("pk")
    page = client.get(first.get_absolute_url())
    assert "Alike ones come from several sections." in words(page) and f"alike={first.pk}" in page.content.decode()
    both = words(client.get(reverse("example_list", args=[dataset.pk]), {"alike": first.pk}))
    assert "Please tell" in both and "What colour" not in both


def test_an_edit_asks_for_another_look(dataset, trainer, client_of):
    third = dataset.examples.order_by("pk")[2]
    examples.edit_example(actor=trainer, example=third, content=chat(PAIRS[2][0], "Ask at the gate."))
    assert "1 example was not looked at" in words(client_of(trainer).get(reverse("quality", args=[dataset.pk])))
    assert found(dataset)[2] == []
    client_of(trainer).post(reverse("quality_check", args=[dataset.pk]))
    run_all()
    assert not quality.unchecked(dataset.examples.all()).exists()


def test_a_look_that_has_begun_is_followed_by_another(dataset, trainer):
    quality.start_check(actor=trainer, dataset=dataset)
    dataset.refresh_from_db()
    first = claim(dataset.check_job)
    for _ in range(2):  # the second one waits already
        quality.start_check(actor=trainer, dataset=dataset)
    dataset.refresh_from_db()
    assert dataset.check_job_id != first.pk and type(first).objects.filter(kind=quality.CHECK).count() == 3
    Runner("default", 0).do(first)  # it finds that another one is to look
    run_all()
    assert not type(first).objects.exclude(state="succeeded").exists()


def test_a_text_that_changed_meanwhile_keeps_no_finding_of_the_old_one(dataset, trainer):
    third = dataset.examples.order_by("pk")[2]
    old = {"id": third.pk, "text_id": third.text_id, "findings": ["personal"], "cluster": 0}
    examples.edit_example(actor=trainer, example=third, content=chat(PAIRS[2][0], "Ask at the gate."))
    quality.keep(dataset, [old])
    third.refresh_from_db()
    assert third.findings == [] and third.checked_text is None


def approve_all(dataset, actor):
    examples.judge_all(actor=actor, dataset=dataset, examples=dataset.examples.all(), verdict="approved")


def test_a_project_says_what_is_not_sealed(dataset, project, owner, trainer, reviewer, client_of):
    approve_all(dataset, reviewer)
    rules = {"blocking": ["personal"], "max_tokens": 512}
    url = reverse("quality_rules", args=[dataset.pk])
    assert client_of(trainer).post(url, rules).status_code == 403
    assert client_of(owner).post(url, {"blocking": ["odd"], "max_tokens": 512}).status_code == 422
    page = client_of(owner).post(url, rules, follow=True)
    assert "Kept." in words(page) and "blocks sealing" in words(page)
    assert QualityRules.of(project).blocking == ["personal"]
    run_all()
    assert AuditEntry.objects.get(verb__startswith="set what is let").after["blocking"] == ["personal"]
    client = client_of(trainer)
    page = words(client.get(reverse("seal", args=[dataset.pk])))
    assert "1 approved example may not be sealed by this project" in page and "(“holds personal data”)" in page
    answer = client.post(reverse("seal", args=[dataset.pk]), {"validation_share": 0, "recall_share": 0, "confirm": "1"})
    assert "may not be sealed" in words(answer) and not DatasetVersion.objects.exists()
    examples.judge(actor=reviewer, example=dataset.examples.order_by("pk")[2], verdict="rejected")
    assert quality.refusal(dataset) == ""
    # What was approved since its last look has to be looked at first.
    last = dataset.examples.order_by("pk")[3]
    examples.edit_example(actor=trainer, example=last, content=chat("What colour is it?", "It is red."))
    examples.judge(actor=reviewer, example=last, verdict="approved")
    assert "1 approved example was not checked" in quality.refusal(dataset)
    quality.start_check(actor=trainer, dataset=dataset)
    run_all()
    client.post(reverse("seal", args=[dataset.pk]), {"validation_share": 0, "recall_share": 0, "confirm": "1"})
    run_all()
    assert DatasetVersion.objects.get().counts["rows"] == 3


def test_what_comes_between_asking_and_sealing_is_not_sealed_either(dataset, project, owner, reviewer, trainer):
    approve_all(dataset, reviewer)
    version = datasets.seal_version(actor=trainer, dataset=dataset)
    quality.set_rules(actor=owner, project=project, blocking=["personal"], max_tokens=1024, finds_names=False)
    run_all()
    version.refresh_from_db()
    assert not version.is_sealed and "may not be sealed" in version.job.error_text
    with pytest.raises(DatasetError, match="There is no finding odd"):
        quality.set_rules(actor=owner, project=project, blocking=["odd"], max_tokens=1024, finds_names=False)


def test_doubts_and_stale_sources_can_block_too(dataset, project, owner, reviewer):
    approve_all(dataset, reviewer)
    Example.objects.filter(pk=dataset.examples.first().pk).update(support="stale")
    quality.set_rules(actor=owner, project=project, blocking=["stale"], max_tokens=1024, finds_names=False)
    assert "(“the source changed since”)" in quality.refusal(dataset)


def test_alike_questions_stay_on_one_side_of_a_version(dataset, reviewer, trainer):
    more = [(f"{QUESTION} At {name}?", "It takes some.") for name in ("dawn", "noon", "dusk", "night", "tea")]
    for pair in more:
        examples.write_example(actor=trainer, dataset=dataset, content=chat(*pair))
    approve_all(dataset, reviewer)
    datasets.seal_version(actor=trainer, dataset=dataset, validation_share=0.5)
    run_all()
    version = DatasetVersion.objects.get()
    entries = version.entries.select_related("text")
    splits = {entry.split for entry in entries if entry.text.question.startswith(QUESTION)}
    assert version.is_sealed and len(splits) == 1


def test_gaps_are_shown_and_filled(project, trainer, viewer, client_of):
    text = "\n\n".join(
        f"# Part {name}\n\nThe {name} pump weighs {n} kg and stands in the great hall of the mill."
        for n, name in enumerate(("red", "blue"), 12)
    )
    document = documents.upload_document(actor=trainer, project=project, name="p.md", blocks=[text.encode()]).document
    empty = documents.upload_document(
        actor=trainer, project=project, name="q.md", blocks=[b"# Q\n\nNo part stands here."]
    ).document
    run_all()
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Pumps")
    client = client_of(trainer)
    form = {"everything": "on", "model": "verbatim", "wordings": 1}
    client.post(
        reverse("generate", args=[dataset.pk]), {"documents": [document.pk], "model": "verbatim", "wordings": 1}
    )
    run_all()
    first = Generation.objects.get()
    assert first.outcomes.count() == 2
    rejected = dataset.examples.earliest("pk")
    Example.objects.filter(pk=rejected.pk).update(state="rejected", decided_by=trainer, tag="drive / pump")
    Example.objects.exclude(pk=rejected.pk).update(tag="drive / pump")
    url = reverse("coverage", args=[dataset.pk])
    covered = {each.document.name: each for each in client.get(url).context["covered"]}
    assert (covered["p.md"].covered, covered["p.md"].passages) == (1, 2)
    assert covered["p.md"].gaps == [(1, 1, None, "Part red")] and covered["q.md"].covered == 0
    page = words(client.get(url))
    assert "Generate for the gaps" in page and "drive / pump" in page
    assert "Generate for the gaps" not in words(client_of(viewer).get(url))
    assert client.get(reverse("generate", args=[dataset.pk]), {"gaps": "1"}).context["form"].initial["only_gaps"]
    client.post(reverse("generate", args=[dataset.pk]), {**form, "only_gaps": "on"})
    run_all()
    asked = Generation.objects.latest("pk").outcomes.values_list("document", "chunk_index")
    assert set(asked) == {(document.pk, 0), (empty.pk, 0)}


def test_a_program_asks_for_findings_and_sets_rules(dataset, project, owner, trainer, client):
    def door(person):
        secret = make_token(actor=person, name="T", scopes=["read", "write"])[1]
        return {"headers": {"Authorization": f"Bearer {secret}"}, "content_type": "application/json"}

    told = client.get(f"/api/v1/datasets/{dataset.pk}/quality", **door(trainer)).json()
    assert {each["name"]: each["count"] for each in told["items"]}["personal"] == 1 and told["unchecked"] == 0
    body = json.dumps({"blocking": ["personal"]})
    rules = client.put(f"/api/v1/projects/{project.pk}/quality-rules", body, **door(owner)).json()
    assert rules == {"blocking": ["personal"], "max_tokens": 1024, "finds_names": False}
    assert client.put(f"/api/v1/projects/{project.pk}/quality-rules", body, **door(trainer)).status_code == 403
    assert client.get(f"/api/v1/projects/{project.pk}/quality-rules", **door(trainer)).json() == rules
    started = client.post(f"/api/v1/datasets/{dataset.pk}/check", **door(trainer))
    assert started.status_code == 201 and started.json()["job_id"]
    run_all()
    listed = client.get(f"/api/v1/datasets/{dataset.pk}/examples?finding=personal", **door(trainer)).json()
    assert [item["findings"] for item in listed["items"]] == [["personal"]]


def test_other_rules_are_looked_for_in_every_dataset(dataset, project, owner, trainer, reviewer):
    other = datasets.create_dataset(actor=trainer, project=project, name="Other")
    examples.write_example(actor=trainer, dataset=other, content=chat("Who built it?", "Amelia Brannick did."))
    approve_all(other, reviewer)
    rules = quality.set_rules(actor=owner, project=project, blocking=["names"], max_tokens=1024, finds_names=False)
    assert rules.finds_names, "what blocks is looked for"
    other.refresh_from_db()
    assert "are being looked at" in quality.refusal(other)
    run_all()
    assert "1 approved example may not be sealed" in quality.refusal(other)
    assert dataset.examples.filter(checked_text=None).count() == 0
