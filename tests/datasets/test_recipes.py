"""Recipes of a project: worked out on a real passage, kept in versions, used to generate; trials of five passages."""

import json
from decimal import Decimal

import pytest
from django.urls import reverse

from datasets_app.engine.recipes import KINDS
from datasets_app.models import Example, Generation, GenerationCall, ModelServer, Recipe
from datasets_app.services import datasets, documents, recipes
from datasets_app.services import examples as examples_service
from datasets_app.services.errors import DatasetError
from finetune_site.api.services import make_token
from finetune_site.projects.models import AuditEntry
from tests.factories import run_all, words
from tests.ollama_double import DIGEST, MODEL, ollama_double

pytestmark = pytest.mark.django_db
COUNT = 12
TEXT = "\n\n".join(
    f"# Part P{number:02}\n\nPart number P{number:02} weighs {number + 20} kg." for number in range(COUNT)
)
HTMX = {"headers": {"HX-Request": "true"}}


@pytest.fixture
def document(project, trainer):
    made = documents.upload_document(actor=trainer, project=project, name="parts.md", blocks=[TEXT.encode()]).document
    run_all()
    made.refresh_from_db()
    assert made.chunks.count() == COUNT
    return made


@pytest.fixture
def dataset(project, trainer):
    return datasets.create_dataset(actor=trainer, project=project, name="Parts")


@pytest.fixture
def server():
    """A model that states the weight of a part, wrongly where `lies` says so."""
    with ollama_double() as double:
        double.lies = set()

        def answer(prompt):
            number = next(number for number in range(COUNT) if f"Part number P{number:02} weighs" in prompt)
            told = 999 if number in double.lies else number + 20
            item = {"questions": [f"What does part P{number:02} weigh?"], "answer": f"It weighs {told} kg."}
            tag = {"tag": "weights / parts"} if "weights / parts" in prompt else {}
            return json.dumps({"items": [{**item, **tag, "quotes": [f"Part number P{number:02} weighs {told} kg."]}]})

        double.answer = answer
        double.row = ModelServer.objects.create(
            name="House", provider="ollama", base_url=double.base_url, offered=MODEL, parallel=3
        )
        yield double


def typed(**fields):
    usual = {"template": "About {passage}: {manner}", "count": 2, "wordings": 1, "act": "keep"}
    return {**usual, **fields}


def test_a_recipe_is_tried_on_a_passage_kept_and_changed(project, trainer, viewer, client_of, document):
    client, viewing = client_of(trainer), client_of(viewer)
    page = words(client.get(reverse("recipe_list", args=[project.pk])))
    assert "Questions and answers" in page and "Preference pairs" in page and "Make it our own" in page
    assert "Make it our own" not in words(viewing.get(reverse("recipe_list", args=[project.pk])))
    url = reverse("recipe_create", args=[project.pk, "qa"])
    assert "Part number P00 weighs 20 kg." in words(client.get(url))
    part = client.post(url, typed(act="preview", audience="fitters", passage=3), **HTMX)
    assert "About Part P02" in words(part) and "Write for fitters." in words(part)
    assert "<html" not in part.content.decode()
    wrong = client.post(url, typed(name="Ours", template="No text"))
    assert wrong.status_code == 422 and "must hold {passage}" in words(wrong) and not Recipe.objects.exists()

    page = client.post(url, typed(name="Ours", tags_text=" weights / parts \n\nother"), follow=True)
    assert "The recipe is kept" in words(page)
    recipe = Recipe.objects.get()
    assert recipe.newest.settings == {"wordings": 1, "tags": ["weights / parts", "other"]}
    assert client.post(url, typed(name="Ours")).status_code == 422
    client.post(recipe.get_absolute_url(), typed(template="Again {passage}"))
    client.post(recipe.get_absolute_url(), typed(template="Again {passage}"))  # nothing differs: no version more
    assert [version.number for version in recipe.versions.all()] == [1, 2]
    assert "Again Part P00" in words(viewing.get(recipe.get_absolute_url()))
    assert "About Part P00" in words(viewing.get(recipe.get_absolute_url(), {"version": 1}))
    client.post(reverse("recipe_retire", args=[recipe.pk]))
    assert "is retired" in words(viewing.get(recipe.get_absolute_url()))
    assert "Ours" not in words(client.get(reverse("generate", args=[datasets_of(project, trainer).pk])))
    client.post(reverse("recipe_retire", args=[recipe.pk]), {"again": "1"})
    verbs = list(AuditEntry.objects.filter(verb__contains="recipe").order_by("pk").values_list("verb", flat=True))
    assert verbs == ["made the recipe", "changed the recipe", "retired the recipe", "offered again the recipe"]


def datasets_of(project, trainer):
    return datasets.create_dataset(actor=trainer, project=project, name="Other")


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("extraction", {"fields_text": "weight: with its unit", "instruction": "Extract."}),
        ("classification", {"labels_text": "light\nheavy"}),
        ("reasoning", {"count": 1, "is_reasoning_tagged": "on"}),
        ("summary", {}),
    ],
)
def test_a_kind_has_the_fields_that_mean_something_for_it(project, trainer, client_of, document, kind, fields):
    client, url = client_of(trainer), reverse("recipe_create", args=[project.pk, kind])
    form = client.get(url).context["form"]
    assert ("fields_text" in form.fields) == (kind == "extraction")
    assert ("labels_text" in form.fields) == (kind == "classification")
    assert ("count" in form.fields) == (kind == "reasoning")
    assert client.post(url, {"name": "Ours", "template": "{passage}", "act": "keep", **fields}).status_code == 302
    again = client.get(Recipe.objects.get().get_absolute_url()).context["form"]
    for name, value in fields.items():
        assert again.initial[name] == (True if value == "on" else value)
    if kind in ("extraction", "classification"):
        empty = {"name": "Other", "template": "{passage}", "act": "keep"}
        assert "one a line" in words(client.post(url, empty))


def test_examples_are_made_by_a_recipe_and_say_so(project, trainer, viewer, client_of, dataset, document, server):
    recipe = recipes.create_recipe(
        actor=trainer, project=project, name="Weights", kind="qa", template="Read {passage}\n{tags}",
        settings={"count": 1, "wordings": 1, "tags": ["weights / parts", "other"]},
    )  # fmt: skip
    server.lies = {4}
    client = client_of(trainer)
    chosen = {"everything": "on", "model": f"{server.row.pk}:{MODEL}", "wordings": 6, "recipe": recipe.pk}
    client.post(reverse("generate", args=[dataset.pk]), chosen)
    run_all()
    generation = Generation.objects.get()
    assert generation.job.state == "succeeded", generation.job.error_text
    assert generation.outcome_counts == {"made": COUNT}
    assert (generation.digest, generation.recipe.number) == (DIGEST, 1)
    recipes.edit_recipe(actor=trainer, recipe=recipe, template="Other {passage}", settings={})
    page = words(client.get(generation.get_absolute_url()))
    assert "Weights 1" in page and MODEL in page
    examples = {example.chunk_index: example for example in dataset.examples.select_related("call", "chunk")}
    assert len(examples) == COUNT
    assert {example.tag for example in examples.values()} == {"weights / parts"}
    assert {example.prompt_version for example in examples.values()} == {"Weights 1"}
    for index, example in examples.items():
        assert example.call.prompt.startswith(f"Read Part P{index:02}") and "items" in example.call.answer
        assert (example.call.tokens_in, example.call.tokens_out) == (9, 9)
        assert example.support == ("unverified" if index == 4 else "verified")
    assert server.asked[0]["options"]["num_ctx"] == 4096 and server.asked[0]["options"]["num_predict"] > 500
    mended = examples[4].text.content["messages"]
    mended = [mended[0], {"role": "assistant", "content": "It weighs 24 kg."}]
    examples_service.edit_example(actor=trainer, example=examples[6], content={"messages": mended})
    examples[6].refresh_from_db()
    assert examples[6].support == "unverified" and "The number 24 " in examples[6].doubts[0]  # of another part
    # The doubt is said where it is judged, found by the filter, and the request stands beside it.
    reading = client_of(viewer)
    page = words(reading.get(examples[4].get_absolute_url()))
    assert "The passage does not say “Part number P04 weighs 999 kg.”." in page
    assert "The number 999 does not stand in the passage." in page and "Read Part P04" in page
    listed = words(reading.get(reverse("example_list", args=[dataset.pk]), {"support": "unverified"}))
    assert "part P04" in listed and "part P05" not in listed
    assert "part P05" in words(reading.get(reverse("example_list", args=[dataset.pk]), {"tag": "weights"}))
    assert "No example matches" in words(reading.get(reverse("example_list", args=[dataset.pk]), {"tag": "weight"}))


def test_a_trial_shows_what_all_would_take_and_keeps_no_example(
    project, trainer, viewer, client_of, dataset, document, server
):
    server.row.price_in, server.row.price_out = Decimal("1000"), Decimal("2000")
    server.row.save()
    client, url = client_of(trainer), reverse("generate", args=[dataset.pk])
    chosen = {"everything": "on", "model": f"{server.row.pk}:{MODEL}", "wordings": 1, "recipe": "qa"}
    client.post(url, {**chosen, "act": "try"})
    run_all()
    trial = Generation.objects.get()
    assert trial.is_trial and trial.outcomes.count() == 5 and len(server.asked) == 5
    assert not Example.objects.exists() and len(trial.sample) == 5
    assert len(set(trial.outcomes.values_list("chunk_index", flat=True))) == 5
    response = client.get(trial.get_absolute_url())
    told = response.context["forecast"]
    assert (told.passages, told.examples, told.tokens_in, told.tokens_out) == (COUNT, COUNT, 108, 108)
    assert told.cost == Decimal("0.32") and (told.answers, told.followed) == (5, 5) and not told.is_tight
    page = words(response)
    assert "Make them from all 12 passages" in page and "What does part P01 weigh?" in page
    assert "You write training examples from a passage" in page and "in the passage" in page
    reading = client_of(viewer)
    assert "Make them from all" not in words(reading.get(trial.get_absolute_url()))
    go_on = reverse("generation_go_on", args=[trial.pk])
    assert reading.post(go_on).status_code == 403
    client.post(go_on)
    run_all()
    made = Generation.objects.latest("pk")
    assert (made.is_trial, made.options) == (False, trial.options) and made.examples.count() == COUNT
    with pytest.raises(DatasetError, match="A trial is not gone on with"):
        datasets.generate_again(actor=trainer, generation=trial, outcome="")
    assert "This is no trial" in words(client.post(reverse("generation_go_on", args=[made.pk]), follow=True))
    answer = client.post(url, {**chosen, "model": "extractive", "act": "try"})
    assert "Without a model there is nothing to try" in words(answer)


def test_a_trial_says_that_passages_may_not_fit(trainer, dataset, document, server, client_of):
    trial = datasets.start_generation(
        actor=trainer, dataset=dataset, documents=[document], generator="llm", server=server.row,
        options={"model": MODEL}, is_trial=True,
    )  # fmt: skip
    run_all()
    GenerationCall.objects.filter(generation=trial).update(tokens_in=3900, problem="it is no JSON")
    page = words(client_of(trainer).get(trial.get_absolute_url()))
    assert "3,909 of 4,096 tokens" in page and "longer passages may not fit" in page
    assert "0 of 5" in page and "try another one" in page


def test_a_recipe_that_cannot_be_is_refused_everywhere(project, trainer, dataset, document, server):
    for fields in ({"kind": "poem"}, {"kind": "qa", "template": "nothing"}, {"kind": "qa", "size": 1}):
        with pytest.raises(DatasetError):
            datasets.start_generation(
                actor=trainer, dataset=dataset, documents=[document], generator="llm", server=server.row,
                options={"model": MODEL, "recipe": fields},
            )  # fmt: skip
    assert not Generation.objects.exists()


def test_what_rests_on_a_passage_is_found_again_or_stale(project, trainer, client_of, dataset, document, server):
    datasets.start_generation(
        actor=trainer, dataset=dataset, documents=[document], generator="llm", server=server.row,
        options={"model": MODEL},
    )  # fmt: skip
    run_all()
    whole = document.path.read_text()
    longer = whole.replace("# Part P00", "# A new beginning\n\nOf it all.\n\n# Part P00")
    document.path.write_text(longer.replace("25 kg", "26 kg"))
    documents.parse_again(actor=trainer, document=document)
    run_all()
    found = {example.text.answer: example for example in dataset.examples.select_related("chunk", "text")}
    moved, lost = found["It weighs 21 kg."], found["It weighs 25 kg."]
    assert moved.support == "verified" and moved.chunk_index == 2
    assert [text for text, is_quoted in moved.source_parts if is_quoted] == ["Part number P01 weighs 21 kg."]
    assert lost.support == "stale" and lost.chunk is None
    page = words(client_of(trainer).get(lost.get_absolute_url()))
    assert "The passage has changed since" in page and "Part number P05 weighs 25 kg." in page
    document.path.write_text(whole)
    documents.parse_again(actor=trainer, document=document)
    run_all()
    lost.refresh_from_db()
    assert lost.support == "verified" and lost.chunk_index == 5


def test_a_program_makes_recipes_tries_them_and_reads_the_requests(project, trainer, client, dataset, document, server):
    secret = make_token(actor=trainer, name="T", scopes=["read", "write"])[1]
    door = {"headers": {"Authorization": f"Bearer {secret}"}, "content_type": "application/json"}

    def call(method, path, body=None):
        answer = getattr(client, method)(f"/api/v1{path}", *([json.dumps(body)] if body else []), **door)
        return answer.status_code, answer.json()

    kinds = call("get", "/recipe-kinds")[1]["items"]
    assert {kind["key"] for kind in kinds} == set(KINDS) and "{passage}" in kinds[0]["template"]
    sent = {"name": "Ours", "kind": "qa", "template": "Read {passage}", "settings": {"count": 1}}
    status, made = call("post", f"/projects/{project.pk}/recipes", sent)
    assert (status, made["number"]) == (201, 1)
    assert call("post", f"/projects/{project.pk}/recipes", {**sent, "name": "X", "template": "nothing"})[0] == 409
    assert call("put", f"/recipes/{made['id']}", {"template": "Again {passage}"})[1]["number"] == 2
    assert call("get", f"/projects/{project.pk}/recipes")[1]["items"][0]["template"] == "Again {passage}"
    asked = {"documents": [document.pk], "generator": f"{server.row.pk}:{MODEL}", "recipe": str(made["id"])}
    status, trial = call("post", f"/datasets/{dataset.pk}/generate", {**asked, "is_trial": True})
    assert status == 201
    assert call("get", f"/generations/{trial['id']}/forecast")[0] == 409
    run_all()
    told = call("get", f"/generations/{trial['id']}/forecast")[1]
    assert (told["passages"], told["followed"], told["tokens_in"]) == (COUNT, 5, 108)
    status, whole = call("post", f"/generations/{trial['id']}/go-on")
    assert status == 201
    run_all()
    shown = call("get", f"/generations/{whole['id']}")[1]
    assert (shown["examples"], shown["digest"], shown["recipe"]["name"]) == (COUNT, DIGEST, "Ours")
    calls = call("get", f"/generations/{whole['id']}/calls")[1]
    assert calls["count"] == COUNT and calls["items"][0]["prompt"].startswith("Again Part P")
    found = call("get", f"/datasets/{dataset.pk}/examples?support=verified")[1]
    assert found["count"] == COUNT and found["items"][0]["evidence"][0]["match"] == "exact"
    assert call("post", f"/recipes/{made['id']}/retire", {"is_offered": False})[1]["retired_at"]
    assert call("post", f"/datasets/{dataset.pk}/generate", asked)[0] == 422
