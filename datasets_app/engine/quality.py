"""What may be wrong with an example, found without a model. Each finding is a name; people filter by it and decide."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from datasets_app.engine import alike, personal
from datasets_app.engine import names as names_engine
from datasets_app.engine.recipes import NOT_ALONE, REFUSAL
from datasets_app.engine.spec import CHARACTERS_A_TOKEN
from finetune_site.lib.channel import InputError

SAME, ALIKE, CONTRADICTS, STRADDLES = "same", "alike", "contradicts", "straddles"
REFUSES, NOT_STANDING, PERSONAL, NAMES, LONG, SHORT, LANGUAGE = (
    "refuses", "not alone", "personal", "names", "long", "short", "language",
)  # fmt: skip
FINDINGS = {
    SAME: "said word for word by an earlier one",
    ALIKE: "nearly like an earlier one",
    CONTRADICTS: "the same question has another answer too",
    STRADDLES: "alike ones come from several sections",
    REFUSES: "the answer is a refusal",
    NOT_STANDING: "the question speaks of “the passage”",
    PERSONAL: "holds personal data",
    NAMES: "holds names of people or places",
    LONG: "longer than a training row may be",
    SHORT: "hardly says anything",
    LANGUAGE: "in another language than most",
}
TELLING_LETTERS = 60  # below so many nobody can tell a language
LEAST_LETTERS = 2


@dataclass(frozen=True)
class Looked:
    """One example: `group` says from which section it is, `text` is all it teaches."""

    id: int
    text_id: int
    question: str
    answer: str
    group: str

    @property
    def text(self) -> str:
        return f"{self.question}\n{self.answer}"


def look(examples: Iterable[dict[str, Any]]) -> Iterator[Looked]:
    """Examples as they are asked and answered: of a conversation the first question and all that is said after it."""
    for each in examples:
        content = each["content"]
        if turns := content.get("messages"):
            spoken = [turn["content"] for turn in turns if turn["role"] != "system"]
            question, answer = spoken[0], "\n".join(spoken[1:])
        else:
            question = content.get("prompt") or content.get("text", "")
            answer = "\n".join(content.get(name, "") for name in ("chosen", "rejected")).strip()
        yield Looked(each["id"], each["text_id"], question, answer, each["group"])


def examine(found: list[Looked], *, max_tokens: int, finds_names: bool, tell: Any) -> Iterator[dict[str, Any]]:
    """Of each example its findings, and in `cluster` the first one that it is alike to (0: none, and none to it).
    `tell` is called with how many are done."""
    places = alike.groups(each.question for each in found)
    sizes = Counter(places)
    sections: dict[int, set[str]] = defaultdict(set)
    answers: dict[str, set[str]] = defaultdict(set)
    first_said: dict[tuple[str, str], int] = {}
    spoken = [(_plain(each.question), _plain(each.answer)) for each in found]
    for each, place, (question, answer) in zip(found, places, spoken, strict=True):
        sections[place].add(each.group)
        answers[question].add(answer)
        first_said.setdefault((question, answer), each.id)
    languages = [_language(each.text) for each in found]
    usual = Counter(filter(None, languages)).most_common(1)
    if finds_names and not names_engine.is_installed():
        raise InputError(
            f"Names cannot be looked for: the package {names_engine.PACKAGE} is not installed where this is done. Ask "
            "the operator, or change the rules."
        )
    names = names_engine.holds_one() if finds_names else None
    for number, (each, place) in enumerate(zip(found, places, strict=True)):
        findings = []
        if first_said[spoken[number]] != each.id:
            findings.append(SAME)
        elif place != number:
            findings.append(ALIKE)
        if each.answer and len(answers[spoken[number][0]]) > 1:
            findings.append(CONTRADICTS)
        if len(sections[place]) > 1:
            findings.append(STRADDLES)
        findings += _of_itself(each, max_tokens)
        if usual and languages[number] and languages[number] != usual[0][0]:
            findings.append(LANGUAGE)
        if names and names(each.text):
            findings.append(NAMES)
        yield {
            "id": each.id,
            "text_id": each.text_id,
            "findings": findings,
            "cluster": found[place].id if sizes[place] > 1 else 0,
        }
        tell(number + 1)


def _of_itself(each: Looked, max_tokens: int) -> list[str]:
    told = []
    if REFUSAL.search(each.answer):
        told.append(REFUSES)
    if each.answer and len(each.question) < 400 and NOT_ALONE.search(each.question):
        told.append(NOT_STANDING)  # a longer question brings its passage along
    if personal.find(each.text):
        told.append(PERSONAL)
    if len(each.text) > max_tokens * CHARACTERS_A_TOKEN:
        told.append(LONG)
    if sum(sign.isalnum() for sign in each.answer or each.question) < LEAST_LETTERS:
        told.append(SHORT)
    return told


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _language(text: str) -> str:
    """As ISO 639-1 names it; empty where nobody can tell."""
    if sum(sign.isalpha() for sign in text) < TELLING_LETTERS:
        return ""
    from langdetect import DetectorFactory, LangDetectException, detect_langs

    DetectorFactory.seed = 0
    try:
        best = detect_langs(text[:1000])[0]
    except LangDetectException:
        return ""
    return str(best.lang) if best.prob > 0.9 else ""
