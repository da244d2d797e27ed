"""Personal data of a known form is found, and what only looks like it is not."""

import pytest

from datasets_app.engine.personal import KINDS, find, masked, without


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Write to ada.lovelace+mill@example.co.uk today", "e-mail address"),
        ("Pay to DE89 3704 0044 0532 0130 00 please", "account number (IBAN)"),
        ("GB82WEST12345698765432", "account number (IBAN)"),
        ("Card 4111 1111 1111 1111, valid", "card number"),
        ("The server 192.168.17.4 answers", "IP address"),
        ("Call +49 30 901820 or write", "telephone number"),
        ("Tel: (030) 901 820", "telephone number"),
    ],
)
def test_it_is_found_and_masked(text, kind):
    [found] = find(text)
    assert found.kind == kind
    assert masked(text) == f"{text[: found.start]}[{kind}]{text[found.end :]}"
    assert masked(text, set(KINDS) - {kind}) == text


def test_names_are_masked_as_whole_words_the_longest_first():
    names = {"Ada": "name", "Ada King": "name", "St. Ives": "place"}
    text = "Ada  King, Adam and Ada went to St. Ives, not to St.Ives."
    assert without(text, names) == "[name], Adam and [name] went to [place], not to St.Ives."


@pytest.mark.parametrize(
    "text",
    [
        "The bearing 6204-2RS/C3 weighs 0.106 kg at 20 °C.",
        "Part 4111111111111112 and 1234567890123 in 2024-05-01",
        "DE89 3704 0044 0532 0130 01",
        "Version 1.2.3.4.5 of 127.0.0.1",
        "12,345,678.90 + 3 - 4 (5) = 10",
        "@home and a@b",
    ],
)
def test_what_only_looks_like_it_is_not(text):
    assert find(text) == []
