"""Choices of which some cannot be taken now, each with its reason beside it."""

from typing import Any

from django import forms


class Reasoned:
    """`reasons` says by value why an option cannot be chosen."""

    reasons: dict[str, str]

    def create_option(self, name: str, value: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        option: dict[str, Any] = super().create_option(name, value, *args, **kwargs)  # type: ignore[misc]  # a widget's
        if reason := getattr(self, "reasons", {}).get(str(value)):
            option["attrs"]["disabled"] = True
            option["label"] = f"{option['label']} {reason}"
        return option


class ReasonedRadios(Reasoned, forms.RadioSelect):
    pass


class ReasonedSelect(Reasoned, forms.Select):
    pass
