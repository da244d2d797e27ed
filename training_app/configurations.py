"""A run's configuration as a YAML file: written from a run, read back into the form of a new one."""

from dataclasses import dataclass, field
from typing import Any

import yaml

from training_app.engine.spec import METHODS, OBJECTIVES, PRESETS
from training_app.forms.runs import ASKED, HIDDEN, KNOBS
from training_app.models import Run

MAX_BYTES = 64_000
MAX_DEPTH = 4


class ConfigurationError(Exception):
    """The file cannot be used; the message says why."""


@dataclass(frozen=True)
class Configuration:
    """Objective, method, preset, and the knobs that differ from them."""

    method: str
    preset: str
    objective: str = "supervised"
    knobs: dict[str, Any] = field(default_factory=dict)


def of_run(run: Run) -> Configuration:
    changed = {name: value for name, (_, value) in run.differing.items()}
    return Configuration(run.method, run.preset, run.objective, changed)


def dump(run: Run) -> str:
    """The run's configuration: the preset and what differs from it, then what the preset gave the other knobs."""
    found = of_run(run)
    rest = {name: value for name, value in run.config.items() if name not in {*found.knobs, *ASKED}}
    head = {"objective": found.objective, "method": found.method, "preset": found.preset}
    body = {**head, "knobs": found.knobs, "as_preset": rest}
    text: str = yaml.safe_dump(body, sort_keys=False, allow_unicode=True)
    return f"# Configuration of the run {run.name!r}, version {run.version}, base {run.base}\n{text}"


def load(text: str) -> Configuration:
    """Read a file that `dump` wrote, or that a person wrote like it. Whether values are in bounds, the form says.

    What the file lists under `as_preset` is for its reader: another base or version gives the preset other values.
    """
    try:
        _check_shape(text)
        body = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: numbers and dates that there are not
        place = getattr(error, "problem_mark", None)
        where = f" (line {place.line + 1})" if place else ""
        raise ConfigurationError(
            f"The file is no YAML{where}. Export a run's configuration to see how it looks."
        ) from error
    if not isinstance(body, dict) or not isinstance(body.get("knobs", {}), dict):
        raise ConfigurationError("The file must hold method, preset and knobs. Export a run's to see how it looks.")
    method, preset = body.get("method", "dora"), body.get("preset", "balanced")
    objective = body.get("objective", "supervised")
    _check("objective", objective, OBJECTIVES)
    _check("method", method, METHODS)
    _check("preset", preset, PRESETS)
    wanted = {name: value for name, value in body.get("knobs", {}).items() if name not in HIDDEN}
    if unknown := [str(name) for name in wanted if name not in KNOBS]:
        raise ConfigurationError(f"The file has knobs that are not known: {', '.join(unknown[:5])}.")
    if several := [name for name, value in wanted.items() if isinstance(value, (dict, list, set))]:
        raise ConfigurationError(f"The knob “{several[0]}” must be one value; a sweep tries several.")
    return Configuration(method, preset, objective, wanted)


def _check_shape(text: str) -> None:
    """Refuse what a few bytes could make huge before it is built: aliases, and one thing in another without end."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ConfigurationError("The file points at another part of itself (*name). Write the value out.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigurationError("The file has too many lists and mappings in one another. Export a run's to see.")


def _check(what: str, value: Any, known: Any) -> None:
    if not isinstance(value, str) or value not in known:
        raise ConfigurationError(f"The {what} {value!r} is not known; it must be one of {', '.join(known)}.")
