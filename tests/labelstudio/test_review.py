"""Review in the real Label Studio: sent once, brought back whole, conflicts kept, troubles said."""

import httpx
import pytest
from django.urls import reverse

from datasets_app import sending
from datasets_app.labelstudio import Client, LabelStudioError, Trouble
from datasets_app.models import (
    Conflict,
    Decision,
    Example,
    LabelStudioLink,
    LabelStudioServer,
    LabelStudioTask,
)
from datasets_app.services import datasets, examples
from datasets_app.services import labelstudio as services
from finetune_site.jobs.models import Job, JobEvent
from finetune_site.lib.label_studio import mint_token
from tests.factories import run_all

# The first start on a machine migrates an empty database.
pytestmark = [pytest.mark.slow, pytest.mark.django_db]
MANY = 12


def turns(question: str, answer: str) -> dict:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


@pytest.fixture
def dataset(project, trainer):
    made = datasets.create_dataset(actor=trainer, project=project, name="Facts")
    for number in range(MANY):
        examples.write_example(actor=trainer, dataset=made, content=turns(f"What is {number}?", f"It is {number}."))
    return made


@pytest.fixture
def link(dataset, server, trainer):
    """The dataset, sent."""
    return send(dataset, server, trainer)


def send(dataset, server, actor, **chosen) -> LabelStudioLink:
    services.start_sending(actor=actor, dataset=dataset, server=server, chosen=chosen)
    run_all()
    return LabelStudioLink.objects.get(dataset=dataset)


def sync(link, *, looks_whole=False) -> LabelStudioLink:
    services.hint(link, looks_whole=looks_whole)
    run_all()
    return LabelStudioLink.objects.get(pk=link.pk)


def task_of(example: Example) -> LabelStudioTask:
    return LabelStudioTask.objects.select_related("project").get(example=example)


def annotate(there, example: Example, verdict: str | None, *, output: str = "", **more):
    """Judge an example as its page does: every field that holds a text is sent."""
    data = there.tasks.get(str(task_of(example).remote_id)).data
    texts = {name: data[name] for name in ("instruction", "output")} | ({"output": output} if output else {})
    result = [entry(name, "textarea", "text", [text]) for name, text in texts.items()]
    if verdict:
        result.append(entry("verdict", "choices", "choices", [verdict]))
    for name, kind, key, value in more.pop("extra", []):
        result.append(entry(name, kind, key, value))
    return there.annotations.create(task_of(example).remote_id, result=result, lead_time=0.1, **more)


def entry(name, kind, key, value):
    return {"from_name": name, "to_name": "source", "type": kind, "value": {key: value}}


def remote_ids(there, link) -> list[int]:
    project = link.projects.get().remote_id
    return [task.id for task in there.tasks.list(project=project, fields="task_only", include="id", page_size=1000)]


def test_every_example_is_there_once_however_often_it_is_sent(dataset, link, server, trainer, there):
    assert link.state == "in step", link.problem
    assert len(remote_ids(there, link)) == MANY
    first = dataset.examples.first()
    data = there.tasks.get(str(task_of(first).remote_id)).data
    assert (data["instruction"], data["output"], data["example"]) == ("What is 0?", "It is 0.", str(first.pk))
    assert "verdict" not in str(there.tasks.get(str(task_of(first).remote_id)).predictions)
    send(dataset, server, trainer)
    assert len(remote_ids(there, link)) == MANY
    assert link.sendings.first().counts == {"sent": 0, "updated": 0, "left": MANY}


def test_verdicts_and_edits_come_back_with_their_person(dataset, link, there, reviewer):
    reviewer.email = "PORTAL@example.org"  # as the token's account, written otherwise
    reviewer.save()
    approved, edited, rejected, fixed, skipped, untouched, *_ = dataset.examples.all()
    annotate(there, approved, "approve", extra=[("quality", "rating", "rating", 4)])
    annotate(there, edited, "approve", output="It is one.", extra=[("comment", "textarea", "text", ["Said better"])])
    annotate(there, rejected, "reject", extra=[("issues", "choices", "choices", ["duplicate", "off-topic"])])
    annotate(there, fixed, "fix", output="It is three?")
    there.annotations.create(task_of(skipped).remote_id, result=[], was_cancelled=True)
    sync(link)
    for example in (approved, edited, rejected, fixed, skipped, untouched):
        example.refresh_from_db()
    found = [example.state for example in (approved, edited, rejected, fixed, skipped, untouched)]
    assert found == ["approved", "approved", "rejected", "draft", "draft", "draft"]
    assert edited.text.answer == "It is one." and edited.text.author == reviewer and edited.texts.count() == 2
    assert fixed.text.answer == "It is three?"
    said = Decision.objects.get(example=rejected)
    assert (said.reason, said.by, said.place, said.before) == (
        "duplicate, off-topic",
        reviewer,
        "Label Studio",
        "draft",
    )
    assert Decision.objects.get(example=approved).quality == 4
    assert Decision.objects.get(example=edited).comment == "Said better"
    assert task_of(skipped).outcome == "skipped"
    before = Decision.objects.count()
    sync(link)
    assert Decision.objects.count() == before


def test_somebody_without_a_login_here_keeps_the_name(dataset, link, there, viewer, client_of):
    first = dataset.examples.first()
    annotate(there, first, "approve")
    sync(link)
    first.refresh_from_db()
    assert first.state == "approved" and first.decided_by is None
    assert first.decider == "portal@example.org"
    page = client_of(viewer).get(reverse("label_studio", args=[dataset.pk])).content.decode()
    assert "People of Label Studio who are unknown here" in page and "portal@example.org: 1 decision<" in page


def test_changed_on_both_sides_waits_for_a_person(dataset, link, there, reviewer, client_of):
    ours, theirs, same = dataset.examples.all()[:3]
    for example in (ours, theirs, same):
        examples.edit_example(actor=reviewer, example=example, content=turns("What?", "Ours."))
    for example in (ours, theirs):
        annotate(there, example, "approve", output="Theirs.")
    examples.judge(actor=reviewer, example=same, verdict="approved")
    annotate(there, same, "approve", extra=[])
    there.annotations.update(
        there.tasks.get(str(task_of(same).remote_id)).annotations[0]["id"],
        result=[
            entry("instruction", "textarea", "text", ["What?"]),
            entry("output", "textarea", "text", ["Ours."]),
            entry("verdict", "choices", "choices", ["approve"]),
        ],
    )
    sync(link)
    assert Conflict.objects.open().count() == 2
    same.refresh_from_db()
    assert (same.text.answer, task_of(same).outcome) == ("Ours.", "decided")
    client = client_of(reviewer)
    page = client.get(reverse("label_studio", args=[dataset.pk])).content.decode()
    assert "2 changed on both sides" in page and "<del>Ours.</del>" in page and "<ins>Theirs.</ins>" in page
    for example, kept in ((ours, "ours"), (theirs, "theirs")):
        conflict = Conflict.objects.open().get(task__example=example)
        client.post(reverse("conflict_resolve", args=[conflict.pk]), {"kept": kept})
        example.refresh_from_db()
    assert (ours.text.answer, ours.state) == ("Ours.", "draft")
    assert (theirs.text.answer, theirs.state) == ("Theirs.", "approved")
    assert not Conflict.objects.open().exists()
    sync(link)
    assert not Conflict.objects.open().exists()


def test_an_annotation_of_a_text_that_was_replaced_meanwhile_is_no_edit(
    dataset, link, server, there, trainer, reviewer
):
    first = dataset.examples.first()
    examples.edit_example(actor=reviewer, example=first, content=turns("What is 0?", "Nought."))
    send(dataset, server, trainer)
    assert there.tasks.get(str(task_of(first).remote_id)).data["output"] == "Nought."
    annotate(there, first, "approve", output="It is 0.")
    made = there.tasks.get(str(task_of(first).remote_id)).annotations[0]["id"]
    there.annotations.update(made, lead_time=3600.0)  # the page was open since before the text came
    sync(link)
    assert Conflict.objects.open().get().content == turns("What is 0?", "It is 0.")


def test_what_is_decided_here_is_told_there(dataset, link, server, there, reviewer):
    first = dataset.examples.first()
    examples.judge(actor=reviewer, example=first, verdict="approved")
    sync(link)
    told = there.tasks.get(str(task_of(first).remote_id)).data["portal_state"]
    assert told == "Decided in the portal: approved by reviewer"


def test_what_changed_here_after_it_was_judged_there_is_told_there(dataset, link, there, reviewer):
    """Its texts stay as they were judged; one line says what counts by now."""
    edited, rejected, kept, untouched = dataset.examples.all()[:4]
    examples.edit_example(actor=reviewer, example=kept, content=turns("What?", "Ours."))
    for example in (edited, rejected, kept, untouched):
        annotate(there, example, "approve", output="Theirs.")
    sync(link)
    examples.edit_example(actor=reviewer, example=edited, content=turns("What?", "Ours."))
    examples.judge(actor=reviewer, example=edited, verdict="approved")
    examples.judge(actor=reviewer, example=rejected, verdict="rejected")
    services.resolve(actor=reviewer, conflict=Conflict.objects.get(task__example=kept), kept="ours")
    sync(link)
    tasks = [there.tasks.get(str(task_of(example).remote_id)) for example in (edited, rejected, kept, untouched)]
    assert [task.data["portal_state"] for task in tasks] == [
        "Since then in the portal: another text, approved by reviewer",
        "Since then in the portal: rejected by reviewer",
        "The portal kept its own: open again",
        "",
    ]
    assert tasks[0].data["output"] == "It is 0." and "Theirs." in str(tasks[0].annotations)
    told = [example.decisions.count() for example in (edited, rejected, kept)]
    sync(link)
    assert [example.decisions.count() for example in (edited, rejected, kept)] == told
    assert not Conflict.objects.open().exists()


def test_two_annotators_and_their_agreement(dataset, link, there):
    one, two = dataset.examples.all()[:2]
    other = there.users.create(email="second@example.org", username="second@example.org", password="x1Y2z3-long")
    for example, verdict in ((one, "approve"), (two, "reject")):
        annotate(there, example, "approve")
        annotate(there, example, verdict, completed_by=other.id)
    sync(link)
    counts = services.counts([dataset])[dataset.pk]
    assert (counts.doubly, counts.agreed, counts.agreement) == (2, 1, 0.5)
    two.refresh_from_db()
    assert two.state == "rejected"  # the last word


def test_a_decision_that_is_taken_back_there_falls_here(dataset, link, there):
    first = dataset.examples.first()
    made = annotate(there, first, "approve")
    sync(link)
    there.annotations.delete(made.id)
    sync(link)
    first.refresh_from_db()
    assert first.state == "draft"
    assert first.decisions.first().reason == "the annotation was deleted there"


def test_an_annotation_without_a_verdict_says_what_is_missing(dataset, link, there, viewer, client_of):
    annotate(there, dataset.examples.first(), None)
    sync(link)
    page = client_of(viewer).get(reverse("label_studio", args=[dataset.pk])).content.decode()
    assert "It has no verdict: choose approve, fix or reject" in page


def test_every_shape_of_example_has_its_project(project, trainer, server, there):
    dataset = datasets.create_dataset(actor=trainer, project=project, name="Shapes")
    talk = [("user", "Hi"), ("assistant", "Hello"), ("user", "Who?"), ("assistant", "Me")]
    contents = [
        turns("Q", "A"),
        {"messages": [{"role": role, "content": text} for role, text in talk]},
        {"prompt": "P", "chosen": "C", "rejected": "R"},
        {"text": "A text."},
    ]
    made = [examples.write_example(actor=trainer, dataset=dataset, content=content) for content in contents]
    link = send(dataset, server, trainer)
    assert sorted(link.projects.values_list("layout", flat=True)) == ["preference", "single", "text", "turns"]
    edited = "### user\nHi\n\n### assistant\nHello there\n\n### user\nWho?\n\n### assistant\nMe"
    said = [entry("conversation", "textarea", "text", [edited]), entry("verdict", "choices", "choices", ["approve"])]
    there.annotations.create(task_of(made[1]).remote_id, result=said)
    wrong = [entry("conversation", "textarea", "text", ["### user\nHi"]), said[1]]
    there.annotations.create(task_of(made[3]).remote_id, result=[entry("text", "textarea", "text", ["Mine."]), said[1]])
    sync(link)
    for example in made:
        example.refresh_from_db()
    assert made[1].text.messages[1]["content"] == "Hello there" and made[1].state == "approved"
    assert made[3].text.content == {"text": "Mine."}
    there.annotations.create(task_of(made[1]).remote_id, result=wrong)
    sync(link)
    assert "must alternate" in task_of(made[1]).problem


def test_a_lost_answer_makes_no_second_task(dataset, server, trainer, there, monkeypatch):
    import_tasks, calls = Client.import_tasks, []

    def lose(self, project, rows):
        ids = import_tasks(self, project, rows)
        calls.append(len(rows))
        if len(calls) == 1:  # Label Studio has them; its answer never comes
            raise LabelStudioError(Trouble.UNCERTAIN, "lost")
        return ids

    monkeypatch.setattr(Client, "import_tasks", lose)
    link = send(dataset, server, trainer)
    assert (calls, len(remote_ids(there, link))) == ([MANY], MANY)
    assert not LabelStudioTask.objects.filter(remote_id=None).exists()


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_worker_that_dies_around_a_push_leaves_nothing_double(moment, dataset, server, trainer, there, monkeypatch):
    import_tasks = Client.import_tasks
    monkeypatch.setattr(sending, "SETTLE_SECONDS", (0.5, 1))

    def die(self, project, rows):
        if moment == "after":
            import_tasks(self, project, rows)
        raise RuntimeError("killed here")

    with monkeypatch.context() as patch:
        patch.setattr(Client, "import_tasks", die)
        services.start_sending(actor=trainer, dataset=dataset, server=server, chosen={})
        run_all()
    Job.objects.filter(kind="datasets.label_studio_send").update(not_before=None)
    run_all()
    link = LabelStudioLink.objects.get(dataset=dataset)
    assert len(remote_ids(there, link)) == MANY
    found = {there.tasks.get(str(task.remote_id)).data["example"] for task in LabelStudioTask.objects.all()}
    assert found == {str(example.pk) for example in dataset.examples.all()}


def test_the_config_changed_there_stops_and_is_put_back(dataset, link, there, trainer, client_of):
    project = link.projects.get()
    config = there.projects.get(project.remote_id).label_config
    there.projects.update(project.remote_id, label_config=config.replace('value="reject"', 'value="drop"'))
    annotate(there, dataset.examples.first(), "approve")
    link = sync(link)
    assert link.state == "paused" and "labelling config was changed in Label Studio" in link.problem
    assert dataset.examples.first().state == "draft"
    client_of(trainer).post(reverse("label_studio_act", args=[dataset.pk, "restore"]))
    run_all()
    link.refresh_from_db()
    assert (link.state, link.problem) == ("in step", "")
    assert dataset.examples.first().state == "approved"


def test_the_project_deleted_there_and_begun_anew(dataset, link, server, there, trainer, client_of):
    annotate(there, dataset.examples.first(), "approve")
    sync(link)
    there.projects.delete(link.projects.get().remote_id)
    link = sync(link)
    assert link.state == "paused" and "was deleted in Label Studio" in link.problem
    client_of(trainer).post(reverse("label_studio_act", args=[dataset.pk, "anew"]))
    assert dataset.examples.first().state == "approved"
    link = send(dataset, server, trainer, state="draft")
    assert len(remote_ids(there, link)) == MANY - 1


def test_a_task_deleted_there_is_told_and_sent_again(dataset, link, server, there, trainer, client_of):
    first = dataset.examples.first()
    there.tasks.delete(str(task_of(first).remote_id))
    sync(link, looks_whole=True)
    assert task_of(first).outcome == "gone"
    page = client_of(trainer).get(reverse("label_studio", args=[dataset.pk])).content.decode()
    assert "The task was deleted in Label Studio; send the example again" in page
    send(dataset, server, trainer)
    assert task_of(first).outcome == "open" and len(remote_ids(there, link)) == MANY


def test_the_server_stopped_and_started_again(dataset, link, away, there, trainer, client_of):
    first, second = dataset.examples.all()[:2]
    annotate(there, first, "approve")
    with away():
        link = sync(link)
        assert link.state == "waiting" and "cannot be reached" in link.problem
        assert LabelStudioServer.objects.get().state == "failing"
        page = client_of(trainer).get(reverse("label_studio", args=[dataset.pk])).content.decode()
        assert "cannot be reached. See that it runs and that this machine reaches the address" in page
        assert "It goes on by itself when Label Studio answers again." in page
        examples.edit_example(actor=trainer, example=second, content=turns("What is 1?", "Edited meanwhile."))
        services.start_sending(actor=trainer, dataset=dataset, server=link.server, chosen={})
        for _ in range(5):  # its attempts
            run_all()
            Job.objects.filter(kind="datasets.label_studio_send").update(not_before=None)
        assert link.sendings.first().job.state == "failed"
    services.sync_all()  # what the schedule calls
    run_all()
    link.refresh_from_db()
    assert (link.state, dataset.examples.first().state) == ("in step", "approved")
    assert LabelStudioServer.objects.get().state == "working"
    assert link.sendings.first().job.state == "succeeded", "what could not be sent was not sent by itself"
    assert there.tasks.get(str(task_of(second).remote_id)).data["output"] == "Edited meanwhile."


def test_the_token_revoked_and_a_new_one_entered(dataset, link, server, there, tokens, operator, client_of):
    from tests.labelstudio.conftest import PASSWORD

    annotate(there, dataset.examples.first(), "approve")
    tokens.append(mint_token(server.url, PASSWORD))  # revokes the one before
    link = sync(link)
    sentence = "The token was revoked. An operator makes a new one in Label Studio under Account &amp; Settings"
    assert link.state == "waiting"
    client = client_of(operator)
    for url in (reverse("label_studio", args=[dataset.pk]), reverse("admin:datasets_app_labelstudioserver_changelist")):
        assert sentence in client.get(url).content.decode()
    change = reverse("admin:datasets_app_labelstudioserver_change", args=[server.pk])
    page = client.get(change).content.decode()
    assert server.token not in page and server.sealed_token not in page
    client.post(change, {"name": server.name, "url": server.url, "token": tokens[-1]})
    services.sync_all()
    run_all()
    link.refresh_from_db()
    assert (link.state, link.problem, dataset.examples.first().state) == ("in step", "", "approved")


@pytest.mark.parametrize(
    ("url", "token", "sentence"),
    [
        ("", "x" * 40, "does not know the token"),
        ("http://127.0.0.1:9", "", "cannot be reached"),
        ("/user/login", "", "is not Label Studio"),
    ],
)
def test_the_connection_test_says_what_is_wrong(url, token, sentence, server, operator, client_of):
    from datasets_app.meeting import meet

    if url:
        server.url = url if url.startswith("http") else server.url + url
    if token:
        server.token = token
    server.save()
    meet(server.pk)
    server.refresh_from_db()
    assert server.state == "failing" and sentence in server.problem
    page = client_of(operator).get(reverse("admin:datasets_app_labelstudioserver_changelist")).content.decode()
    assert sentence in page


def test_a_legacy_token_where_it_is_allowed_and_where_not(label_studio_server, server):
    there = httpx.Client(base_url=label_studio_server.url)
    access = there.post("/api/token/refresh/", json={"refresh": server.token}).json()["access"]
    headers = {"Authorization": f"Bearer {access}"}
    legacy = there.get("/api/current-user/token", headers=headers).json()["token"]
    with Client(server.url, legacy) as client:
        assert client.account().email == "portal@example.org"
    there.post("/api/jwt/settings", json={"legacy_api_tokens_enabled": False}, headers=headers)
    try:
        with pytest.raises(LabelStudioError, match="does not allow legacy tokens"):
            Client(server.url, legacy).account()
        with pytest.raises(LabelStudioError, match="lasts five minutes"):
            Client(server.url, access)
    finally:
        there.post("/api/jwt/settings", json={"legacy_api_tokens_enabled": True}, headers=headers)


def test_no_secret_and_no_text_in_the_logs_of_a_failing_sync(dataset, link, there, server, capfd, caplog):
    first = dataset.examples.first()
    annotate(there, first, "approve", output="The secret recipe.")
    there.projects.update(link.projects.get().remote_id, label_config="<View/>")
    sync(link)
    token = server.token
    LabelStudioServer.objects.update(url="http://127.0.0.1:9")
    sync(link)
    broken = LabelStudioServer.objects.get()
    broken.url, broken.token = server.url, "0" * 40
    broken.save()
    sync(link)
    told = capfd.readouterr()
    events = str(list(JobEvent.objects.values_list("payload", flat=True)))
    said = "\n".join([told.out, told.err, caplog.text, events, str(list(Job.objects.values()))])
    assert "label_studio_sync" in said
    for secret in (token, "0" * 40, "sessionid", "Bearer", "The secret recipe", "What is 0?", link.hook_secret):
        assert secret not in said
