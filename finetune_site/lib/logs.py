"""What a log line says beside its words: the request, the person, the job and its attempt. Filters and context only;
how lines are written stands in the settings."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Fact = str | int | Callable[[], int | None]  # a callable: not known yet when the context begins
SECRET_PARTS = ("token", "key")  # parts of an address that let their bearer in

_context: ContextVar[dict[str, Fact] | None] = ContextVar("log_context", default=None)


@contextmanager
def bound(**facts: Fact) -> Iterator[None]:
    """Every line of this thread or task says these facts, until the block ends."""
    before = _context.set({**(_context.get() or {}), **facts})
    try:
        yield
    finally:
        _context.reset(before)


def facts() -> dict[str, str | int]:
    """What is bound here and known by now."""
    known = {name: fact() if callable(fact) else fact for name, fact in (_context.get() or {}).items()}
    return {name: fact for name, fact in known.items() if fact is not None}


class Context(logging.Filter):
    """Adds the bound facts to a record: as attributes for JSON, as `context` for text."""

    def filter(self, record: logging.LogRecord) -> bool:
        told = facts()
        for name, fact in told.items():
            setattr(record, name, fact)
        record.context = "".join(f" {name}={fact}" for name, fact in told.items())
        return True


class Refusals(logging.Filter):
    """Django's own lines about a request: a refusal (4xx) is one line without a traceback, and an address whose parts
    are a secret is named by its pattern."""

    def filter(self, record: logging.LogRecord) -> bool:
        if 400 <= getattr(record, "status_code", 0) < 500:
            record.exc_info = record.exc_text = None
        request = getattr(record, "request", None)
        match = getattr(request, "resolver_match", None)
        if match and isinstance(record.args, tuple) and any(part in match.kwargs for part in SECRET_PARTS):
            path = getattr(request, "path", "")
            record.args = tuple(f"/{match.route}" if value == path else value for value in record.args)
        return True
