"""Base models: the bundled one read back faithfully, folders checked, pickles refused."""

import json
import shutil
import urllib.request
from pathlib import Path

import pytest

from finetune_site.lib.channel import InputError
from tests.engine.engine_process import Listener, run_engine
from training_app.engine.bundled import find_gguf
from training_app.engine.prepare import check_folder, count_parameters, identity, prepare
from training_app.engine.spec import PrepareSpec


def test_a_folder_is_copied_and_described(tiny_model: Path, tmp_path: Path) -> None:
    fields = {"task": "prepare", "source": "folder", "location": str(tiny_model), "out_dir": str(tmp_path / "made")}
    finished = run_engine(tmp_path, fields)
    assert finished.code == 0, finished.log
    result = json.loads((tmp_path / "made" / "result.json").read_text())
    assert result["architecture"] == "LlamaForCausalLM" and result["context_length"] == 512
    assert result["sha256"] == identity(tiny_model) and len(result["chat_template"]) == 64
    assert result["parameters"] == count_parameters(tiny_model) > 50_000
    assert not (tmp_path / "made.part").exists()


def test_incomplete_folders_are_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        check_folder(tmp_path / "nowhere")
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"Pickled weights \(pytorch_model.bin\) are never loaded"):
        check_folder(folder)
    (folder / "pytorch_model.bin").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"lacks these weight files: model-00002-of-00002\.safetensors"):
        check_folder(folder)
    (folder / "model.safetensors.index.json").unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="has no tokenizer"):
        check_folder(folder)


def test_a_model_that_asks_for_remote_code_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="homemade", auto_map={"AutoConfig": "homemade.Config"})
    (folder / "config.json").write_text(json.dumps(config))
    fields = {"task": "prepare", "source": "folder", "location": str(folder), "out_dir": str(tmp_path / "made")}
    finished = run_engine(tmp_path, fields)
    assert finished.code == 2 and "cannot be loaded" in finished.refusal


def test_an_unreachable_hub_is_a_sentence(tmp_path: Path) -> None:
    fields = {"task": "prepare", "source": "hub", "location": "no-such/model", "out_dir": str(tmp_path / "made")}
    finished = run_engine(tmp_path, fields)
    assert finished.code == 2 and "cannot be fetched from the hub" in finished.refusal


@pytest.mark.parametrize(
    ("kind", "status", "told"),
    [
        ("GatedRepoError", 403, r"have accepted its licence. Open https://huggingface.co/meta-llama/L-3B .* HF_TOKEN"),
        ("RepositoryNotFoundError", 401, "shows no model meta-llama/L-3B.*HF_TOKEN"),
        ("HfHubHTTPError", 403, "shows no model meta-llama/L-3B"),
        ("HfHubHTTPError", 503, "answered 503 .* Try again later"),
    ],
)
def test_the_hubs_refusals_say_what_to_do(monkeypatch, tmp_path: Path, kind: str, status: int, told: str) -> None:
    """No hub can be reached here: its exceptions are raised where its client would."""
    import httpx2
    import huggingface_hub
    from huggingface_hub import errors

    response = httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co/x"))

    def refuse(*_: object, **__: object) -> None:
        raise getattr(errors, kind)(f"{status} Client Error", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=told):
        prepare(PrepareSpec("hub", str(tmp_path / "made"), "meta-llama/L-3B"), Listener())
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_the_bundled_model_reads_text_as_llama_cpp_does(tmp_path: Path) -> None:
    """Token ids of a thousand lines, numbers and spaces among them, equal those of the GGUF file in llama.cpp."""
    xllamacpp = pytest.importorskip("xllamacpp")
    from transformers import AutoTokenizer

    finished = run_engine(tmp_path, {"task": "prepare", "source": "bundled", "out_dir": str(tmp_path / "made")})
    assert finished.code == 0, finished.log
    result = json.loads((tmp_path / "made" / "result.json").read_text())
    assert (result["parameters"], result["context_length"], result["vocabulary"]) == (134_515_008, 8192, 49_152)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "made")
    lines = _lines()
    theirs = _llama_cpp_tokens(xllamacpp, lines)
    ours = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
    assert len(lines) == 1000 and ours == theirs


def _lines() -> list[str]:
    """Source lines of this repository, and lines full of the numbers that the import once cut wrongly."""
    root = Path(__file__).resolve().parents[2]
    found = [line for path in sorted(root.glob("training_app/engine/*.py")) for line in path.read_text().splitlines()]
    numbers = [f"  {n}  kg,   at {n * 37}.{n % 10} bar – n° {n}/{n + 1}\t{n}%" for n in range(400)]
    return [*numbers, *[line for line in found if line.strip()][:600]]


def _llama_cpp_tokens(xllamacpp, lines: list[str]) -> list[list[int]]:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(find_gguf())
    parameters.n_ctx, parameters.n_parallel = 256, 1
    parameters.warmup = False
    server = xllamacpp.Server(parameters)
    found = []
    for line in lines:
        body = json.dumps({"content": line, "add_special": False}).encode()
        request = urllib.request.Request(
            server.listening_address + "/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            found.append(json.load(answer)["tokens"])
    return found
