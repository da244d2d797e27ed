"""What happens between two looks: outages, kills, drafts, edits and foreign hands, against the real Label Studio."""

import threading
import time
from datetime import timedelta

import httpx
import pytest
from django.urls import reverse
from django.utils import timezone

from datasets_app import labelstudio, pulling, sending
from datasets_app.labelstudio import Client
from datasets_app.models import Conflict, Decision, LabelStudioLink, LabelStudioProject, LabelStudioServer
from datasets_app.services import datasets, examples
from datasets_app.services import labelstudio as services
from datasets_app.services.errors import DatasetError
from finetune_site.jobs.models import Job
from tests.factories import run_all
from tests.labelstudio.test_review import annotate, entry, remote_ids, send, sync, task_of, turns

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
FEW = 5


@pytest.fixture
def dataset(project, trainer):
    made = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    for number in range(FEW):
        examples.write_example(actor=trainer, dataset=made, content=turns(f"What is {number}?", f"It is {number}."))
    return made


@pytest.fixture
def link(dataset, server, trainer):
    return send(dataset, server, trainer)


def act(client, link, act):
    client.post(reverse("label_studio_act", args=[link.dataset_id, act]))
    run_all()
    link.refresh_from_db()
    return link


def is_there(there, example):
    return there.tasks.get(str(task_of(example).remote_id)).data


def talk(*words: str) -> dict:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": text} for n, text in enumerate(words)]}


# --- sending ---


def test_begun_anew_after_a_changed_config_is_another_project(dataset, link, server, there, trainer, client_of):
    old = link.projects.get().remote_id
    there.projects.update(old, label_config=there.projects.get(old).label_config.replace('"reject"', '"drop"'))
    sync(link)
    link = act(client_of(trainer), link, "anew")
    link = send(dataset, server, trainer)
    new = link.projects.get()
    assert link.state == "in step" and new.remote_id != old
    assert 'value="reject"' in there.projects.get(new.remote_id).label_config
    assert len(remote_ids(there, link)) == FEW and there.projects.get(old).task_number == FEW


def test_a_first_sending_while_label_studio_is_away_goes_on_by_itself(dataset, server, trainer, there):
    url, server.url = server.url, "http://127.0.0.1:9"
    server.save()
    for state in ("draft", ""):  # two of them wait
        services.start_sending(actor=trainer, dataset=dataset, server=server, chosen={"state": state})
        for _ in range(5):
            run_all()
            Job.objects.update(not_before=None)
    link = LabelStudioLink.objects.get()
    assert {sending.job.state for sending in link.sendings.all()} == {"failed"}
    LabelStudioServer.objects.update(url=url)
    for _ in range(2):
        services.sync_all()
        run_all()
    link.refresh_from_db()
    assert link.state == "in step" and {sending.job.state for sending in link.sendings.all()} == {"succeeded"}
    assert len(remote_ids(there, link)) == FEW
    assert link.sendings.last().counts == {"sent": FEW, "updated": 0, "left": 0}


def test_a_push_that_is_done_there_only_after_the_kill_is_found(dataset, server, trainer, there, monkeypatch):
    import_tasks, late = Client.import_tasks, []

    def die(self, project, rows):
        def deliver():
            time.sleep(1.5)
            there.projects.import_tasks(project, request=[{"data": dict(row)} for row in rows])

        late.append(threading.Thread(target=deliver))
        late[-1].start()
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(Client, "import_tasks", die)
        services.start_sending(actor=trainer, dataset=dataset, server=server, chosen={})
        run_all()
    Job.objects.update(not_before=None)
    run_all()
    late[0].join()
    assert Client.import_tasks is import_tasks and len(late) == 1
    assert len(remote_ids(there, LabelStudioLink.objects.get())) == FEW


def test_only_one_sending_has_its_turn(dataset, link, trainer, server):
    first = link.sendings.get().job
    services.start_sending(actor=trainer, dataset=dataset, server=server, chosen={})
    second = link.sendings.first().job
    Job.objects.filter(pk=first.pk).update(state="running", token="0" * 32)
    assert services.take_turn(link, first) and not services.take_turn(link, second)
    Job.objects.filter(pk=first.pk).update(state="failed", token=None)
    assert services.take_turn(link, second)


def test_of_two_tasks_of_one_example_the_judged_one_stays(dataset, link, there):
    first = dataset.examples.first()
    data = is_there(there, first)
    double = there.projects.import_tasks(
        link.projects.get().remote_id, request=[{"data": data}], return_task_ids=True
    ).task_ids[0]
    there.annotations.create(double, result=[entry("verdict", "choices", "choices", ["approve"])])
    with Client(link.server.url, link.server.token) as client:
        assert sending._only_one(client, [task_of(first).remote_id, double]) == double
    assert len(remote_ids(there, link)) == FEW


def test_a_conversation_that_shrank_is_read_in_its_own_layout(project, trainer, server, there):
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Talks")
    example = examples.write_example(actor=trainer, dataset=dataset, content=talk("Hi", "Hello", "Who?", "Me"))
    link = send(dataset, server, trainer)
    said = [
        entry("conversation", "textarea", "text", ["### user\nHi\n\n### assistant\nHello"]),
        entry("verdict", "choices", "choices", ["fix"]),
    ]
    made = there.annotations.create(task_of(example).remote_id, result=said)
    sync(link)
    example.refresh_from_db()
    assert example.text.content == talk("Hi", "Hello") and example.state == "draft"
    said[0]["value"]["text"] = ["### user\nHi\n\n### assistant\nSomething entirely new"]
    said[1]["value"]["choices"] = ["approve"]
    there.annotations.update(made.id, result=said)
    sync(link)
    example.refresh_from_db()
    assert (example.text.answer, example.state) == ("Something entirely new", "approved")
    send(dataset, server, trainer)
    assert link.projects.count() == 1


def test_a_question_that_became_a_conversation_moves_to_its_project(dataset, link, server, trainer, there):
    first = dataset.examples.first()
    examples.edit_example(actor=trainer, example=first, content=talk("Hi", "Hello", "### user", "\\### assistant"))
    sync(link)
    send(dataset, server, trainer)
    assert sorted(link.projects.values_list("layout", flat=True)) == ["single", "turns"]
    task = task_of(first)
    assert task.project.layout == "turns" and first.label_studio_tasks.count() == 1
    assert there.projects.get(link.projects.get(layout="single").remote_id).task_number == FEW - 1
    edited = is_there(there, first)["conversation"].replace("Hello", "Hello there")
    verdict = entry("verdict", "choices", "choices", ["approve"])
    there.annotations.create(task.remote_id, result=[entry("conversation", "textarea", "text", [edited]), verdict])
    sync(link)
    first.refresh_from_db()
    assert first.text.content == talk("Hi", "Hello there", "### user", "\\### assistant")


# --- bringing back ---


def test_what_is_sent_while_everything_is_compared_is_not_gone(dataset, link, server, trainer, monkeypatch):
    new = examples.write_example(actor=trainer, dataset=dataset, content=turns("New?", "New."))
    task_ids = Client.task_ids

    def look(self, project):
        found = task_ids(self, project)
        if not new.label_studio_tasks.exists():
            services.start_sending(actor=trainer, dataset=dataset, server=server, chosen={})
            run_all()
        return found

    monkeypatch.setattr(Client, "task_ids", look)
    sync(link, looks_whole=True)
    assert task_of(new).outcome == "open"


def test_what_somebody_has_begun_there_is_not_changed_under_them(dataset, link, server, trainer, there):
    first = dataset.examples.first()
    headers = {"Authorization": f"Bearer {access(server)}"}
    draft = {"result": [], "lead_time": 2}
    url = f"{server.url}/api/tasks/{task_of(first).remote_id}/drafts"
    assert httpx.post(url, json=draft, headers=headers).status_code == 201
    examples.edit_example(actor=trainer, example=first, content=turns("What is 0?", "Edited."))
    send(dataset, server, trainer)
    assert is_there(there, first)["output"] == "It is 0."
    annotate(there, first, "approve", output="It is 0, surely.")
    sync(link)
    assert Conflict.objects.open().get().content == turns("What is 0?", "It is 0, surely.")


def access(server) -> str:
    told = httpx.post(f"{server.url}/api/token/refresh/", json={"refresh": server.token}).json()
    return str(told["access"])


def test_a_page_opened_before_the_portal_decided_is_a_conflict(dataset, link, there, reviewer):
    first = dataset.examples.first()
    examples.judge(actor=reviewer, example=first, verdict="approved")
    sync(link)  # the task says so by now
    made = annotate(there, first, "reject")
    there.annotations.update(made.id, lead_time=3600.0)  # but the page was open since before
    sync(link)
    first.refresh_from_db()
    assert first.state == "approved" and Conflict.objects.open().get().verdict == "rejected"


def test_a_comment_or_a_second_person_that_come_later_are_kept(dataset, link, there):
    first = dataset.examples.first()
    made = annotate(there, first, "approve")
    sync(link)
    verdict = entry("verdict", "choices", "choices", ["approve"])
    there.annotations.update(made.id, result=[verdict, entry("comment", "textarea", "text", ["Good source"])])
    sync(link)
    assert [decision.comment for decision in first.decisions.all()] == ["Good source", ""]
    other = there.users.create(email="third@example.org", username="third@example.org", password="x1Y2z3-long")
    annotate(there, first, "approve", completed_by=other.id)
    sync(link)
    assert Decision.objects.filter(example=first).first().by_name == "third@example.org"
    assert Decision.objects.count() == 3


def test_many_changes_come_page_by_page_and_a_whole_look_finds_the_missed(dataset, link, there, monkeypatch):
    monkeypatch.setattr(labelstudio, "PAGE", 2)
    monkeypatch.setattr(Client._tasks, "__kwdefaults__", {"page_size": 2})
    for example in dataset.examples.all():
        annotate(there, example, "approve")
    sync(link)
    assert dataset.examples.filter(state="approved").count() == FEW
    annotate(there, dataset.examples.first(), "reject")
    LabelStudioProject.objects.update(seen_until=timezone.now() + timedelta(hours=1))
    sync(link)
    assert dataset.examples.filter(state="rejected").count() == 0, "it was to be missed"
    sync(link, looks_whole=True)
    assert dataset.examples.filter(state="rejected").count() == 1


def test_an_annotation_deleted_unseen_is_found_by_a_whole_look(dataset, link, there):
    first = dataset.examples.first()
    annotate(there, first, "approve")
    sync(link)
    there.annotations.delete(task_of(first).annotation_id)
    LabelStudioProject.objects.update(seen_until=timezone.now() + timedelta(hours=1))
    sync(link)
    assert dataset.examples.filter(state="approved").count() == 1, "it was to be missed"
    sync(link, looks_whole=True)
    assert dataset.examples.filter(state="approved").count() == 0


def test_a_pull_reads_what_was_judged_and_not_what_waits(dataset, link, server, there, monkeypatch):
    read, take = [], pulling._take

    def note(project, task, voices):
        read.append(task.id)
        return take(project, task, voices)

    monkeypatch.setattr(pulling, "_take", note)
    for example in dataset.examples.all()[:2]:
        annotate(there, example, "approve")
        sync(link)
    first, second = (task_of(example).remote_id for example in dataset.examples.all()[:2])
    assert FEW > 2 and read == [first, first, second]


def test_a_wish_during_a_sync_is_not_forgotten(dataset, link, there, monkeypatch):
    first, changed = dataset.examples.first(), Client.judged_since

    def change(self, project, since):
        if there.projects.get(project).task_number == FEW:
            there.tasks.delete(str(task_of(first).remote_id))
            services.hint(link, looks_whole=True)  # as the webhook does
        yield from changed(self, project, since)

    monkeypatch.setattr(Client, "judged_since", change)
    sync(link)
    assert task_of(first).outcome == "gone"


def test_a_number_that_names_another_task_by_now_is_left_alone(dataset, link, there, trainer):
    first = dataset.examples.first()
    project = link.projects.get().remote_id
    data = {**is_there(there, first), "push_id": "somebody else's", "output": "Theirs"}
    foreign = there.projects.import_tasks(project, request=[{"data": data}], return_task_ids=True).task_ids[0]
    first.label_studio_tasks.update(remote_id=foreign)
    examples.judge(actor=trainer, example=first, verdict="approved")
    sync(link)
    assert there.tasks.get(str(foreign)).data == data
    assert task_of(first).outcome == "gone" and "send the example again" in task_of(first).problem


def test_a_project_that_is_not_ours_is_not_touched(dataset, link, there, trainer, client_of):
    foreign = there.projects.create(title="Theirs", label_config="<View/>")
    link.projects.update(remote_id=foreign.id)
    link = act(client_of(trainer), sync(link), "restore")
    assert link.state == "paused" and "is not the one that was made for this dataset" in link.problem
    assert there.projects.get(foreign.id).label_config == "<View/>"


def test_putting_the_config_back_where_that_cannot_be_says_so(dataset, link, there, trainer, client_of):
    first, project = dataset.examples.first(), link.projects.get().remote_id
    config = there.projects.get(project).label_config
    added = '<Choices name="extra" toName="source"><Choice value="odd"/></Choices><HyperText name="back"'
    there.projects.update(project, label_config=config.replace('<HyperText name="back"', added))
    there.annotations.create(task_of(first).remote_id, result=[entry("extra", "choices", "choices", ["odd"])])
    sync(link)
    link = act(client_of(trainer), link, "restore")
    assert link.state == "paused"
    assert "cannot be put back: Label Studio refuses it: Created annotations are incompatible" in link.problem
    page = client_of(trainer).get(link.get_absolute_url()).content.decode()
    assert "Put the config back" in page and "Begin anew" in page
    there.projects.delete(project)
    link = act(client_of(trainer), link, "restore")
    assert link.state == "paused" and "was deleted in Label Studio" in link.problem


def test_a_conflict_is_decided_over_the_text_that_was_read(dataset, link, there, reviewer, client_of):
    first = dataset.examples.first()
    examples.edit_example(actor=reviewer, example=first, content=turns("What?", "Ours."))
    annotate(there, first, "approve", output="Theirs.")
    sync(link)
    conflict, read = Conflict.objects.get(), str(dataset.examples.first().text_id)
    examples.edit_example(actor=reviewer, example=first, content=turns("What?", "Ours, newer."))
    page = client_of(reviewer).post(
        reverse("conflict_resolve", args=[conflict.pk]), {"kept": "theirs", "text_id": read}, follow=True
    )
    assert "Somebody has edited the portal" in page.content.decode() and "Ours, newer." in page.content.decode()
    first.refresh_from_db()
    assert first.text.answer == "Ours, newer." and Conflict.objects.open().exists()


def test_a_zero_character_and_a_long_name_stop_nothing(dataset, link, there):
    first, second = dataset.examples.all()[:2]
    names = {"first_name": "x" * 250, "last_name": "y" * 250, "username": "long@example.org"}
    person = there.users.create(email="long@example.org", password="x1Y2z3-long", **names)
    annotate(there, first, "approve", output="A \0 zero", completed_by=person.id)
    annotate(there, second, "approve")
    link = sync(link)
    first.refresh_from_db()
    assert link.state == "in step" and first.state == "approved" and "�" in first.text.answer
    assert len(first.decider) == 200 and dataset.examples.filter(state="approved").count() == 2


def test_what_is_edited_here_is_brought_up_to_date_there_by_the_next_sync(dataset, link, there, reviewer):
    first = dataset.examples.first()
    examples.edit_example(actor=reviewer, example=first, content=turns("What is 0?", "Edited here."))
    sync(link)
    assert is_there(there, first)["output"] == "Edited here."
    annotate(there, first, "approve")
    sync(link)
    first.refresh_from_db()
    assert first.state == "approved" and not Conflict.objects.exists()


def test_the_same_edit_on_both_sides_is_no_conflict(dataset, link, there, reviewer):
    first = dataset.examples.first()
    examples.edit_example(actor=reviewer, example=first, content=turns("What is 0?", "The same."))
    annotate(there, first, "approve", output="The same.")
    sync(link)
    first.refresh_from_db()
    assert (first.state, first.texts.count()) == ("approved", 2) and not Conflict.objects.exists()


def test_who_decided_a_conflict_stands_in_the_history(dataset, link, there, reviewer, client_of):
    first, second = dataset.examples.all()[:2]
    for example, kept in ((first, "ours"), (second, "theirs")):
        examples.edit_example(actor=reviewer, example=example, content=turns("What?", "Ours."))
        annotate(there, example, "approve", output="Theirs.")
        sync(link)
        services.resolve(actor=reviewer, conflict=Conflict.objects.open().get(), kept=kept)
        page = client_of(reviewer).get(example.get_absolute_url()).content.decode()
        told = {"ours": "the portal&#x27;s kept", "theirs": "Label Studio&#x27;s taken"}[kept]
        assert f"conflict with portal@example.org decided: {told}" in page


# --- the rest ---


def test_an_import_that_met_nobody_can_be_tried_again(dataset, server, trainer, client_of):
    url, server.url = server.url, "http://127.0.0.1:9"
    server.save()
    made = services.start_import(actor=trainer, dataset=dataset, server=server)
    for _ in range(2):
        run_all()
        Job.objects.update(not_before=None)
    client = client_of(trainer)
    assert "Try again" in client.get(made.get_absolute_url()).content.decode()
    LabelStudioServer.objects.update(url=url)
    client.post(reverse("label_studio_import_look", args=[made.pk]))
    run_all()
    made.refresh_from_db()
    assert made.job.state in ("succeeded", "failed") and "cannot be reached" not in made.job.error_text


def test_another_site_key_asks_for_the_token_and_renews_the_secret(
    dataset, link, server, there, settings, tokens, client_of
):
    before, settings.SECRET_KEY = link.hook_secret, "another key " + "x" * 40
    link = sync(link)
    assert link.state == "waiting" and "the site's key has changed" in link.problem
    url = reverse("label_studio_hook", args=[link.hook_key])
    assert client_of(None).post(url, headers={services.SECRET_HEADER: before}).status_code == 403
    server.refresh_from_db()
    server.portal_url, server.token = "http://127.0.0.1:9/portal", tokens[-1]
    server.save()
    link = sync(link, looks_whole=True)
    assert link.state == "in step"
    [hook] = there.webhooks.list(project=str(link.projects.get().remote_id))
    assert link.hook_secret != before and hook.headers == {services.SECRET_HEADER: link.hook_secret}


def test_parted_while_examples_wait_to_be_sent(dataset, link, server, trainer):
    services.start_sending(actor=trainer, dataset=dataset, server=server, chosen={})
    services.part(actor=trainer, link=link)
    run_all()
    assert not LabelStudioLink.objects.exists()
    assert set(Job.objects.filter(kind__startswith="datasets.label").values_list("state", flat=True)) <= {"succeeded"}


def test_a_server_closed_to_imports_meanwhile(dataset, server, trainer, there):
    made = services.start_import(actor=trainer, dataset=dataset, server=server)
    run_all()
    made.refresh_from_db()
    made.server.allows_import = False
    made.server.save()
    with pytest.raises(DatasetError, match="may not be imported"):
        services.choose_project(actor=trainer, entry=made, remote_id=1, layout="single")


def test_the_list_of_datasets_as_a_page_and_for_programs(dataset, link, there, project, trainer, viewer, client_of):
    one, two = dataset.examples.all()[:2]
    annotate(there, one, "approve")
    annotate(there, two, "reject")
    sync(link)
    url = reverse("label_studio_list", args=[project.pk])
    [told] = client_of(viewer).get(url, {"format": "json"}).json()["datasets"]
    assert (told["dataset"], told["approved"], told["rejected"], told["open"]) == ("Facts", 1, 1, FEW - 2)
    assert told["state"] == "in step" and told["agreement"] is None
    assert told["projects"] == [link.projects.get().address]
    page = client_of(trainer).get(url).content.decode()
    assert reverse("seal", args=[dataset.pk]) in page
    assert reverse("seal", args=[dataset.pk]) not in client_of(viewer).get(url).content.decode()
