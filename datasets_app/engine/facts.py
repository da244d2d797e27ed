"""Facts that stand in a text, found without a model: table cells, labelled values, definitions, figures, lists.

Each fact is an answer whose words stand in the document, the span it rests on, and how it may be asked. What is not
surely a fact is left out: ten clean facts teach more than thirty of which half are noise.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from datasets_app.engine import elements as kinds
from datasets_app.engine import wordings
from datasets_app.engine.elements import Element
from datasets_app.engine.tables import cells

PAIRS, HEADED, COLUMNS, UNSURE = "pairs", "headed", "columns", "unsure"
MAX_LABEL, MAX_VALUE, MAX_ANSWER = 60, 80, 400
_GENERIC_HEADS = {
    "property", "value", "fact", "item", "description", "parameter", "specification", "name", "data", "feature",
    "characteristic", "detail", "details", "option", "field", "key", "attribute", "",
}  # fmt: skip
# What is measured or told of things: as the head of a second column it names what the cells below are.
_ATTRIBUTES = {
    "age", "amount", "area", "availability", "capacity", "class", "code", "colour", "color", "consumption",
    "content", "cost", "current", "date", "depth", "diameter", "dimensions", "distance", "duration",
    "efficiency", "effect", "energy", "flow", "format", "frequency", "function", "grade", "height", "interval",
    "length", "level", "limit", "location", "manufacturer", "mass", "material", "meaning", "method", "number",
    "output", "owner", "percentage", "period", "population", "position", "power", "pressure", "price",
    "purpose", "quantity", "range", "rate", "rating", "reach", "resistance", "result", "salary", "score",
    "share", "size", "speed", "standard", "state", "status", "strength", "supplier", "temperature", "thickness",
    "time", "tolerance", "torque", "type", "unit", "usage", "version", "voltage", "volume", "weight", "width",
    "year", "remedy", "cause", "action",
}  # fmt: skip
# Of which things a table tells: as the head of a first column.
_THINGS = {
    "abbreviation", "alarm", "city", "class", "component", "country", "customer", "department", "device",
    "error", "fault", "ingredient", "machine", "message", "month", "part", "person", "phase", "product",
    "project", "region", "role", "sensor", "setting", "software", "step", "symptom", "system", "task", "term",
    "tool", "unit", "variant",
}  # fmt: skip
_GENERIC_TITLES = re.compile(
    r"^(specifications?|technical data|data sheet|overview|introduction|general|properties|faults?|summary|contents|"
    r"index|appendix|tables?|figures?|notes?|references?|see also|faq)\b",
    re.I,
)
_VAGUE = {
    "this", "that", "it", "there", "these", "those", "they", "he", "she", "we", "you", "which", "what", "here", "such",
    "if", "as", "note", "one", "another", "most", "some", "each", "all", "in", "on", "for", "when", "where", "but",
    "and", "since", "because", "his", "her", "its", "their", "our", "your", "my", "both", "many", "few", "several",
    "other", "others", "who", "everything", "nothing", "something", "anything", "everyone", "nobody", "first", "second",
}  # fmt: skip
_DEFINITION = re.compile(
    r"^(?P<s>(?:(?:The|A|An)\s+)?[A-Za-z][\w./+-]*(?:\s+[\w./+-]+){0,5}?)\s+(?P<be>is|are)\s+"
    r"(?:an?|the|one of)\s+(?P<d>.{15,300})$"
)
_FIGURE = re.compile(
    r"^(?P<s>(?:The|A|An|Every|Each)\s+[\w-]+(?:\s+[\w-]+){0,4}?)\s+"
    r"(?:is|are|has|have|holds?|weighs?|contains?|measures?|requires?|needs?|takes?|lasts?|costs?|must|should|can|may|uses?|"
    r"reaches|provides?|supports?)\b(?P<rest>.*?\d.*)$"
)
_LABELLED = re.compile(r"^(?P<l>[A-Z][\w /()-]{2,48}?):\s+(?P<v>\S.{0,78})$")
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z“\"(])")


@dataclass(frozen=True)
class Fact:
    """`quote` stands in the element's text; `key` is what a right answer must contain, empty where wording may vary."""

    shape: str
    questions: dict[str, str]
    answer: str
    key: str
    quote: str
    element: Element

    @property
    def name(self) -> str:
        return f"{self.shape}:{self.quote[:80]}|{self.key}"


def find(members: list[Element], document: str, count: int) -> Iterator[Fact]:
    """The facts of one chunk's elements, each asked in at most `count` wordings."""
    for position, element in enumerate(members):
        heading = _heading(element, document)
        if element.kind == kinds.TABLE:
            yield from _table(element, heading, count)
        elif element.kind in {kinds.TEXT, kinds.LIST_ITEM}:
            yield from _labelled(element, heading, count)
            yield from _sentences(element, heading, count)
            yield from _listing(members, position, heading, count)
    yield from _section(members, document, count)


def _table(element: Element, heading: str, count: int) -> Iterator[Fact]:
    rows = cells(element.html or "")
    if len(rows) < 2 or len({len(row) for row in rows}) != 1:
        return
    head, body = rows[0], rows[1:]
    if len(head) == 2:
        shape = _shape(rows)
        for label, value in {PAIRS: rows, HEADED: body}.get(shape, []):
            yield from _value(element, heading, label, value, f"{label} | {value}", count)
        for thing, value in body if shape == COLUMNS else []:
            if _is_name(thing):
                yield from _value(element, thing, head[1], value, f"{thing} | {value}", count)
    elif all(head) and 2 < len(head) <= 8:
        for row in body:
            for name, value in zip(head[1:], row[1:], strict=True):
                if _is_name(row[0]):
                    yield from _value(element, row[0], name, value, " | ".join(row), count)


def _shape(rows: list[list[str]]) -> str:
    """What a table of two columns is: label and value from its first row on, or below a head that says so, or things
    and what its head tells of them; `UNSURE` where the first row may be either."""
    head, body = rows[0], rows[1:]
    if head[0].lower() in _GENERIC_HEADS or head[1].lower() in _GENERIC_HEADS:
        return HEADED
    if re.search(r"\d", head[1]):
        return PAIRS
    if any(_noun(label) in _ATTRIBUTES for label, _ in body):
        return PAIRS
    if _noun(head[1]) in _ATTRIBUTES or _noun(head[0]) in _THINGS:
        return COLUMNS
    if len(body) < 2 or _noun(head[0]) in _ATTRIBUTES:
        return PAIRS
    return UNSURE if all(re.search(r"\d", value) for _, value in body) else PAIRS


def _noun(label: str) -> str:
    """The word that a label is about: “weight” of “Max. weight (kg)”, “part” of “Parts”."""
    words = re.sub(r"\(.*?\)|\[.*?\]|[,:/].*", " ", label).split()
    word = words[-1].lower() if words else ""
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and word[:-1] in _ATTRIBUTES | _THINGS else word


def _value(element: Element, subject: str, label: str, value: str, quote: str, count: int) -> Iterator[Fact]:
    """A labelled value; the subject is a thing (“the Tollen rotor”) or a heading that has to be quoted."""
    label, value = label.strip(" :"), value.strip()
    if not _is_label(label) or not 0 < len(value) <= MAX_VALUE or value.lower() == label.lower() or value in "-–—":
        return
    label = _lower_first(label)
    fact = f"value/{subject}/{label}"
    be = "are" if re.search(r"[^s]s$", label.split(" of ")[0]) else "is"
    if _is_thing(subject):
        thing = _lower_article(subject)
        asked = wordings.ask(wordings.VALUE_OF, fact, count, l=label, s=thing, S=_upper_first(thing))
        answer = f"The {label} of {thing} {be} {value}."
    else:
        asked = wordings.ask(wordings.VALUE_UNDER, fact, count, l=label, h=subject)
        answer = f"The {label} {be} {value}."
    yield Fact("value", asked, answer.replace("..", "."), value.rstrip("."), quote, element)


def _labelled(element: Element, heading: str, count: int) -> Iterator[Fact]:
    for line in element.text.split("\n"):
        match = _LABELLED.match(line)
        if match and len(match["l"].split()) <= 5 and not match["v"].endswith(":"):
            yield from _value(element, heading, match["l"], match["v"].rstrip("."), line, count)


def _sentences(element: Element, heading: str, count: int) -> Iterator[Fact]:
    for sentence in _SENTENCE.split(element.text):
        text = " ".join(sentence.split())
        if not 30 <= len(text) <= MAX_ANSWER or not text.endswith(".") or _is_cross_reference(text):
            continue
        for shape, pattern, table in (
            ("definition", _DEFINITION, wordings.DEFINITION),
            ("figure", _FIGURE, wordings.STATEMENT),
        ):
            match = pattern.match(text)
            if match and _is_subject(match["s"]):
                subject = _lower_article(match["s"])
                words = {"s": subject, "h": heading, "be": match["be"] if shape == "definition" else "is"}
                asked = wordings.ask(table, f"{shape}/{text}", count, **words)
                yield Fact(shape, asked, text, "", sentence, element)
                break


def _listing(members: list[Element], position: int, heading: str, count: int) -> Iterator[Fact]:
    """A lead-in that ends with a colon, and the items after it."""
    lead = " ".join(members[position].text.split())
    if not lead.endswith(":") or not 12 <= len(lead) <= 160:
        return
    items: list[str] = []
    for follower in members[position + 1 :]:
        is_item = follower.kind == kinds.LIST_ITEM or (follower.kind == kinds.TEXT and len(follower.text) < 90)
        if not is_item or follower.text.endswith(":"):
            break
        items.append(" ".join(follower.text.split()))
    if not 2 <= len(items) <= 8 or sum(map(len, items)) > MAX_ANSWER:
        return
    asked = wordings.ask(wordings.LISTING, f"list/{heading}/{lead}", count, l=lead, h=heading)
    yield Fact("list", asked, "; ".join(item.rstrip(".;,") for item in items) + ".", "", lead, members[position])


def _section(members: list[Element], document: str, count: int) -> Iterator[Fact]:
    """The first two sentences of a section that begins with prose."""
    body = [member for member in members if member.kind not in {kinds.TITLE, kinds.HEADER, kinds.FOOTER}]
    if not body or body[0].kind != kinds.TEXT or not body[0].section:
        return
    heading = body[0].section[-1]
    text = " ".join(_SENTENCE.split(body[0].text)[:2])
    text = " ".join(text.split())
    if not _is_name(heading) or not 60 <= len(text) <= MAX_ANSWER or not text.endswith(".") or text.endswith(".."):
        return
    quote = body[0].text[: len(text)] if body[0].text.startswith(text[:40]) else body[0].text
    bare = _without_number(heading)
    table = wordings.QUESTION if bare.endswith("?") else wordings.SECTION
    asked = wordings.ask(table, f"section/{document}/{heading}", count, h=bare)
    yield Fact("section", asked, text, "", quote, body[0])


def _heading(element: Element, document: str) -> str:
    """The nearest heading that names something; the document's name where none does."""
    for heading in reversed(element.section):
        if _is_name(heading) and not _GENERIC_TITLES.match(heading):
            return _without_number(heading)
    return _without_number(element.section[-1]) if element.section else document


def _without_number(heading: str) -> str:
    return (
        re.sub(r"^(?:chapter\s+|section\s+|appendix\s+)?[\dA-Z]{0,2}[\d.]*\d\.?\s+", "", heading, flags=re.I) or heading
    )


def _is_thing(subject: str) -> bool:
    """A heading that can stand in a sentence: “The Tollen rotor”."""
    words = subject.split()
    return words[0] in {"The", "the"} and 2 <= len(words) <= 7


def _is_label(text: str) -> bool:
    letters = sum(character.isalpha() for character in text)
    return 2 <= len(text) <= MAX_LABEL and letters >= 0.6 * len(text.replace(" ", "")) and not _is_code(text)


def _is_name(text: str) -> bool:
    letters = sum(character.isalpha() or character.isspace() for character in text)
    return 3 <= len(text) <= 90 and letters >= 0.7 * len(text) and not _is_code(text)


def _is_subject(text: str) -> bool:
    words = text.split()
    bare = words[1:] if words[0] in {"The", "A", "An", "Every", "Each"} else words
    return bool(bare) and bare[0].lower() not in _VAGUE and words[0].lower() not in _VAGUE and len(text) < 60


def _is_code(text: str) -> bool:
    return bool(re.search(r"[=<>{};$\\@]|\(\)|::|--\w|/\w+/", text))


def _is_cross_reference(text: str) -> bool:
    return bool(
        re.search(
            r"\b(see|refer to|as shown in|described in)\b.{0,30}\b(section|chapter|figure|table|page)\b", text, re.I
        )
    )


def _lower_article(text: str) -> str:
    head, _, rest = text.partition(" ")
    return f"{head.lower()} {rest}" if head in {"The", "A", "An", "Every", "Each"} else text


def _lower_first(text: str) -> str:
    """“Oil type” in a sentence; names and abbreviations keep their capitals."""
    return text[0].lower() + text[1:] if len(text) > 1 and text[1].islower() else text


def _upper_first(text: str) -> str:
    return text[0].upper() + text[1:]
