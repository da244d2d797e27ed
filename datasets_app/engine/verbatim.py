"""The generator of texts: each passage as it stands, under its headings, for continued pre-training."""

import hashlib
from typing import Any

from datasets_app.engine.chunks import Chunk
from datasets_app.engine.evidence import at

NAME, VERSION = "verbatim", "verbatim-1"
MIN_CHARACTERS = 40  # a shorter passage is a remnant: a page number, a lone caption


def rows_of(chunk: Chunk) -> list[dict[str, Any]]:
    """One row: the section's headings, then the passage. None for a remnant."""
    if len(chunk.text) < MIN_CHARACTERS:
        return []
    headings = [title for title in chunk.section if not chunk.text.startswith(title)]
    return [
        {
            "kind": "text",
            "text": "\n\n".join([" > ".join(headings), chunk.text] if headings else [chunk.text]),
            **at(chunk.text, 0).fields(),
            "fact": hashlib.sha256(chunk.text.encode()).hexdigest()[:16],
            "wording": "verbatim",
            "answer_key": "",
            "generator": NAME,
            "model": "",
            "prompt_version": VERSION,
        }
    ]
