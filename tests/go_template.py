"""As much of Go's text/template as chat templates in Ollama use: if, else if, else, end, range, eq, not, fields, and
quoted text. Written from the package's documentation; anything else is an error, as it is in Ollama.
"""

import re
from typing import Any

ACTION = re.compile(r"\{\{(- )?\s*(.*?)\s*( -)?\}\}", re.DOTALL)
WORDS = re.compile(r'"(?:[^"\\]|\\.)*"|[^\s]+')


class GoTemplateError(Exception):
    """The template cannot be read."""


def render_go(template: str, data: dict[str, Any]) -> str:
    """The text that a template makes of `System` and `Messages`."""
    nodes, rest = _parse(_tokens(template), 0, is_top=True)
    assert rest == len(_tokens(template))
    return "".join(_run(nodes, data))


def _tokens(template: str) -> list[tuple[str, str]]:
    if "{{" in ACTION.sub("", template):
        raise GoTemplateError("template: :1: unclosed action")
    found: list[tuple[str, str]] = []
    place, trims = 0, False
    for match in ACTION.finditer(template):
        text = template[place : match.start()]
        text = text.lstrip() if trims else text
        found.append(("text", text.rstrip() if match[1] else text))
        found.append(("do", match[2]))
        place, trims = match.end(), bool(match[3])
    tail = template[place:]
    return [*found, ("text", tail.lstrip() if trims else tail)]


def _parse(tokens: list[tuple[str, str]], at: int, *, is_top: bool = False) -> tuple[list[Any], int]:
    """Nodes up to the end or else that closes them; the place behind."""
    nodes: list[Any] = []
    while at < len(tokens):
        kind, text = tokens[at]
        words = WORDS.findall(text) if kind == "do" else []
        if kind == "text":
            nodes.append(text)
        elif words[:1] == ["range"]:
            body, at = _parse(tokens, at + 1)
            _closed(tokens, at, "end")
            nodes.append(("range", words[1:], body))
        elif words[:1] == ["if"]:
            node, at = _branches(tokens, at, words[1:])
            nodes.append(node)
        elif words and words[0] in ("end", "else"):
            if is_top:
                raise GoTemplateError(f"template: :1: unexpected {{{{{words[0]}}}}}")
            return nodes, at
        elif words:
            nodes.append(("value", words))
        at += 1
    if not is_top:
        raise GoTemplateError("template: :1: unexpected EOF")
    return nodes, at


def _branches(tokens: list[tuple[str, str]], at: int, condition: list[str]) -> tuple[Any, int]:
    branches = []
    while True:
        body, at = _parse(tokens, at + 1)
        branches.append((condition, body))
        words = WORDS.findall(tokens[at][1])
        if words == ["end"]:
            return ("if", branches), at
        condition = words[2:] if words[1:2] == ["if"] else ['"else"']


def _closed(tokens: list[tuple[str, str]], at: int, word: str) -> None:
    if WORDS.findall(tokens[at][1]) != [word]:
        raise GoTemplateError(f"template: :1: expected {word}")


def _run(nodes: list[Any], dot: dict[str, Any]) -> list[str]:
    written: list[str] = []
    for node in nodes:
        if isinstance(node, str):
            written.append(node)
        elif node[0] == "value":
            written.append(str(_value(node[1], dot)))
        elif node[0] == "range":
            for item in _value(node[1], dot):
                written += _run(node[2], item)
        else:
            chosen = next((body for condition, body in node[1] if _value(condition, dot)), [])
            written += _run(chosen, dot)
    return written


def _value(words: list[str], dot: dict[str, Any]) -> Any:
    if words[0] == "not":
        return not _value(words[1:], dot)
    if words[0] == "eq":
        return _value(words[1:2], dot) == _value(words[2:3], dot)
    if len(words) != 1:
        raise GoTemplateError(f'template: :1: function "{words[0]}" not defined')
    if words[0].startswith('"'):
        return words[0][1:-1].replace('\\"', '"')
    name = words[0].removeprefix(".")
    if not words[0].startswith(".") or name not in dot:
        raise GoTemplateError(f'template: :1: function "{words[0]}" not defined')
    return dot[name]
