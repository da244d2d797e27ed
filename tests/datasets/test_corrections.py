"""What people correct in a document stands in its passages, and stands again after the next reading."""

import shutil

import pytest
from django.urls import reverse
from django.utils import timezone
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit

from datasets_app.engine import names
from datasets_app.models import Correction, Document
from datasets_app.services import corrections, documents, readings
from datasets_app.services.documents import DocumentError
from finetune_site.jobs.models import Job
from finetune_site.projects.models import AuditEntry
from tests.factories import run_all

pytestmark = pytest.mark.django_db
TEXT = """# The Orrin pump

It wieghs 12 kg and runs for a year.

It is red.

# Care

Oil it every week.

It is red.
"""


@pytest.fixture
def pump(project, trainer):
    """A small document, read."""
    made = documents.upload_document(actor=trainer, project=project, name="pump.md", blocks=[TEXT.encode()]).document
    run_all()
    return Document.objects.get(pk=made.pk)


def texts(document):
    return [element.text for element in document.elements.all()]


def passages(document):
    return [chunk.text for chunk in document.chunks.all()]


def read_again(document, actor, **settings):
    document.refresh_from_db()
    from datasets_app.engine.spec import Reading

    documents.parse_again(actor=actor, document=document, reading=Reading(**settings) if settings else None)
    run_all()
    document.refresh_from_db()


def index_of(document, text, nth=0):
    return list(document.elements.filter(text=text).values_list("index", flat=True))[nth]


def test_a_text_is_mended_and_stays_mended(pump, trainer):
    wrong = "It wieghs 12 kg and runs for a year."
    right = wrong.replace("wieghs", "weighs")
    corrections.correct_element(actor=trainer, document=pump, index=index_of(pump, wrong), text=right, kind="text")
    run_all()
    assert right in texts(pump) and any(right in passage for passage in passages(pump))
    for chunk in pump.chunks.all():  # each span is its piece's text, as the evidence of examples needs
        for index, start, end in chunk.spans:
            assert chunk.text[start:end] == pump.elements.get(index=index).text
    read_again(pump, trainer)
    assert right in texts(pump) and wrong not in "".join(passages(pump))
    entry = AuditEntry.objects.filter(verb="corrected a piece of").get()
    assert (entry.before["text"], entry.after["text"], entry.actor) == (wrong, right, trainer)


def test_a_piece_left_out_is_in_no_passage_and_its_twin_is(pump, trainer):
    second = index_of(pump, "It is red.", nth=1)
    corrections.leave_element_out(actor=trainer, document=pump, index=second, is_out=True)
    run_all()
    for _ in range(2):
        assert [element.is_left_out for element in pump.elements.filter(text="It is red.")] == [False, True]
        assert ["It is red." in passage for passage in passages(pump)] == [True, False]
        read_again(pump, trainer)
    corrections.leave_element_out(actor=trainer, document=pump, index=second, is_out=False)
    run_all()
    assert not Correction.objects.exists() and all("It is red." in passage for passage in passages(pump))


def test_a_heading_that_is_none_parts_nothing(pump, trainer):
    care = index_of(pump, "Care")
    corrections.correct_element(actor=trainer, document=pump, index=care, text="Care", kind="text")
    run_all()
    assert len(passages(pump)) == 1
    assert {tuple(element.section) for element in pump.elements.all()} == {("The Orrin pump",)}
    read_again(pump, trainer)
    assert len(passages(pump)) == 1
    corrections.restore_element(actor=trainer, document=pump, index=care)
    run_all()
    assert len(passages(pump)) == 2 and not Correction.objects.exists()


def test_what_is_not_found_again_is_told_and_can_be_given_up(pump, trainer, client_of):
    index = index_of(pump, "Oil it every week.")
    corrections.correct_element(actor=trainer, document=pump, index=index, text="Oil it daily.", kind="text")
    run_all()
    pump.path.write_text("# Something else\n\nQuite another text stands here now.\n")
    read_again(pump, trainer)
    [lost] = pump.corrections.all()
    assert lost.element_index is None
    page = client_of(trainer).get(pump.get_absolute_url()).content.decode()
    assert "Corrections that were not found again" in page and "Oil it every week." in page
    client_of(trainer).post(reverse("correction_forget", args=[pump.pk, lost.pk]))
    assert not pump.corrections.exists()


def test_one_that_was_found_is_not_given_up_by_that(pump, trainer, client_of):
    corrections.leave_element_out(actor=trainer, document=pump, index=1, is_out=True)
    client_of(trainer).post(reverse("correction_forget", args=[pump.pk, pump.corrections.get().pk]))
    assert pump.corrections.exists()


def test_several_corrections_wait_for_one_cut(pump, trainer):
    Job.objects.all().delete()
    pump.refresh_from_db()
    for index in range(3):
        corrections.leave_element_out(actor=trainer, document=pump, index=index, is_out=True)
    assert Job.objects.filter(kind="datasets.cut").count() == 1
    run_all()
    assert pump.chunks.count() == 1


def test_what_cannot_be_is_refused_in_a_sentence(pump, trainer):
    for fields, told in (
        ({"text": " \n ", "kind": "text"}, "between 1 and"),
        ({"text": "x" * 20_001, "kind": "text"}, "between 1 and"),
        ({"text": "x", "kind": "poem"}, "must be one of"),
        ({"text": "x", "kind": "title", "depth": 9}, "depth lies"),
    ):
        with pytest.raises(DocumentError, match=told):
            corrections.correct_element(actor=trainer, document=pump, index=0, **fields)
    with pytest.raises(DocumentError, match="read anew meanwhile"):
        corrections.leave_element_out(actor=trainer, document=pump, index=999, is_out=True)
    assert not Correction.objects.exists()


def test_a_page_left_out_stays_out(project, trainer):
    from tests.engine.test_parse import SAMPLES

    content = (SAMPLES / "kestrel-40-manual.pdf").read_bytes()
    manual = documents.upload_document(actor=trainer, project=project, name="m.pdf", blocks=[content]).document
    run_all()
    manual.refresh_from_db()
    corrections.leave_page_out(actor=trainer, document=manual, page=4, is_out=True)
    run_all()
    for _ in range(2):
        assert not manual.chunks.filter(page_start__lte=4, page_end__gte=4).exists()
        assert not any("Lorvan 150" in passage for passage in passages(manual))
        read_again(manual, trainer)
    alone = manual.elements.filter(page=4).first()
    with pytest.raises(DocumentError, match="Take the page in first"):
        corrections.leave_element_out(actor=trainer, document=manual, index=alone.index, is_out=False)
    corrections.leave_element_out(actor=trainer, document=manual, index=alone.index, is_out=True)
    corrections.leave_page_out(actor=trainer, document=manual, page=4, is_out=False)
    run_all()
    assert any("Lorvan 150" in passage for passage in passages(manual))
    assert list(manual.elements.filter(is_left_out=True)) == [alone]
    with pytest.raises(DocumentError, match="no page 99"):
        corrections.leave_page_out(actor=trainer, document=manual, page=99, is_out=True)


def test_the_page_corrects_and_leaves_out(pump, trainer, client_of):
    client = client_of(trainer)
    index = index_of(pump, "Oil it every week.")
    form = client.get(reverse("element", args=[pump.pk, index])).content.decode()
    assert "Oil it every week." in form
    act = reverse("element_act", args=[pump.pk, index, "correct"])
    assert client.post(act, {"text": "", "kind": "text"}).status_code == 422
    answer = client.post(act, {"text": "Oil it <b>daily</b>.", "kind": "text"}, headers={"HX-Request": "true"})
    assert "Oil it &lt;b&gt;daily&lt;/b&gt;." in answer.content.decode() and "corrected" in answer.content.decode()
    answer = client.post(reverse("element_act", args=[pump.pk, index, "leave-out"]))
    assert answer.url.endswith(f"#e{index}")
    assert "left out" in client.get(pump.get_absolute_url()).content.decode()


def test_other_passages_are_previewed_and_cut(pump, trainer, viewer, client_of):
    client, url = client_of(trainer), reverse("document_reading", args=[pump.pk])
    typed = {
        "strategy": "auto", "languages": "eng", "first_page": 1, "last_page": 0, "finds_tables": "on", "cut": "section",
        "passage_size": 200, "overlap": 0,
    }  # fmt: skip
    before = passages(pump)
    answer = client.post(url, {**typed, "passage_size": 20, "act": "preview"})
    assert answer.status_code == 422 and passages(pump) == before
    answer = client.post(url, {**typed, "act": "preview"}, headers={"HX-Request": "true"})
    assert "2 passages (now 2)" in answer.content.decode() and passages(pump) == before
    answer = client.post(url, {**typed, "act": "cut", "is_default": "on"})
    run_all()
    pump.refresh_from_db()
    assert answer.url == pump.get_absolute_url() and pump.reading == {"passage_size": 200}
    made = documents.upload_document(actor=trainer, project=pump.project, name="b.md", blocks=[b"# A\n\nSome text."])
    assert made.document.reading == {"passage_size": 200}


@pytest.fixture
def word_model(bundled):
    """A base model that is ready, whose tokens are words."""
    tokenizer = Tokenizer(WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    bundled.folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(bundled.folder / "tokenizer.json"))
    bundled.ready_at = timezone.now()
    bundled.save(update_fields=["ready_at"])
    yield bundled
    shutil.rmtree(bundled.folder)


def test_passages_are_measured_in_tokens_of_a_base(project, trainer, client_of, word_model):
    text = "# Words\n\n" + "\n\n".join(" ".join([word] * 24) for word in ("extraordinarily", "a", "bb"))
    made = documents.upload_document(actor=trainer, project=project, name="w.md", blocks=[text.encode()]).document
    run_all()
    client, url = client_of(trainer), reverse("document_reading", args=[made.pk])
    typed = {
        "strategy": "auto", "languages": "eng", "first_page": 1, "last_page": 0, "cut": "section", "overlap": 0,
        "passage_size": 50, "tokens_of": word_model.name,
    }  # fmt: skip
    page = client.post(url, {**typed, "act": "preview"}, headers={"HX-Request": "true"}).content.decode()
    assert "2 passages (now 1)" in page and "49 tokens" in page
    assert client.post(url, {**typed, "passage_size": 49, "act": "preview"}).status_code == 422
    client.post(url, {**typed, "act": "cut"})
    run_all()
    assert [len(passage.split()) for passage in passages(made)] == [49, 24]  # the first with its heading
    # Without the model four characters are taken for a token: the long words make a passage of their own.
    word_model.ready_at = None
    word_model.save(update_fields=["ready_at"])
    made.refresh_from_db()
    documents.cut_again(actor=trainer, document=made, reading=made.reading_settings)
    run_all()
    assert [len(passage.split()) for passage in passages(made)] == [25, 48]
    assert "which is not here" in client.get(url).content.decode()


def test_two_readings_are_compared(pump, trainer, viewer, client_of):
    url = reverse("document_compare", args=[pump.pk])
    assert "One reading so far" in client_of(viewer).get(url).content.decode()
    pump.path.write_text(TEXT.replace("Oil it every week.", "Oil it every day."))
    read_again(pump, trainer, keeps_running_heads=True)
    page = client_of(viewer).get(url).content.decode()
    assert "Oil it every week." in page and "Oil it every day." in page and "keeps running heads" in page
    for _ in range(3):
        read_again(pump, trainer)
    assert pump.parsings.count() == readings.KEPT_PARSINGS


def test_personal_data_is_told_and_masked_for_good(project, trainer, viewer, client_of):
    text = "# Contact\n\nWrite to ada@example.org.\n\nada@example.org\n\nThe pump is red.\n"
    made = documents.upload_document(actor=trainer, project=project, name="c.md", blocks=[text.encode()]).document
    run_all()
    made.refresh_from_db()
    assert made.health["personal"] == {"e-mail address": 2}
    assert "2 e-mail addresses" in client_of(viewer).get(made.get_absolute_url()).content.decode()
    client_of(trainer).post(reverse("document_mask", args=[made.pk]))
    run_all()
    for _ in range(2):
        assert texts(made)[1:3] == ["Write to [e-mail address].", "[e-mail address]"]
        assert "ada@" not in "".join(passages(made))
        read_again(made, trainer)
    assert corrections.mask_personal(actor=trainer, document=made) == 0
    [entry] = AuditEntry.objects.filter(verb__startswith="masked")
    assert entry.after == {"pieces": 2} and not AuditEntry.objects.filter(before__icontains="ada@").exists()


def test_names_that_were_asked_for_are_ticked_and_masked(project, trainer, viewer, client_of):
    text = "# Contact\n\nWrite to Amelia Brannick in London.\n\nThe gearbox is hers. Amelia\nBrannick made it.\n"
    made = documents.upload_document(actor=trainer, project=project, name="n.md", blocks=[text.encode()]).document
    run_all()
    url = reverse("document_mask", args=[made.pk])
    assert "Not looked for" in client_of(viewer).get(made.get_absolute_url()).content.decode()
    read_again(made, trainer, finds_names=True)
    made.refresh_from_db()
    found = {each["text"]: (each["kind"], each["count"]) for each in made.health["names"]}
    assert found["Amelia Brannick"] == ("name", 2) and found["London"] == ("place", 1)
    client = client_of(trainer)
    page = client.post(url, {"names": "ticked"}, follow=True).content.decode()
    assert "Tick the names" in page and "Amelia Brannick" in page
    client.post(url, {"names": "ticked", "name": ["Amelia Brannick", "gearbox"]})
    run_all()
    assert texts(made)[1:] == ["Write to [name] in London.", "The gearbox is hers. [name] made it."]


def test_without_the_package_names_are_not_offered(pump, trainer, client_of, monkeypatch):
    monkeypatch.setattr(names.importlib.util, "find_spec", lambda name: None)
    page = client_of(trainer).get(reverse("document_reading", args=[pump.pk])).content.decode()
    assert "presidio-analyzer" in page
    warnings: list[str] = []
    assert names.find([], "en", warnings, lambda done, total: None) == [] and "presidio-analyzer" in warnings[0]


def test_a_document_that_is_only_being_cut_can_be_read_anew(pump, trainer):
    index = index_of(pump, "Oil it every week.")
    corrections.leave_element_out(actor=trainer, document=pump, index=index, is_out=True)
    pump.refresh_from_db()
    assert pump.is_busy and pump.job.kind == documents.CUT
    documents.parse_again(actor=trainer, document=pump)
    with pytest.raises(documents.DocumentError, match="being parsed already"):
        documents.parse_again(actor=trainer, document=pump)
    run_all()
    pump.refresh_from_db()
    assert pump.job.state == "succeeded" and pump.job.kind == documents.PARSE
    assert "Oil it every week." not in "".join(passages(pump))
