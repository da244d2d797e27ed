"""How long a passage is: in characters, or in tokens of a base model, whose tokenizer the app above offers."""

import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from datasets_app.engine.chunks import Measure, estimate
from datasets_app.engine.spec import Reading


class Tokenizers(Protocol):
    """The base models in whose tokens passages may be measured."""

    def names(self) -> list[str]: ...

    def mark(self, name: str) -> str:
        """Which state of the model's tokenizer is meant; empty where there is none of that name."""

    def read(self, name: str) -> bytes:
        """Its tokenizer.json."""


logger = logging.getLogger(__name__)
_offered: list[Tokenizers] = []


def offer(tokenizers: Tokenizers) -> None:
    """Called once, as the app that keeps base models starts."""
    _offered[:] = [tokenizers]


def names() -> list[str]:
    return [name for offered in _offered for name in offered.names()]


def measure_of(reading: Reading) -> Measure:
    """What counts the length of a text for these settings. Four characters are taken for a token of a base model that
    is not here any more, or cannot be read."""
    for offered in _offered:
        if reading.tokens_of and (mark := offered.mark(reading.tokens_of)):
            try:
                return _counter(reading.tokens_of, mark, offered.read)
            except Exception as error:  # tokenizers raises nothing else, and a bucket may be away
                logger.warning("tokenizer of %s: %s", reading.tokens_of, error)
    return estimate(reading)


@lru_cache(maxsize=4)
def _counter(name: str, mark: str, read: Callable[[str], bytes]) -> Measure:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_buffer(read(name))
    tokenizer.no_truncation()  # as some are saved after a training
    tokenizer.no_padding()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
