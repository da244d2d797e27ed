"""Which weights a name of Ollama's stands for, and whether shapes agree: facts alone, no file and no server."""

import pytest

from training_app.engine.catalogue import ENTRIES, IMAGES, How, Told, find, hindrance, resolve, too_large
from training_app.engine.shapes import compare, contradiction
from training_app.ollama import Shown

HUB = "https://huggingface.co/"


def test_every_row_is_found_by_its_tag_and_no_tag_is_taken_twice():
    tags = [tag for entry in ENTRIES for tag in (entry.tag, *(f"{entry.family}:{tag}" for tag in entry.also))]
    assert len(tags) == len(set(tags)) and len(ENTRIES) >= 75
    assert all(find(entry.tag) is entry for entry in ENTRIES)


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("llama3.2:3b", "meta-llama/Llama-3.2-3B-Instruct"),
        ("llama3.2", "meta-llama/Llama-3.2-3B-Instruct"),
        ("Llama3.2:latest", "meta-llama/Llama-3.2-3B-Instruct"),
        ("llama3.2:3b-instruct-q4_K_M", "meta-llama/Llama-3.2-3B-Instruct"),
        ("registry.ollama.ai/library/llama3.2:1b-instruct-fp16", "meta-llama/Llama-3.2-1B-Instruct"),
        ("qwen3:8b-q8_0", "Qwen/Qwen3-8B"),
        ("mistral:7b-instruct-v0.3-q4_0", "mistralai/Mistral-7B-Instruct-v0.3"),
        ("deepseek-r1:7b-qwen-distill-q4_K_M", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"),
        ("granite4:3b", "ibm-granite/granite-4.0-micro"),
        # What looks alike and is another model.
        ("llama3.2:3b-text-q4_K_M", None),
        ("mistral:7b-instruct-v0.2-q4_0", None),
        ("qwen3:8b-instruct-2507", None),
        ("deepseek-r1:8b-llama-distill-q4_K_M", None),
        ("granite4:350m-h", None),
        ("phi3:mini-128k", None),
        ("somebody/llama3.2:3b", None),
        ("unheard-of:7b", None),
        ("", None),
    ],
)
def test_a_tag_stands_for_its_row_and_nothing_that_looks_like_it(name, repository):
    entry = find(name)
    assert (entry.repository if entry else None) == repository


@pytest.mark.parametrize(
    ("name", "keys", "expected"),
    [
        ("llama3.2:1b", {"general.source.repo_url": f"{HUB}x/y"}, ("meta-llama/Llama-3.2-1B-Instruct", How.CATALOGUE)),
        ("own:1b", {"general.source.repo_url": f"{HUB}owner/name"}, ("owner/name", How.KEYS)),
        ("own:1b", {"general.source.huggingface.repository": "owner/name"}, ("owner/name", How.KEYS)),
        ("own:1b", {"general.base_model.0.repo_url": f"{HUB}Qwen/Qwen3-8B"}, ("Qwen/Qwen3-8B", How.PARTS)),
        (
            "own:1b",
            {"general.base_model.0.organization": "ibm granite", "general.base_model.0.name": "granite 4.0 1b"},
            ("ibm-granite/granite-4.0-1b", How.PARTS),
        ),
        # The file was tuned from its base_model: the same shapes, other weights.
        (
            "own:1b",
            {
                "general.base_model.0.repo_url": f"{HUB}Qwen/Qwen2.5-0.5B",
                "general.organization": "Qwen",
                "general.basename": "Qwen2.5",
                "general.size_label": "0.5B",
                "general.finetune": "Instruct",
            },
            ("Qwen/Qwen2.5-0.5B-Instruct", How.PARTS),
        ),
        ("hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M", {}, ("meta-llama/Llama-3.2-3B-Instruct", How.NAME)),
        ("hf.co/owner/Model-7B-GGUF", {}, ("owner/Model-7B", How.NAME)),
        ("own:1b", {"general.source.url": "https://evil.example/x/../y"}, None),
        ("own:1b", {}, None),
    ],
)  # fmt: skip
def test_weights_are_found_step_by_step(name, keys, expected):
    found = resolve(name, Told(keys=keys))
    assert (found and (found.repository, found.how)) == expected


def test_what_hinders_training_is_said():
    assert "embeddings" in hindrance(Told(capabilities=["embedding"]), None, 0, 0)
    assert hindrance(Told(capabilities=["completion", "vision"]), None, 0, 0) == IMAGES
    assert "mixture of experts" in hindrance(Told(architecture="qwen3moe"), None, 0, 0)
    assert "chat template" in hindrance(Told(), find("starcoder2:3b"), 0, 0)
    assert (
        hindrance(Told(architecture="llama", capabilities=["completion"]), find("llama3.2:3b"), 3_210_000_000, 0) == ""
    )
    assert too_large(70_600_000_000, 16 * 10**9).startswith("it needs about 43 GB") and not too_large(
        135_000_000, 10**10
    )


LLAMA = {
    "general.architecture": "llama", "llama.block_count": 28, "llama.embedding_length": 3072,
    "llama.feed_forward_length": 8192, "llama.attention.head_count": 24, "llama.attention.head_count_kv": 8,
    "llama.context_length": 131072, "llama.rope.freq_base": 500000.0, "llama.vocab_size": 128256,
}  # fmt: skip
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 28, "hidden_size": 3072, "intermediate_size": 8192,
    "num_attention_heads": 24, "num_key_value_heads": 8, "max_position_embeddings": 131072, "rope_theta": 500000.0,
    "vocab_size": 128256,
}  # fmt: skip


def test_shapes_that_agree_contradict_nothing():
    lines = compare(CONFIG, LLAMA)
    assert len(lines) == 9 and contradiction("llama3.2:3b", "box", "meta-llama/x", lines) == ""
    newer = {**CONFIG, "rope_parameters": {"rope_theta": 500000.0}}
    del newer["rope_theta"]
    assert len(compare(newer, LLAMA)) == 9
    assert len(compare({"architectures": ["LlamaForCausalLM"], "text_config": CONFIG}, LLAMA)) == 9
    layered = {
        **newer,
        "rope_parameters": {"full_attention": {"rope_theta": 5e5}, "sliding_attention": {"rope_theta": 1e4}},
    }
    assert all(line.ok for line in compare(layered, LLAMA))
    padded = {**LLAMA, "tokenizer.ggml.tokens": ["x"] * (128256 - 300)}
    assert all(line.ok for line in compare(CONFIG, padded))


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"llama.block_count": 32}, "layers 32 there, 28 here"),
        ({"llama.rope.freq_base": 10000.0}, "base of positions 10000 there, 500000 here"),
        ({"llama.vocab_size": 128256 - 768}, "tokens of vocabulary 127488 there, 128256 here"),
    ],
)
def test_a_tag_that_moved_shows_in_its_shapes(changed, what):
    told = contradiction("llama3.2:3b", "box", "meta-llama/x", compare(CONFIG, LLAMA | changed))
    assert told.startswith(f"llama3.2:3b on box is not what meta-llama/x holds: {what}.")


def test_another_length_of_context_is_shown_and_proves_nothing():
    lines = compare(CONFIG, LLAMA | {"llama.context_length": 8192})
    assert "tokens of context 8192 there, 131072 here" in [line.in_words for line in lines]
    assert contradiction("llama3.2:3b", "box", "meta-llama/x", lines) == ""


def test_another_architecture_contradicts_and_too_little_proves_nothing():
    qwen = {name.replace("llama.", "qwen3."): value for name, value in LLAMA.items()} | {
        "general.architecture": "qwen3"
    }
    assert "architecture qwen3 there, LlamaForCausalLM here" in contradiction("x", "y", "z", compare(CONFIG, qwen))
    assert compare(CONFIG, {"general.architecture": "llama"}) == []


@pytest.mark.parametrize(
    ("modelfile", "blob"),
    [
        (f"# FROM x\nFROM /usr/share/ollama/.ollama/models/blobs/sha256-{'a' * 64}\nTEMPLATE x", "a" * 64),
        (f"FROM C:\\models\\blobs\\sha256-{'a' * 64}", "a" * 64),
        (f"FROM /a/sha256-{'a' * 64}\nFROM /a/sha256-{'b' * 64}", "a" * 64),
        ("FROM ../../etc/passwd", ""),
        (f"FROM /etc/sha256-{'a' * 64}/../../passwd", ""),
        (f"FROM llama3.2\nFROM /a/sha256-{'b' * 64}", ""),
        ("", ""),
    ],
)
def test_of_what_a_server_calls_a_path_the_digest_alone_is_taken(modelfile, blob):
    assert Shown("", "", "", "llama", modelfile).blob == blob
