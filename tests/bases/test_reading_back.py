"""Ollama's own files read back: only from the store, only a GGUF, only where the tokenizer can be proved."""

import json
import shutil
from pathlib import Path

import pytest

from finetune_site.lib.channel import InputError
from finetune_site.lib.files import sha256_of
from tests.bases.test_bases import write_gguf
from tests.engine.engine_process import Listener
from training_app.engine import dequantise
from training_app.engine.bundled import find_gguf
from training_app.engine.dequantise import find_blob, prove_answers, prove_tokenizer
from training_app.engine.prepare import prepare
from training_app.engine.spec import PrepareSpec

pytestmark = [pytest.mark.slow]
DIGEST = "a" * 64


@pytest.fixture
def blobs(tmp_path):
    folder = tmp_path / "store" / "blobs"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("digest", ["", "../../../../etc/passwd", "/etc/passwd", "A" * 64, "a" * 63, "a" * 62 + "/x"])
def test_nothing_but_a_digest_names_a_file(blobs, digest):
    with pytest.raises(InputError, match="does not say which file"):
        find_blob(str(blobs.parent), digest)


def test_only_a_whole_gguf_of_the_store_is_opened(blobs, tmp_path):
    with pytest.raises(InputError, match="FINETUNE_OLLAMA_MODELS"):
        find_blob("", DIGEST)
    with pytest.raises(InputError, match="No such file"):
        find_blob(str(blobs.parent), DIGEST)
    path, outside = blobs / f"sha256-{DIGEST}", tmp_path / "outside"
    outside.write_bytes(b"GGUF secrets")
    path.symlink_to(outside)
    with pytest.raises(InputError, match="leads out of it"):
        find_blob(str(blobs.parent), DIGEST)
    path.unlink()
    path.write_bytes(b"root:x:0:0")
    with pytest.raises(InputError, match="no GGUF file"):
        find_blob(str(blobs.parent), DIGEST)
    path.write_bytes(b"GGUF of something else")
    with pytest.raises(InputError, match="is damaged"):
        find_blob(str(blobs.parent), DIGEST)
    whole = path.rename(blobs / f"sha256-{sha256_of(path)}")
    assert find_blob(str(blobs.parent), whole.name.removeprefix("sha256-")) == whole


def test_an_architecture_that_nobody_reads_back_is_refused_in_words(blobs, tmp_path):
    made = write_gguf(tmp_path / "x.gguf", "granite", block_count=2)
    digest = sha256_of(made)
    made.rename(blobs / f"sha256-{digest}")
    spec = PrepareSpec("gguf", str(tmp_path / "out"), digest, str(blobs.parent))

    with pytest.raises(InputError, match=r"architecture granite cannot be read back .* original weights"):
        prepare(spec, Listener())
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_cuts_otherwise_is_refused(read_back, tmp_path):
    """SmolLM2 without its repair: numbers are cut as the import leaves them."""
    prove_tokenizer(find_gguf(), read_back)
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / name).write_bytes((read_back / name).read_bytes())
    told = json.loads((tmp_path / "tokenizer.json").read_text())
    told["pre_tokenizer"] = dequantise.PRE_TOKENIZERS["smollm"]["pretokenizers"][1]
    (tmp_path / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"tokenizer \(smollm\) cannot be read back faithfully"):
        prove_tokenizer(find_gguf(), tmp_path)


def test_weights_that_answer_otherwise_are_refused(read_back, tmp_path):
    """One layer's keys in another order, as an import does it that takes one family for another: no shape tells."""
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(read_back, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors")))
    weights = load_file(read_back / "model.safetensors")
    for layer in range(30):
        name = f"model.layers.{layer}.self_attn.k_proj.weight"
        weights[name] = weights[name].view(3, 2, 32, -1).transpose(1, 2).reshape(192, -1).contiguous()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="answer otherwise than Ollama's file does"):
        prove_answers(find_gguf(), folder, Listener())
