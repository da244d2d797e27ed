"""A language model small enough to be made and trained within a second: random Llama weights, a BPE tokenizer.

It speaks the same chat format as SmolLM2, so everything but the knowledge is real.
"""

import hashlib
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are helpful.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer(
    *,
    chat_template: str | None,
    specials: list[str] = SPECIAL_TOKENS,
    bos: str = "<|im_start|>",
    eos: str = "<|im_end|>",
) -> Any:
    """A byte-level BPE tokenizer of 600 tokens; the first of `specials` pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([message["content"] for row in make_rows(40) for message in row["messages"]], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=bos,
        eos_token=eos,
        unk_token=specials[0],
        pad_token=specials[0],
        additional_special_tokens=[token for token in specials[1:] if token not in (bos, eos)],
        model_max_length=512,
    )
    if chat_template:
        tokenizer.chat_template = chat_template
    return tokenizer


def make_tiny_model(folder: Path, *, chat_template: str | None = CHAT_TEMPLATE, **shape: int) -> Path:
    """Write a base model folder as task `prepare` would; `shape` replaces values of the model's configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(chat_template=chat_template)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    config = LlamaConfig(
        **(sizes | shape),
        vocab_size=len(tokenizer),
        tie_word_embeddings=True,
        initializer_range=0.15,  # wide enough that what a token looks at shows in the loss
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_rows(count: int, *, validation: int = 0, recall: int = 0) -> list[dict[str, Any]]:
    """Rows of a sealed version: invented facts of growing length, the last ones held out."""
    rows = []
    for number in range(count):
        split = "validation" if number < validation else "recall" if number < validation + recall else "train"
        words = "and then again " * (number % 4)
        rows.append(
            {
                "example_id": number,
                "text_id": number,
                "split": split,
                "kind": "chat",
                "messages": [
                    {"role": "user", "content": f"What is the size of part {number}?"},
                    {"role": "assistant", "content": f"Part {number} is {words}{number * 7 % 50}.5 mm wide."},
                ],
                "answer_key": f"{number * 7 % 50}.5 mm",
            }
        )
    return rows


def write_version(path: Path, rows: list[dict[str, Any]]) -> str:
    """Write rows as a version's Parquet file and return its SHA-256."""
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return hashlib.sha256(path.read_bytes()).hexdigest()
