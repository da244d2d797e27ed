"""The form of a run: version, base, method, preset, and every knob with its help and bounds from the engine's spec."""

from dataclasses import fields
from typing import Any

from django import forms

from datasets_app.models import DatasetVersion
from finetune_site.projects.forms import StyledMixin, style
from finetune_site.projects.models import Project
from training_app.engine.spec import METHODS, PRESETS, TrainSpec, knobs
from training_app.models import BaseModel

# Which machine computes is the operator's and the queue's to say.
HIDDEN = {"method", "device", "threads", "dtype"}
KNOBS = {item.name: item for item in fields(TrainSpec) if item.metadata and item.name not in HIDDEN}
# What most people who turn knobs turn first.
FIRST = ("epochs", "learning_rate", "batch_rows", "rank", "alpha", "max_length")


class RunForm(StyledMixin, forms.Form):
    """An empty knob means: as the preset says."""

    name = forms.CharField(max_length=120, help_text="How you will find the run again.")
    version = forms.ModelChoiceField(
        DatasetVersion.objects.none(), label="Dataset version", help_text="What the model learns from."
    )
    base = forms.ModelChoiceField(BaseModel.objects.all(), label="Base model", help_text="What it starts from.")
    method = forms.ChoiceField(
        choices=[(name, text) for name, text in METHODS.items()], widget=forms.RadioSelect, initial="dora"
    )
    preset = forms.ChoiceField(
        choices=[(name, f"{preset.title}: {preset.line}") for name, preset in PRESETS.items()],
        widget=forms.RadioSelect,
        initial="balanced",
    )
    is_evaluated_after = forms.BooleanField(
        required=False, initial=True, label="Judge it against its base when it has ended"
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chooser = self.fields["version"]
        assert isinstance(chooser, forms.ModelChoiceField)
        versions = DatasetVersion.objects.filter(dataset__project=project).sealed()
        chooser.queryset = versions.select_related("dataset")
        defaults = knobs()
        for name, item in KNOBS.items():
            field = _knob_field(name, item.metadata, defaults[name])
            style(field)
            self.fields[name] = field

    @property
    def first_knobs(self) -> list[forms.BoundField]:
        return [self[name] for name in FIRST]

    @property
    def other_knobs(self) -> list[forms.BoundField]:
        return [self[name] for name in KNOBS if name not in FIRST]

    @property
    def has_knobs(self) -> bool:
        """True when the form starts with knobs turned already."""
        return any(name in self.initial for name in KNOBS)

    @property
    def has_knob_errors(self) -> bool:
        return any(name in self.errors for name in KNOBS)

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `plan_run`: the preset's values, and over them what was typed."""
        data = self.cleaned_data
        config = knobs(data["method"], data["preset"])
        typed = {name: data[name] for name in KNOBS if data.get(name) not in (None, "")}
        config = {name: value for name, value in {**config, **typed}.items() if name not in HIDDEN}
        named = {name: data[name] for name in ("name", "version", "base", "method", "preset", "is_evaluated_after")}
        return {**named, "config": config}


def differing(method: str, preset: str, config: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Which knobs differ from the preset: name to (preset's value, this value)."""
    usual = knobs(method, preset)
    return {name: (usual[name], value) for name, value in config.items() if name in usual and usual[name] != value}


def _knob_field(name: str, metadata: Any, default: Any) -> forms.Field:
    options: dict[str, Any] = {
        "required": False,
        "label": name.replace("_", " ").capitalize(),
        "help_text": metadata["help"],
    }
    bounds = metadata["bounds"]
    if isinstance(default, bool):
        choices = [("", "as the preset says"), ("True", "yes"), ("False", "no")]
        return forms.TypedChoiceField(choices=choices, coerce=lambda text: text == "True", empty_value=None, **options)
    if metadata["choices"]:
        choices = [("", "as the preset says"), *((choice, choice) for choice in metadata["choices"])]
        return forms.ChoiceField(choices=choices, **options)
    if isinstance(default, str):
        return forms.CharField(**options)
    kind = forms.FloatField if isinstance(default, float) or name == "epochs" else forms.IntegerField
    field = kind(min_value=bounds.low, max_value=bounds.high, **options)
    field.widget.attrs["placeholder"] = f"{default:g}"
    return field
