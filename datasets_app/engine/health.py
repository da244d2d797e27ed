"""How well a document was read, in figures: what its page tells people before they trust what was made from it."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from datasets_app.engine import personal
from datasets_app.engine.elements import FOOTER, HEADER, TABLE, Dropped, Element
from datasets_app.engine.ocr import Report

SAMPLE_CHARACTERS = 20_000
LISTED_PAGES = 200
GARBLED_SHARE = 0.02
# Letters of UTF-8 that were taken for Latin-1, as in “GrÃ¶ÃŸe”.
_MISREAD = re.compile("[ÃÂ][\u0080-\u00bf\u0152-\u0178\u2018-\u203a\u20ac\u2122]")


def describe(elements: list[Element], pages: range, dropped: Dropped, recognised: Report) -> dict[str, Any]:
    """`pages`: those that were to be read; empty where the format has none."""
    texts = [element for element in elements if element.kind not in {HEADER, FOOTER}]
    total = sum(len(element.text) for element in texts)
    read = {element.page for element in texts}
    return {
        "kinds": dict(Counter(element.kind for element in elements).most_common()),
        "table_share": round(sum(len(each.text) for each in texts if each.kind == TABLE) / total, 4) if total else 0,
        "empty_pages": [number for number in pages if number not in read][:LISTED_PAGES],
        "garbled_pages": sorted(_garbled(texts))[:LISTED_PAGES],
        "language": language_of(texts),
        "personal": personal.count(texts),
        "dropped": asdict(dropped),
        "recognised": {**asdict(recognised), "pages": recognised.pages[:LISTED_PAGES]},
    }


def language_of(elements: Iterable[Element]) -> str:
    """The language most of a sample is in, as ISO 639-1 names it; empty where nobody can tell."""
    from langdetect import DetectorFactory, LangDetectException, detect_langs

    DetectorFactory.seed = 0  # the same text gives the same answer
    sample, size = [], 0
    for element in elements:
        if size > SAMPLE_CHARACTERS:
            break
        sample.append(element.text)
        size += len(element.text)
    try:
        best = detect_langs("\n".join(sample))[0]
    except LangDetectException:
        return ""
    return str(best.lang) if best.prob > 0.8 else ""


def _garbled(elements: Iterable[Element]) -> set[int]:
    """Pages (0: no pages) with too many signs that no font explained or that were read in a wrong encoding."""
    bad: Counter[int] = Counter()
    size: Counter[int] = Counter()
    for element in elements:
        page = element.page or 0
        size[page] += len(element.text)
        bad[page] += sum(_is_odd(sign) for sign in element.text) + 2 * len(_MISREAD.findall(element.text))
    return {page for page, count in bad.items() if count >= 3 and count > GARBLED_SHARE * size[page]}


def _is_odd(sign: str) -> bool:
    return sign == "\ufffd" or (sign > "\x7f" and unicodedata.category(sign) in {"Co", "Cn", "Cs", "Cc"})
