"""The form of a run: version, base, method, preset, and every knob with its help and bounds from the engine's spec."""

import math
from dataclasses import fields
from typing import Any

from django import forms
from django.conf import settings
from django.db.models import Func

from datasets_app.models import DatasetVersion, ModelServer
from finetune_site.jobs.models import JobState
from finetune_site.projects.forms import StyledMixin, style
from finetune_site.projects.models import Project
from training_app.engine.catalogue import too_large
from training_app.engine.rubric import DEFAULT
from training_app.engine.spec import METHODS, OBJECTIVES, PRESETS, ROW_KINDS, TrainSpec, barred, knobs
from training_app.engine.suites import USUAL, own_tasks, runnable
from training_app.forms.reasons import ReasonedRadios, ReasonedSelect
from training_app.models import BaseModel, Evaluation, Run, Sweep
from training_app.services.judging import MAX_RUBRIC
from training_app.services.runs import memory_bytes
from training_app.services.sweeps import MAX_RUNS

# Which machine computes is the operator's and the queue's to say.
HIDDEN = {"method", "device", "threads", "dtype"}
# What the form asks on its own.
ASKED = {"objective"}
KNOBS = {item.name: item for item in fields(TrainSpec) if item.metadata and item.name not in HIDDEN | ASKED}
# What a sweep may vary.
SWEPT = (
    "learning_rate",
    "epochs",
    "batch_rows",
    "rank",
    "alpha",
    "scheduler",
    "weight_decay",
    "rehearsal_share",
    "beta",
)
PLANNED = ("name", "version", "base", "start", "method", "preset", "is_evaluated_after")
ROWS = {"chat": "conversations", "preference": "preference pairs", "text": "texts"}
# What the presets set by the size of base and version.
BY_SIZE = ("epochs", "learning_rate", "batch_rows")
# What most people who turn knobs turn first.
FIRST = ("epochs", "learning_rate", "batch_rows", "rank", "alpha", "max_length")


class RunFilterForm(StyledMixin, forms.Form):
    """Which runs of a project are listed; every field may stay empty."""

    words = forms.CharField(required=False, max_length=100)
    state = forms.ChoiceField(
        required=False, choices=[("", "any"), ("draft", "draft"), *((state.value, state.label) for state in JobState)]
    )
    base = forms.ModelChoiceField(BaseModel.objects.all(), required=False, empty_label="any", label="Base model")
    method = forms.ChoiceField(required=False, choices=[("", "any"), *((name, name) for name in METHODS)])
    tag = forms.ChoiceField(required=False)

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        tags = Run.objects.filter(project=project).annotate(one=Func("tags", function="unnest")).order_by("one")
        names = tags.values_list("one", flat=True).distinct()
        chooser = self.fields["tag"]
        assert isinstance(chooser, forms.ChoiceField)
        chooser.choices = [("", "any"), *((name, name) for name in names)]


class DescribeForm(StyledMixin, forms.Form):
    """What people write down about a run."""

    notes = forms.CharField(required=False, max_length=20_000, widget=forms.Textarea(attrs={"rows": 3}))
    tags = forms.CharField(required=False, max_length=500, help_text="Separated by commas.")

    def clean_tags(self) -> list[str]:
        return [tag.strip() for tag in self.cleaned_data["tags"].split(",") if tag.strip()]


class CleanUpForm(StyledMixin, forms.Form):
    """Which checkpoints go."""

    days = forms.IntegerField(min_value=0, max_value=3650, initial=7, label="Ended at least so many days ago")
    with_stopped = forms.BooleanField(
        required=False,
        label="Also of stopped and failed runs",
        help_text="They can then not be resumed: started again, they begin at their first step.",
    )


class BaseField(forms.ModelChoiceField):
    """A base model with what tells it from others: size, licence, and how sure it is that Ollama serves the same."""

    def label_from_instance(self, base: Any) -> str:
        size = f"{base.parameters / 1e9:.2g} B" if base.parameters else ""
        quality = "made from a quantised file: lower quality" if base.source == BaseModel.GGUF else ""
        standing = base.standing.label if base.shapes else ""
        return " · ".join(str(part) for part in (base.name, size, base.licence, quality, standing) if part)


class RunForm(StyledMixin, forms.Form):
    """An empty knob means: as the preset says."""

    name = forms.CharField(max_length=120, help_text="How you will find the run again.")
    version = forms.ModelChoiceField(
        DatasetVersion.objects.none(), label="Dataset version", help_text="What the model learns from."
    )
    base = BaseField(
        BaseModel.objects.select_related("server__ollama_state"),
        label="Base model",
        widget=ReasonedSelect,
        help_text="What it starts from, as Ollama names it.",
    )
    start = forms.ModelChoiceField(
        Run.objects.none(),
        required=False,
        label="Goes on from",
        empty_label="the base model",
        help_text="A finished run whose weights this one starts with: new data on top, or preferences after answers.",
    )
    objective = forms.ChoiceField(
        choices=list(OBJECTIVES.items()),
        widget=ReasonedRadios,
        initial="supervised",
        label="What is learnt",
    )
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
        starts = self.fields["start"]
        assert isinstance(starts, forms.ModelChoiceField)
        starts.queryset = Run.objects.filter(project=project, job__state=JobState.SUCCEEDED)
        self._grey_out(project)
        self._grey_out_bases()
        defaults = knobs()
        for name, item in KNOBS.items():
            if name == "cluster" and not self._may_ask_for_cluster:
                continue
            field = _knob_field(name, item.metadata, defaults[name])
            style(field)
            self.fields[name] = field

    def _grey_out(self, project: Project) -> None:
        """Objectives whose rows no version of the project has."""
        held = DatasetVersion.objects.filter(dataset__project=project).kinds()
        chooser = self.fields["objective"].widget
        assert isinstance(chooser, ReasonedRadios)
        chooser.reasons = {
            name: f"No version of this project has {ROWS[kind]}."
            for name, kind in ROW_KINDS.items()
            if kind not in held
        }

    def _grey_out_bases(self) -> None:
        """Those that no run may start from; the whole sentence stands on the page of base models."""
        chooser, memory = self.fields["base"].widget, memory_bytes()
        assert isinstance(chooser, ReasonedSelect)
        chooser.reasons = {
            str(base.pk): "(its shapes are others)" if base.contradiction else "(too large for the machines here)"
            for base in BaseModel.objects.select_related("server__ollama_state")
            if base.contradiction or too_large(base.parameters, memory)
        }

    @property
    def _may_ask_for_cluster(self) -> bool:
        """Where there is none it is not offered; what a file or an earlier run asked for is kept, to be refused."""
        return bool(settings.RAY_ADDRESS or self.initial.get("cluster") or self.data.get("cluster"))

    @property
    def first_knobs(self) -> list[forms.BoundField]:
        return [self[name] for name in FIRST]

    @property
    def other_knobs(self) -> list[forms.BoundField]:
        return [self[name] for name in KNOBS if name not in FIRST and name in self.fields]

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
        config = {**self._usual(data["preset"]), **self._typed}
        config = {name: value for name, value in config.items() if name not in HIDDEN}
        return {**{name: data[name] for name in PLANNED}, "config": config}

    @property
    def presets(self) -> list[dict[str, Any]]:
        """What each preset would do with the version, base, method and objective chosen so far. Needs a bound form."""
        rows = self._rows
        shown = []
        for name, preset in PRESETS.items():
            usual = self._usual(name)
            steps = math.ceil(max(1, math.ceil(rows / usual["batch_rows"])) * usual["epochs"])
            shown.append({"name": name, "title": preset.title, "steps": steps if rows else None, **usual})
        return shown

    @property
    def differences(self) -> list[tuple[str, Any, Any]]:
        """Knobs typed so far that differ from the chosen preset: label, the preset's value, this value."""
        usual = self._usual(self.cleaned_data.get("preset") or "balanced")
        return [
            (str(self.fields[name].label), usual[name], value)
            for name, value in self._typed.items()
            if value != usual[name]
        ]

    @property
    def barred(self) -> dict[str, dict[str, Any]]:
        """Knobs that do not go with what is chosen so far: the values ruled out and why. Needs a bound form."""
        data = self.cleaned_data
        start = "a run" if data.get("start") else ""
        values = {**self._usual(data.get("preset") or "balanced"), **self._typed, "start_dir": start}
        found = {
            name: {"values": [str(value) for value in options], "reason": " ".join(dict.fromkeys(options.values()))}
            for name, options in barred(values).items()
        }
        if settings.JOB_SLOTS["gpu"] == 1 and not self._may_ask_for_cluster:
            found["processes"] = {"values": [], "reason": "This site has one device for training."}
        return found

    @property
    def _typed(self) -> dict[str, Any]:
        return {name: value for name in KNOBS if (value := self.cleaned_data.get(name)) not in (None, "")}

    @property
    def _rows(self) -> int:
        version = self.cleaned_data.get("version")
        return version.counts.get("train", 0) if version else 0

    def _usual(self, preset: str) -> dict[str, Any]:
        data = self.cleaned_data
        base, method = data.get("base"), data.get("method") or "dora"
        parameters = base.parameters if base else 0
        return knobs(method, preset, data.get("objective") or "supervised", parameters, self._rows)


class SweepForm(forms.Form):
    """For each knob the values to try, separated by commas; empty: as in the run that is varied."""

    manner = forms.ChoiceField(
        choices=[
            (Sweep.GRID, "Every combination of the values"),
            (Sweep.SEARCH, "Search: two numbers are a range, and each run is chosen by what the earlier ones showed"),
        ],
        widget=forms.RadioSelect(attrs={"class": "form-check-input"}),
        initial=Sweep.GRID,
        label="How",
    )
    budget = forms.IntegerField(
        min_value=2,
        max_value=MAX_RUNS,
        initial=8,
        label="Runs at most",
        help_text="They wait in the queue like others.",
    )

    def __init__(self, *args: Any, run: Run, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._knobs = {name: _knob_field(name, KNOBS[name].metadata, knobs()[name]) for name in SWEPT}
        style(self.fields["budget"])
        for name, knob_field in self._knobs.items():
            usual = run.config.get(name)
            field = forms.CharField(required=False, label=knob_field.label, help_text=f"now {usual}")
            field.widget.attrs["placeholder"] = f"{usual}, …"
            style(field)
            self.fields[name] = field

    @property
    def knob_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in SWEPT]

    def clean(self) -> dict[str, Any]:
        data: dict[str, Any] = super().clean() or {}
        data["space"] = {}
        for name in SWEPT:
            words = [word.strip() for word in (data.get(name) or "").split(",") if word.strip()]
            try:
                if words:
                    data["space"][name] = list(dict.fromkeys(self._knobs[name].clean(word) for word in words))
            except forms.ValidationError as error:
                self.add_error(name, error)
        return data


class BenchmarkForm(StyledMixin, forms.Form):
    """Which tasks of lm-eval, and how many rows of each. Nobody types a task: its file may hold code."""

    tasks = forms.MultipleChoiceField(
        widget=forms.CheckboxSelectMultiple, error_messages={"required": "Choose at least one benchmark."}
    )
    limit = forms.IntegerField(
        min_value=0,
        max_value=100_000,
        initial=100,
        label="Rows of each",
        help_text="0 means all. With 100 rows a share of right answers is known to about 5 in 100, with 1000 to 1.5.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chooser, offered = self.fields["tasks"], runnable(settings.LM_EVAL_TASKS)
        assert isinstance(chooser, forms.MultipleChoiceField)
        chooser.choices = [(name, f"{name} – {line}") for name, line in offered.items()]
        chooser.initial = own_tasks(settings.LM_EVAL_TASKS) or list(USUAL)


class JudgeForm(StyledMixin, forms.Form):
    """Which model judges which answers, and by what."""

    model = forms.ChoiceField(
        label="Judge",
        help_text="Take a model much stronger than the one it judges, and of another family: models like their own way "
        "of writing.",
    )
    sets = forms.MultipleChoiceField(widget=forms.CheckboxSelectMultiple, label="Questions")
    max_rows = forms.IntegerField(
        min_value=1,
        max_value=1000,
        initial=50,
        label="Of each at most",
        help_text="Each question takes two answers of the judge. Those that people gave verdicts on come first.",
    )
    rubric = forms.CharField(
        max_length=MAX_RUBRIC,
        widget=forms.Textarea(attrs={"rows": 16}),
        help_text="What the scores 1 to 5 mean. Beside people's verdicts 4 and 5 count as right, 3 as partly, 1 and 2 "
        "as wrong. A changed text is kept as a new version.",
    )

    def __init__(self, *args: Any, evaluation: Evaluation, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.servers = {server.pk: server for server in ModelServer.objects.all()}
        chooser, sets = self.fields["model"], self.fields["sets"]
        assert isinstance(chooser, forms.ChoiceField) and isinstance(sets, forms.MultipleChoiceField)
        chooser.choices = [
            (f"{server.pk}:{name}", f"{name} on {server}")
            for server in self.servers.values()
            for name in server.model_names
        ]
        sets.choices = [(name, f"{name} ({sums['rows']})") for name, sums in evaluation.sets.items()]
        sets.initial = list(evaluation.sets)
        newest = evaluation.run.project.rubrics.first()
        self.fields["rubric"].initial = newest.text if newest else DEFAULT

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of `start_judgement`."""
        server, _, model = self.cleaned_data["model"].partition(":")
        kept = {name: self.cleaned_data[name] for name in ("sets", "max_rows", "rubric")}
        return {**kept, "server": self.servers[int(server)], "model": model}


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
    field.widget.attrs["placeholder"] = "as the preset says" if name in BY_SIZE else f"{default:g}"
    return field
