"""Names, places and official numbers, which no form gives away: Presidio guesses them from the words around them.

Its model is the small English one of spaCy that parsing uses too. Only recognisers that fetch nothing are asked.
"""

import importlib.util
from collections import Counter
from collections.abc import Callable
from typing import Any

from datasets_app.engine import slim
from datasets_app.engine.elements import Element

PACKAGE = "presidio-analyzer"
KINDS = {
    "PERSON": "name",
    "LOCATION": "place",
    "NRP": "nationality, religion or party",
    **dict.fromkeys(
        ("US_SSN", "US_ITIN", "US_PASSPORT", "US_DRIVER_LICENSE", "UK_NHS", "MEDICAL_LICENSE"), "official number"
    ),
}
SURE_ENOUGH = 0.6  # of 1: numbers of a likely form score below it unless a word beside them says what they are
MOST_CHARACTERS = 1_000_000  # a minute's work
MOST_LISTED = 300
TOLD_EACH = 100  # pieces


def is_installed() -> bool:
    """Whether names can be looked for on this machine."""
    return bool(importlib.util.find_spec("presidio_analyzer") and slim.language_model())


def holds_one() -> Callable[[str], bool]:
    """Tells of a text whether something in it is a name, a place or an official number."""
    analyzer = _analyzer()
    return lambda text: bool(analyzer.analyze(text, "en", entities=list(KINDS), score_threshold=SURE_ENOUGH))


def find(
    elements: list[Element], language: str, warnings: list[str], on_progress: Callable[[int, int], None]
) -> list[dict[str, Any]]:
    """What was found, the most frequent first: `text`, `kind` and `count`. `language` is the document's, as ISO 639-1
    names it. `on_progress` is told how many pieces are done, and of how many."""
    if not is_installed():
        warnings.append(f"Names were not looked for: the package {PACKAGE} is not installed where documents are read.")
        return []
    if language not in ("", "en"):
        warnings.append("Names were looked for by a model of English, which this document does not seem to be in.")
    analyzer, counts, characters = _analyzer(), Counter[tuple[str, str]](), 0
    for number, element in enumerate(elements):
        characters += len(element.text)
        if characters > MOST_CHARACTERS:
            warnings.append(f"Names were looked for in the first {MOST_CHARACTERS:,} characters alone.")
            break
        if number % TOLD_EACH == 0:
            on_progress(number, len(elements))
        for each in analyzer.analyze(element.text, "en", entities=list(KINDS), score_threshold=SURE_ENOUGH):
            text = " ".join(element.text[each.start : each.end].split())
            counts[text, KINDS[each.entity_type]] += 1
    listed = counts.most_common(MOST_LISTED)
    if len(listed) < len(counts):
        warnings.append(f"Of {len(counts):,} different names the {MOST_LISTED} most frequent are listed.")
    return [{"text": text, "kind": kind, "count": count} for (text, kind), count in listed]


def _analyzer() -> Any:
    from presidio_analyzer import AnalyzerEngine
    from presidio_analyzer.nlp_engine import NlpEngineProvider

    models = [{"lang_code": "en", "model_name": slim.language_model()}]
    provider = NlpEngineProvider(nlp_configuration={"nlp_engine_name": "spacy", "models": models})
    return AnalyzerEngine(nlp_engine=provider.create_engine(), supported_languages=["en"])
