"""The kinds of values that requests carry: texts that Postgres can keep, keys that it can have."""

from typing import Annotated

from ninja import Path
from pydantic import StringConstraints

# Postgres keeps no NUL.
_KEPT = r"^[^\x00]*$"
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120, pattern=_KEPT)]
Line = Annotated[str, StringConstraints(max_length=300, pattern=_KEPT)]
Text = Annotated[str, StringConstraints(max_length=200_000, pattern=_KEPT)]
Key = Annotated[int, Path(ge=1, le=2**63 - 1)]
