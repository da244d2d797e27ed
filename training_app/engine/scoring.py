"""How an answer is judged against its reference. Standard library only.

Right means: the reference's key (a number with its unit, a name) stands in the answer as whole words. Where an example
has no key, token F1 (Rajpurkar et al., SQuAD, 2016) of at least 0.6 counts as right.
"""

import re
import unicodedata
from collections import Counter

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


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall over shared tokens, 0 to 1."""
    got, wanted = tokens(answer), tokens(reference)
    shared = sum((Counter(got) & Counter(wanted)).values())
    return 2 * shared / (len(got) + len(wanted)) if shared else 0.0


def rouge_l(answer: str, reference: str) -> float:
    """F-measure of the longest common subsequence of tokens (Lin, ROUGE, 2004), 0 to 1."""
    got, wanted = tokens(answer), tokens(reference)
    if not got or not wanted:
        return 0.0
    row = [0] * (len(wanted) + 1)
    for word in got:
        diagonal = 0
        for index, other in enumerate(wanted, start=1):
            diagonal, row[index] = row[index], diagonal + 1 if word == other else max(row[index], row[index - 1])
    return 2 * row[-1] / (len(got) + len(wanted))


def tokens(text: str) -> list[str]:
    """Words and numbers, lower-cased; a decimal number is one token, a unit glued to its number is parted from it."""
    text = unicodedata.normalize("NFKC", text).lower()
    return re.findall(r"\d+(?:[.,:/-]\d+)*|[^\W\d_]+|[%°€$£]", text)
