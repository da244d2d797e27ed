"""Base models as Ollama names them: found, compared, contradicted, and in need read back from Ollama's own file."""

import pytest
from django.urls import reverse
from django.utils import timezone

from datasets_app.models import ModelServer
from finetune_site.jobs.models import Job, Machine
from finetune_site.lib.files import sha256_of
from tests.factories import make_user, run_all
from training_app import serving
from training_app.engine.bundled import find_gguf
from training_app.models import BaseModel, OllamaState, Run
from training_app.ollama import Client
from training_app.services import bases
from training_app.services import runs as services

pytestmark = [pytest.mark.slow, pytest.mark.django_db]
HELD = {"size": 2_000_000_000, "parameters": "3.2B", "quantization": "Q4_K_M", "family": "llama", "is_remote": False}


@pytest.fixture
def server(double):
    return ModelServer.objects.create(name="Big box", provider="ollama", base_url=double.base_url, offered="")


def hold(double, name, path):
    """Have the double fetch a file under a name."""
    double.registry[name] = path
    with Client(double.base_url) as client:
        client.pull(name, lambda *_: None)


def write_gguf(path, architecture="llama", **facts):
    """A GGUF of keys alone."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    for name, value in facts.items():
        key = name.replace("__", ".")
        key = key if key.startswith(("general.", "tokenizer.")) else f"{architecture}.{key}"
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, list):
            writer.add_array(key, value)
        else:
            writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def met(server, *models, **told):
    """The server as a worker would have met it: names with digests, and by digest what it said of them."""
    held = [{**HELD, "name": name, "digest": digest, **more} for name, digest, more in models]
    fields = {"held": held, "told": told, "seen_at": timezone.now()}
    return OllamaState.objects.update_or_create(server=server, defaults=fields)[0]


def page_of(client, **query) -> str:
    return client.get(reverse("base_models"), query).content.decode()


def test_the_list_joins_servers_catalogue_and_bases(server, operator, viewer, client_of, bundled):
    met(
        server,
        ("smollm2:135m", "a" * 64, {}),
        ("llama3.2:3b", "b" * 64, {}),
        ("gemma3:4b", "c" * 64, {}),
        ("nomic-embed-text:latest", "d" * 64, {}),
        ("kimi-k2:1t-cloud", "e" * 64, {"is_remote": True}),
        ("our-own:latest", "f" * 64, {}),
        ("copied:latest", "b" * 64, {}),
        ("ft/manual:v1", "1" * 64, {}),
        ("qwen2.5:72b", "2" * 64, {}),
        **{"d" * 64: {"architecture": "nomic-bert", "capabilities": ["embedding"]}},
    )
    Machine.objects.create(
        host="m", facts={"processor": {"memory_total": 16 * 10**9}, "gpus": []}, seen_at=server.ollama_state.seen_at
    )
    found = {offer.name: offer for offer in bases.offers()}
    assert "ft/manual:v1" not in found  # published from here
    assert found["smollm2:135m"].base == bundled and found["smollm2:135m"].holdings[0].digest == "a" * 64
    assert found["llama3.2:3b"].can_be_added and found["llama3.2:3b"].gate == "gated"
    assert (found["copied:latest"].repository, found["copied:latest"].how) == (
        "meta-llama/Llama-3.2-3B-Instruct",
        "the same file under another name",
    )
    reasons = {name: offer.hindrance for name, offer in found.items()}
    assert "reads images" in reasons["gemma3:4b"] and "embeddings" in reasons["nomic-embed-text:latest"]
    assert "cloud model" in reasons["kimi-k2:1t-cloud"]
    assert reasons["qwen2.5:72b"] == (
        "it needs about 45 GB even with its base in 4 bits, and the largest machine here has 16 GB"
    )
    assert not found["our-own:latest"].can_be_added and found["our-own:latest"].repository == ""

    page = page_of(client_of(viewer))
    assert "made ready at first use" in page and "HF_TOKEN" in page and "Big box" in page
    assert "Can be added by an operator." in page and "Add as base" not in page
    assert "until an operator says where its weights lie" in page
    assert "Add as base" in page_of(client_of(operator))
    assert "llama3.2:3b" not in page_of(client_of(viewer), words="gemma3")
    assert "granite4:micro" in page_of(client_of(viewer), words="granite", is_whole="on")
    body = client_of(viewer).get(reverse("base_models_body"))
    assert b"<html" not in body.content and b"llama3.2:3b" in body.content


def test_operators_add_what_is_known_and_point_at_the_rest(
    server, operator, viewer, client_of, settings, tmp_path, bundled
):
    met(server, ("llama3.2:3b", "b" * 64, {}), ("gemma3:4b", "c" * 64, {}), ("own:1b", "d" * 64, {}))
    client = client_of(operator)
    client.post(reverse("base_add"), {"name": "llama3.2:3b"})
    base = BaseModel.objects.get(name="llama3.2:3b")
    assert (base.source, base.location, base.licence, base.how) == (
        "hub",
        "meta-llama/Llama-3.2-3B-Instruct",
        "Llama 3.2",
        "catalogue",
    )
    assert base.parameters == 3_210_000_000
    for name, sentence in {
        "gemma3:4b": "also reads images",
        "own:1b": "Say where the weights",
        "": "Say where",
    }.items():
        page = client.post(reverse("base_add"), {"name": name}, follow=True).content.decode()
        assert sentence in page

    settings.MODEL_FOLDERS = [str(tmp_path)]
    fields = {"name": "own:1b", "source": "folder", "licence": "ours"}
    for location, sentence in {"/etc": "below one of FINETUNE_MODEL_FOLDERS", "": "Enter the repository"}.items():
        page = client.post(reverse("base_point"), {**fields, "location": location}).content.decode()
        assert sentence in page
    assert (
        "owner/name"
        in client.post(reverse("base_point"), {**fields, "source": "hub", "location": "x y"}).content.decode()
    )
    client.post(reverse("base_point"), {**fields, "location": str(tmp_path / "own")})
    client.post(reverse("base_point"), {**fields, "location": str(tmp_path / "other")})
    assert BaseModel.objects.get(name="own:1b").location == str(tmp_path / "other")
    for name, sentence in {"../x": "as Ollama writes it", "smollm2:135m": "comes with the site and stays"}.items():
        named = {"name": name, "source": "hub", "location": "a/b"}
        assert sentence in client.post(reverse("base_point"), named).content.decode()
    client.post(reverse("base_point"), {**fields, "name": "untagged", "location": str(tmp_path / "x")})
    assert BaseModel.objects.filter(name="untagged:latest").exists()
    page = client.post(reverse("base_point"), {**fields, "source": "gguf"}).content.decode()
    assert "FINETUNE_OLLAMA_MODELS" in page
    for act in ("base_add", "base_point"):
        assert client_of(viewer).post(reverse(act), {"name": "x:1"}).status_code == 403


def test_weights_that_a_run_stands_on_are_not_replaced(project, version, base, trainer, operator, client_of):
    run = plan(project, version, base, trainer)
    run.job = Job.objects.create(project=project, owner=trainer, kind="training.train", queue="gpu", label="R")
    run.save()
    fields = {"name": base.name, "source": "hub", "location": "a/b"}
    page = client_of(operator).post(reverse("base_point"), fields).content.decode()
    assert "1 run stands on tiny:1 as it is" in page
    assert BaseModel.objects.get(pk=base.pk).location == base.location


def test_planned_runs_go_on_to_other_weights(project, version, base, trainer, operator, client_of):
    run = plan(project, version, base, trainer)
    BaseModel.objects.filter(pk=base.pk).update(shapes=[{"what": "layers", "ollama": "1", "weights": "2", "ok": False}])
    client_of(operator).post(reverse("base_point"), {"name": base.name, "source": "hub", "location": "a/b"})
    run.refresh_from_db()
    assert (run.base_id, run.base.location, run.base.shapes, run.base.is_ready) == (base.pk, "a/b", [], False)


def plan(project, version, base, person):
    return services.plan_run(
        actor=person, project=project, name="R", version=version, base=base, method="lora", preset="quick", config={}
    )


TINY = {"block_count": 2, "embedding_length": 64, "feed_forward_length": 128, "vocab_size": 600}


def test_a_run_keeps_what_its_base_was(project, version, base, trainer, client_of, server, double, tmp_path):
    hold(double, "tiny:1", write_gguf(tmp_path / "tiny.gguf", **TINY))
    serving.look(server.pk)
    run = plan(project, version, base, trainer)
    assert (run.base_identity["digest"], run.base_identity["standing"]) == ("", "not compared with Ollama")
    run_all()
    run.refresh_from_db()
    assert run.preview_job.state == "succeeded", run.preview_job.error_text
    digest = double.models["tiny:1"].digest
    kept = run.base_identity
    assert (kept["name"], kept["server"], kept["digest"]) == ("tiny:1", "Big box", digest)
    assert kept["standing"] == "verified" and len(kept["sha256"]) == 64
    base.refresh_from_db()
    told = {line.what: line.ok for line in base.lines}
    assert told == dict.fromkeys(["architecture", "layers", "width", "inner width", "tokens of vocabulary"], True)
    client = client_of(trainer)
    page = client.get(run.get_absolute_url()).content.decode()
    assert "verified on Big box" in page and digest[:12] in page
    assert digest in client.get(reverse("run_card", args=[run.pk])).content.decode()
    assert client.get(reverse("run_spec", args=[run.pk])).json()["base_identity"] == kept

    Run.objects.filter(pk=run.pk).update(started={"step": 1})
    run.base.name = "another:1b"
    services.note_identity(run)
    run.refresh_from_db()
    assert run.base_identity == kept


def test_a_contradicted_base_cannot_be_started(
    project, version, base, trainer, operator, client_of, server, double, tmp_path
):
    hold(double, "tiny:1", write_gguf(tmp_path / "other.gguf", **TINY | {"block_count": 28, "embedding_length": 3072}))
    serving.look(server.pk)
    run = plan(project, version, base, trainer)
    run_all()
    found = f"tiny:1 on Big box is not what {base.location} holds: layers 28 there, 2 here; width 3072 there, 64 here."
    run.preview_job.refresh_from_db()
    assert run.preview_job.error_code == "input" and found in run.preview_job.error_text
    contradicted = BaseModel.objects.get(pk=base.pk)
    with pytest.raises(services.TrainingError, match="layers 28 there, 2 here"):
        plan(project, version, contradicted, trainer)
    page = page_of(client_of(operator))
    assert "contradicted" in page and found in page
    form = client_of(trainer).get(reverse("run_create", args=[project.pk])).content.decode()
    assert f'<option value="{base.pk}" disabled' in form
    assert "contradicted (its shapes are others)" in form

    hold(double, "tiny:1", write_gguf(tmp_path / "mended.gguf", **TINY))
    serving.look(server.pk)
    assert BaseModel.objects.get(pk=base.pk).standing == "again"
    assert "to be verified again" in page_of(client_of(operator))
    client_of(operator).post(reverse("base_make_ready", args=[base.pk]))
    run_all()
    mended = BaseModel.objects.get(pk=base.pk)
    assert mended.job.state == "succeeded" and mended.standing == "verified"
    ModelServer.objects.filter(pk=server.pk).update(base_url="http://127.0.0.1:9")
    serving.compare_base(mended)  # away: what was compared stays
    assert BaseModel.objects.get(pk=base.pk).standing == "verified"


def test_ollamas_own_file_is_a_base_in_need(
    project, version, trainer, operator, client_of, server, double, settings, store, read_back, tmp_path
):
    hold(double, "in-house:135m", find_gguf())
    serving.look(server.pk)
    client = client_of(operator)
    fields = {"name": "in-house:135m", "source": "gguf"}
    assert "FINETUNE_OLLAMA_MODELS" in client.post(reverse("base_point"), fields).content.decode()

    settings.OLLAMA_MODELS = str(tmp_path)  # another one's folder
    client.post(reverse("base_point"), fields)
    base = BaseModel.objects.get(name="in-house:135m")
    assert (base.source, base.location) == ("gguf", sha256_of(find_gguf()))
    client.post(reverse("base_make_ready", args=[base.pk]))
    run_all()
    assert "cannot be read in FINETUNE_OLLAMA_MODELS" in BaseModel.objects.get(pk=base.pk).job.error_text

    settings.OLLAMA_MODELS = str(store)
    base.folder.parent.mkdir(parents=True, exist_ok=True)
    base.folder.symlink_to(read_back)  # as the engine makes it of this store; it takes half a minute
    run = plan(project, version, base, trainer)
    run_all()
    run.refresh_from_db()
    assert run.preview_job.state == "succeeded", run.preview_job.error_text
    assert run.preview["rows"]["train"] == version.counts["train"] and run.preview["trainable_parameters"] > 0
    base.refresh_from_db()
    assert base.standing == "verified" and len(base.lines) == 9
    label = "made from Ollama&#x27;s quantised file: lower quality"
    for url in (reverse("base_models"), run.get_absolute_url()):
        assert label in client_of(trainer).get(url).content.decode()
    form = client_of(trainer).get(reverse("run_create", args=[project.pk])).content.decode()
    assert "made from a quantised file: lower quality" in form


def test_an_offline_site_points_a_tag_at_a_local_folder(
    server, operator, client_of, tiny_folder, settings, double, tmp_path
):
    hold(double, "smollm2:360m", write_gguf(tmp_path / "tiny.gguf", **TINY))
    serving.look(server.pk)
    settings.MODEL_FOLDERS = [str(tiny_folder.parent)]
    fields = {"name": "smollm2:360m", "source": "folder", "location": str(tiny_folder)}
    client_of(operator).post(reverse("base_point"), fields)
    base = BaseModel.objects.get(name="smollm2:360m")
    client_of(operator).post(reverse("base_make_ready", args=[base.pk]))
    run_all()
    base = BaseModel.objects.get(pk=base.pk)
    assert base.job.state == "succeeded", base.job.error_text
    assert base.is_ready and base.standing == "verified" and base.parameters < 1_000_000


def test_a_base_that_no_machine_holds_is_refused_before_anything_is_fetched(
    project, version, trainer, client_of, base, settings
):
    now = timezone.now()
    Machine.objects.create(host="m", facts={"processor": {"memory_total": 16 * 10**9}, "gpus": []}, seen_at=now)
    large = BaseModel.objects.create(name="qwen2.5:72b", title="Q", source="hub", location="Qwen/Qwen2.5-72B-Instruct")
    with pytest.raises(
        services.TrainingError, match=r"needs about 45 GB .* largest machine here has 16 GB. Choose a sm"
    ):
        plan(project, version, large, trainer)
    form = client_of(trainer).get(reverse("run_create", args=[project.pk])).content.decode()
    assert f'<option value="{large.pk}" disabled' in form and "(too large for the machines here)" in form
    Machine.objects.create(host="n", facts={"processor": {"memory_total": 0}, "gpus": GPUS}, seen_at=now)
    assert services.hindrance(large) == ""
    Machine.objects.filter(host="n").delete()
    settings.RAY_ADDRESS = "head:6379"  # what its machines hold together is not known here
    assert services.hindrance(large) == ""


GPUS = [{"memory_total": 40 * 10**9}, {"memory_total": 40 * 10**9}]


def test_what_was_verified_here_goes_by_its_digest(server, base):
    """A tag that moved on, and a copy under another name: both are the file that was compared."""
    met(server, ("qwen3:4b", "a" * 64, {}), ("ours:latest", "a" * 64, {}), ("mistral:7b", "b" * 64, {}))
    line = {"what": "layers", "ollama": "2", "weights": "2", "ok": True}
    BaseModel.objects.create(
        name="qwen3:4b",
        title="Q",
        source="hub",
        location="Qwen/Qwen3-4B",
        server=server,
        digest="a" * 64,
        shapes=[line],
    )
    found = bases.find_offer("ours:latest")
    assert (found.repository, found.how) == ("Qwen/Qwen3-4B", "the same file under another name")
    assert bases.find_offer("mistral:7b").how == "the site's catalogue"
    assert bases.find_offer("nobody:1b").repository == ""


def test_everybody_signed_in_sees_the_list_and_nobody_else(client_of, bundled):
    assert "smollm2:135m" in page_of(client_of(make_user("newcomer")))
    assert client_of(None).get(reverse("base_models")).status_code == 302
