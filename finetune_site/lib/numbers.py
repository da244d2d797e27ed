"""Numbers as addresses and headers carry them."""

MOST_DIGITS = 18  # what a bigint of Postgres always holds


def whole_number(text: str, default: int = 0) -> int:
    """The number that a text spells: a row's key, a page, a place. `default` for anything else, and for more digits
    than a row's key can have; 0 is the key of no row."""
    return int(text) if text.isdecimal() and len(text) <= MOST_DIGITS else default
