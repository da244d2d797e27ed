"""The kinds of values that requests carry: texts that Postgres can keep, keys that it can have."""

from typing import Annotated, Any

from ninja import Path
from pydantic import ConfigDict, StringConstraints

# Postgres keeps no NUL.
_KEPT = r"^[^\x00]*$"
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=120, pattern=_KEPT)]
Line = Annotated[str, StringConstraints(max_length=300, pattern=_KEPT)]
Text = Annotated[str, StringConstraints(max_length=200_000, pattern=_KEPT)]
Place = Annotated[int, Path(ge=0, le=2**31 - 1)]  # of a piece in its document
Key = Annotated[int, Path(ge=1, le=2**63 - 1)]


def example(**values: Any) -> ConfigDict:
    """The configuration of a request's body that shows itself in the OpenAPI document, as somebody would send it."""
    return ConfigDict(json_schema_extra={"examples": [values]})
