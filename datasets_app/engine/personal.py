"""Personal data that its form gives away: e-mail addresses, telephone numbers, account and card numbers, IP addresses.

What a checksum can prove is proved: IBAN by ISO 13616 (modulo 97), card numbers by Luhn's (ISO/IEC 7812). Names and
addresses have no form; `names` guesses them. Standard library only.
"""

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from datasets_app.engine.elements import Element


@dataclass(frozen=True)
class Found:
    """A piece of personal data in a text: what it is, and where."""

    kind: str
    start: int
    end: int


def _is_iban(text: str) -> bool:
    compact = re.sub(r"\s", "", text).upper()
    turned = compact[4:] + compact[:4]
    return 15 <= len(compact) <= 34 and int("".join(str(int(sign, 36)) for sign in turned)) % 97 == 1


def _is_card(text: str) -> bool:
    digits = [int(sign) for sign in text if sign.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) if place % 2 else digit for place, digit in enumerate(reversed(digits))]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def _is_address(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


def _is_telephone(text: str) -> bool:
    return 7 <= sum(sign.isdigit() for sign in text) <= 15


# In this order: what one has taken, no later one takes.
KINDS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "e-mail address": (re.compile(r"\b[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}\b"), lambda _: True),
    "account number (IBAN)": (re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}\b"), _is_iban),
    "card number": (re.compile(r"(?<![\d.,])\d(?:[ -]?\d){12,18}(?![\d.,]?\d)"), _is_card),
    "IP address": (re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]\d)"), _is_address),
    # With a country's code, or after a word that says so: a row of digits alone is more often a part's number.
    "telephone number": (
        re.compile(
            r"(?<![\w+])\+\d[\d ()/.-]{6,20}\d\b"
            r"|(?:(?<=\bTel[.:] )|(?<=\bPhone: )|(?<=\bFax: ))[\d(][\d ()/.-]{5,20}\d\b"
        ),
        _is_telephone,
    ),
}


def find(text: str) -> list[Found]:
    """Everything of a known form, in the order in which it stands; nothing overlaps."""
    found: list[Found] = []
    for kind, (pattern, is_one) in KINDS.items():
        for match in pattern.finditer(text):
            start, end = match.span()
            if is_one(match[0]) and not any(start < other.end and other.start < end for other in found):
                found.append(Found(kind, start, end))
    return sorted(found, key=lambda each: each.start)


def masked(text: str, kinds: Iterable[str] = KINDS) -> str:
    """The text with what was found replaced by the name of its kind in brackets."""
    wanted, parts, at = set(kinds), [], 0
    for each in find(text):
        if each.kind in wanted:
            parts += [text[at : each.start], f"[{each.kind}]"]
            at = each.end
    return "".join([*parts, text[at:]])


def without(text: str, names: Mapping[str, str]) -> str:
    """The text with whole words replaced: each of `names` by its kind in brackets, the longest first."""
    for name in sorted(names, key=len, reverse=True):
        spelled = r"\s+".join(re.escape(word) for word in name.split())
        text = re.sub(rf"(?<!\w){spelled}(?!\w)", f"[{names[name]}]", text)
    return text


def count(elements: Iterable[Element]) -> dict[str, int]:
    """How often each kind stands in some pieces; those that do not are missing."""
    counts: Counter[str] = Counter(each.kind for element in elements for each in find(element.text))
    return dict(counts.most_common())
