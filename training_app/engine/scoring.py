"""How an answer is judged against its reference.

Right means: the reference's key (a number with its unit, a name) stands in the answer as whole words. Where an example
has no key, token F1 (Rajpurkar et al., SQuAD, 2016) of at least 0.6 counts as right.
"""

import functools
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import Any

RIGHT_F1 = 0.6


def is_right(answer: str, reference: str, key: str) -> bool:
    """Whether `answer` says what `reference` says."""
    if key:
        return contains(answer, key)
    return token_f1(answer, reference) >= RIGHT_F1


def contains(answer: str, key: str) -> bool:
    """Whether the words of `key` stand in `answer` in one piece: “4 bar” is not in “4.2 bar” nor in “14 bar”."""
    words, wanted = tokens(answer), tokens(key)
    size = len(wanted)
    return size > 0 and any(words[start : start + size] == wanted for start in range(len(words) - size + 1))


def is_exact(answer: str, references: Iterable[str]) -> bool:
    """Whether `answer` is one of `references` but for case, punctuation, articles and white space (SQuAD's measure)."""
    return normal(answer) in {normal(reference) for reference in references}


def normal(text: str) -> str:
    """A text as SQuAD's evaluation compares it (Rajpurkar et al., 2016): lower case, without punctuation, English
    articles and surplus white space. One thing differs: signs that belong to a number stay, so that 4.2 is not 42.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    text = "".join(sign for place, sign in enumerate(text) if not _is_punctuation(text, place))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _is_punctuation(text: str, place: int) -> bool:
    sign = text[place]
    if sign not in string.punctuation and not unicodedata.category(sign).startswith("P"):
        return False
    before, after = text[place - 1 : place], text[place + 1 : place + 2]
    is_minus = sign == "-" and not before.strip(string.punctuation).strip()
    return not (after.isdigit() and (before.isdigit() or is_minus))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over shared tokens, 0 to 1."""
    got, wanted = tokens(answer), tokens(reference)
    shared = sum((Counter(got) & Counter(wanted)).values())
    return 2 * shared / (len(got) + len(wanted)) if shared else 0.0


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of tokens (Lin, ROUGE, 2004), 0 to 1, by package rouge-score."""
    return float(_rouge().score(reference, answer)["rougeL"].fmeasure)


@functools.cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    class Tokenizer:  # its own keeps a-z and 0-9 only: no word of most languages would be left whole
        tokenize = staticmethod(tokens)

    return RougeScorer(["rougeL"], tokenizer=Tokenizer())


def tokens(text: str) -> list[str]:
    """Words and numbers, lower-cased; a decimal number is one token, a unit glued to its number is parted from it."""
    text = unicodedata.normalize("NFKC", text).lower()
    return re.findall(r"\d+(?:[.,:/-]\d+)*|[^\W\d_]+|[%°€$£]", text)
