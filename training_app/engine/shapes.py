"""Are the weights in a folder those that Ollama serves under a name? Their shapes, as both tell them, side by side.

Equal shapes prove no equal weights, but a tag that has moved to another model shows in layers, width, vocabulary or
the base of its positions. Standard library only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# What llama.cpp calls the classes of Hugging Face.
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "llama": ("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
    "mistral3": ("MistralForCausalLM", "Mistral3ForConditionalGeneration"),
    "qwen2": ("Qwen2ForCausalLM",),
    "qwen3": ("Qwen3ForCausalLM",),
    "qwen3moe": ("Qwen3MoeForCausalLM",),
    "gemma": ("GemmaForCausalLM",),
    "gemma2": ("Gemma2ForCausalLM",),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"),
    "phi3": ("Phi3ForCausalLM",),
    "granite": ("GraniteForCausalLM", "GraniteMoeHybridForCausalLM"),  # the latter without its recurrent layers
    "olmo2": ("Olmo2ForCausalLM",),
    "starcoder2": ("Starcoder2ForCausalLM",),
    "falcon": ("FalconForCausalLM",),
    "stablelm": ("StableLmForCausalLM",),
    "nemotron": ("NemotronForCausalLM",),
    "gpt2": ("GPT2LMHeadModel",),
    "lfm2": ("Lfm2ForCausalLM",),
}
# Those who publish a model change it: shown, but no sign of other weights.
EDITABLE = "tokens of context"
NUMBERS: Mapping[str, tuple[str, str]] = {
    "block_count": ("layers", "num_hidden_layers"),
    "embedding_length": ("width", "hidden_size"),
    "feed_forward_length": ("inner width", "intermediate_size"),
    "attention.head_count": ("attention heads", "num_attention_heads"),
    "attention.head_count_kv": ("key and value heads", "num_key_value_heads"),
    "context_length": (EDITABLE, "max_position_embeddings"),
}
# Without these two nothing is proved.
DECISIVE = ("layers", "width")
# Vocabularies are filled up to a round number, on one side or on both.
PADDING = 512


@dataclass(frozen=True)
class Line:
    """One measure, as the server tells it and as the weights have it."""

    what: str
    ollama: str
    weights: str
    ok: bool

    @property
    def in_words(self) -> str:
        return f"{self.what} {self.ollama} there, {self.weights} here"


def compare(config: Mapping[str, Any], facts: Mapping[str, Any]) -> list[Line]:
    """Hold a `config.json` against the GGUF's keys as `/api/show` tells them; only what both tell is compared.

    An empty list: they tell too little to prove anything.
    """
    text = config.get("text_config") or config
    architecture = str(facts.get("general.architecture", ""))
    lines = []
    if architecture in ARCHITECTURES and (classes := config.get("architectures")):
        lines.append(Line("architecture", architecture, classes[0], classes[0] in ARCHITECTURES[architecture]))
    for key, (what, name) in NUMBERS.items():
        theirs, ours = facts.get(f"{architecture}.{key}"), text.get(name)
        if isinstance(theirs, int) and isinstance(ours, int):  # some tell a list, a number for each layer
            lines.append(Line(what, str(theirs), str(ours), theirs == ours or what == EDITABLE))
    base, theta = facts.get(f"{architecture}.rope.freq_base"), _rope_theta(text)
    if base and theta:
        lines.append(Line("base of positions", f"{base:g}", f"{theta:g}", abs(base - theta) <= theta / 1000))
    tokens, size = _tokens(facts, architecture), text.get("vocab_size")
    if tokens and size:
        lines.append(Line("tokens of vocabulary", str(tokens), str(size), abs(tokens - size) <= PADDING))
    return lines if {line.what for line in lines} >= set(DECISIVE) else []


def contradiction(name: str, server: str, weights: str, lines: Sequence[Line]) -> str:
    """The sentence for weights that are not what a server holds; empty when nothing contradicts."""
    wrong = [line.in_words for line in lines if not line.ok]
    if not wrong:
        return ""
    return (
        f"{name} on {server} is not what {weights} holds: {'; '.join(wrong)}. An operator points the name at the right "
        "weights on the page Base models, or adds these under another name."
    )


def _rope_theta(text: Mapping[str, Any]) -> float | None:
    """The base of rotary positions; where layers differ in it, that of those which see the whole text."""
    rope = text.get("rope_parameters") or {}
    rope = rope.get("full_attention", rope)
    return rope.get("rope_theta") or text.get("rope_theta")


def _tokens(facts: Mapping[str, Any], architecture: str) -> int:
    """How many tokens the file has: counted where they are all told, else by its own word."""
    return len(facts.get("tokenizer.ggml.tokens") or ()) or int(facts.get(f"{architecture}.vocab_size") or 0)
