"""What a trial of some passages tells of all of them."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from datasets_app.models import Chunk, Generation, GenerationCall
from datasets_app.services.datasets import covered_passages
from datasets_app.services.intake import content_of


@dataclass(frozen=True)
class Passage:
    """One passage of a trial: what was asked and answered, and the examples it would make, with its text in pieces."""

    document: str
    document_id: int
    index: int
    outcome: str
    reason: str
    calls: list[GenerationCall]
    rows: list[dict[str, Any]]


@dataclass(frozen=True)
class Forecast:
    """All passages at the trial's pace. Tokens and seconds are sums; `cost` in the currency of the server's prices,
    None where it has none; `followed`: how many of the answers were usable; `fullest`: tokens of the longest request
    with its answer, beside the server's `window`; None where the server does not count."""

    passages: int
    examples: int
    tokens_in: int | None
    tokens_out: int | None
    tokens_per_second: float | None
    seconds: float
    cost: Decimal | None
    answers: int
    followed: int
    fullest: int | None
    window: int

    @property
    def is_tight(self) -> bool:
        """Whether longer passages than the trial's may not fit."""
        return self.fullest is not None and self.fullest > 0.8 * self.window


def passages(trial: Generation) -> list[Passage]:
    """Each passage of a trial that has its outcome."""
    calls: dict[tuple[int | None, int], list[GenerationCall]] = {}
    for call in trial.calls.order_by("pk"):
        calls.setdefault((call.document_id, call.chunk_index), []).append(call)
    found = []
    for outcome in trial.outcomes.select_related("document"):
        key = (outcome.document_id, outcome.chunk_index)
        rows = [row for row in trial.sample if (row["document"], row["chunk"]) == key]
        shown = [{**row, "content": content_of(row)} for row in rows]
        found.append(
            Passage(
                str(outcome.document),
                outcome.document_id,
                outcome.chunk_index,
                outcome.outcome,
                outcome.reason,
                calls.get(key, []),
                shown,
            )
        )
    return found


def forecast(trial: Generation) -> Forecast | None:
    """None before anything was answered."""
    calls, server, tried = list(trial.calls.all()), trial.server, trial.outcomes.count()
    if not calls or not tried or server is None:
        return None
    count = Chunk.objects.filter(document__in=trial.documents.all()).count()
    if trial.options.get("only_gaps"):
        count = max(tried, count - len(covered_passages(trial)))
    scale = count / tried
    read, written = _sum([call.tokens_in for call in calls]), _sum([call.tokens_out for call in calls])
    seconds = sum(call.seconds for call in calls)
    sizes = [call.tokens_in + call.tokens_out for call in calls if call.tokens_in and call.tokens_out]
    return Forecast(
        passages=count,
        examples=round(len(trial.sample) * scale),
        tokens_in=None if read is None else round(read * scale),
        tokens_out=None if written is None else round(written * scale),
        tokens_per_second=round(written / seconds, 1) if written and seconds else None,
        seconds=seconds * scale / server.parallel,
        cost=_cost(server.price_in, read, server.price_out, written, scale),
        answers=len(calls),
        followed=sum(not call.problem for call in calls),
        fullest=max(sizes, default=None),
        window=server.context_window,
    )


def _sum(counts: list[int | None]) -> int | None:
    return None if None in counts else sum(count for count in counts if count is not None)


def _cost(
    price_in: Decimal | None, read: int | None, price_out: Decimal | None, written: int | None, scale: float
) -> Decimal | None:
    if (price_in is None and price_out is None) or read is None or written is None:
        return None
    millions = ((price_in or Decimal(0)) * read + (price_out or Decimal(0)) * written) / 1_000_000
    return (millions * Decimal(scale)).quantize(Decimal("0.01"))
