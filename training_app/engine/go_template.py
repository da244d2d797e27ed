"""A chat template in Go's language that writes what the trained Jinja template writes, for servers that insist on one.

Found by asking: the template renders conversations of marked words, and what stands between the marks are its parts.
Only templates made of such parts have one; whether it says the same is for the server's own rendering to prove.
"""

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from training_app.engine.template import render

USER, ANSWER, AGAIN, SYSTEM = "«u1»", "«a1»", "«u2»", "«s1»"


def derive(tokenizer: Any) -> str:
    """The Go template; empty where the trained one cannot be taken apart into the turns' beginnings and ends."""
    first, last = {"role": "user", "content": USER}, {"role": "user", "content": AGAIN}
    answer, system = {"role": "assistant", "content": ANSWER}, {"role": "system", "content": SYSTEM}
    try:
        whole = render(tokenizer, [first, answer, last], ask=True)
        told = render(tokenizer, [system, first, answer, last], ask=True)
        begin, after_user, after_answer, end = _between(whole, USER, ANSWER, AGAIN)
        before_system, after_system, *rest = _between(told, SYSTEM, USER, ANSWER, AGAIN)
    except Exception:  # a template raises what it likes; one that refuses these turns has no such parts
        return ""
    if rest != [after_user, after_answer, end]:
        return ""
    # What stands before every turn of the user belongs to that turn, what stands behind each to it: where exactly the
    # border lies changes nothing of what is written.
    user_begin = _common(text[::-1] for text in (begin, after_answer, after_system))[::-1]
    user_end = _common((after_user, end))
    default, system_end, answer_end = (text.removesuffix(user_begin) for text in (begin, after_system, after_answer))
    answer_begin, ask = after_user.removeprefix(user_end), end.removeprefix(user_end)
    leading = str(tokenizer.bos_token or "")
    if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id]:  # the server puts it there by itself
        default, before_system = default.removeprefix(leading), before_system.removeprefix(leading)
    turns = [
        ("system", before_system, system_end), ("user", user_begin, user_end), ("assistant", answer_begin, answer_end),
    ]  # fmt: skip
    cases = "{{ else ".join(
        f'if eq .Role "{role}" }}}}{_literal(opening)}{{{{ .Content }}}}{_literal(closing)}'
        for role, opening, closing in turns
    )
    return (
        f"{{{{ if not .System }}}}{_literal(default)}{{{{ end }}}}"
        f"{{{{ range .Messages }}}}{{{{ {cases}{{{{ end }}}}{{{{ end }}}}{_literal(ask)}"
    )


def _between(text: str, *marks: str) -> list[str]:
    parts = []
    for mark in marks:
        part, found, text = text.partition(mark)
        if not found or mark in text:
            raise ValueError(f"{mark} does not stand there once")
        parts.append(part)
    return [*parts, text]


def _common(texts: Iterable[str]) -> str:
    """The beginning that all share."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*texts, strict=False))
    return "".join(letters[0] for letters in alike)


def _literal(text: str) -> str:
    """Text as it stands in a Go template."""
    return text.replace("{{", '{{ "{{" }}')
