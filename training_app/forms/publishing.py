"""The forms of a publication and of a project's gate."""

from typing import Any

from django import forms
from django.utils.text import slugify

from datasets_app.models import ModelServer
from finetune_site.projects.forms import StyledMixin
from training_app.engine.spec import FORMATS
from training_app.models import Gate, Run
from training_app.services import publishing as services


class PublicationForm(StyledMixin, forms.Form):
    """Under which name, in which format, with which system prompt and parameters."""

    server = forms.ModelChoiceField(ModelServer.objects.none(), label="Ollama", empty_label=None)
    name = forms.SlugField(
        max_length=63, help_text="People then use it with ft/ before it; another version of it gets the next number."
    )
    format = forms.ChoiceField(choices=[], help_text="q8_0 is the usual choice: half of f16, hardly another model.")
    system = forms.CharField(
        required=False,
        max_length=8000,
        widget=forms.Textarea(attrs={"rows": 3}),
        label="System prompt",
        help_text="What it is told where a conversation has no system message. It learnt without one, if left empty.",
    )
    temperature = forms.FloatField(min_value=0, max_value=2, initial=0.2, help_text="0: always the likeliest word.")
    num_ctx = forms.IntegerField(
        min_value=256,
        max_value=1_048_576,
        label="Context",
        help_text="Tokens of a conversation that it reads; what is beyond is cut. At least as long as its rows were.",
    )
    licence = forms.CharField(
        required=False,
        max_length=40_000,
        widget=forms.Textarea(attrs={"rows": 3}),
        label="Licence text",
        help_text="Goes with the model. A tuned model stands under its base's licence.",
    )
    note = forms.CharField(required=False, max_length=300, help_text="What is new in this version.")

    def __init__(self, *args: Any, run: Run, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        servers = self.fields["server"]
        assert isinstance(servers, forms.ModelChoiceField)
        servers.queryset = ModelServer.objects.filter(provider=ModelServer.OLLAMA, takes_models=True)
        chooser = self.fields["format"]
        assert isinstance(chooser, forms.ChoiceField)
        chooser.choices = [
            (name, f"{kind.title}, about {services.foretold_bytes(run, name) / 1e9:.2f} GB")
            for name, kind in FORMATS.items()
            if kind.is_gguf and not services.refusal(run, name)
        ]
        last = run.project.published_models.order_by("-pk").first()
        self.fields["name"].initial = last.name.partition("/")[2] if last else slugify(run.project.name)[:63]
        self.fields["format"].initial = "q8_0"
        self.fields["num_ctx"].initial = max(2048, int(run.config.get("max_length", 0)))
        self.fields["licence"].initial = run.base.licence
        self.duties = services.licence_duties(run.base)

    @property
    def arguments(self) -> dict[str, Any]:
        chosen = dict(self.cleaned_data)
        chosen["parameters"] = {name: chosen.pop(name) for name in ("temperature", "num_ctx")}
        return chosen


class GateForm(StyledMixin, forms.ModelForm):
    """What an evaluation must show before a model is promoted."""

    class Meta:
        model = Gate
        fields = ["min_gain", "min_kept"]

    min_gain = forms.FloatField(
        min_value=-1,
        max_value=1,
        label="Gain on the version's questions",
        help_text="How much larger the share of right answers must be than the base's, over recall and validation.",
    )
    min_kept = forms.FloatField(
        min_value=0,
        max_value=1,
        label="General answers kept",
        help_text="Of the general questions that the base answers rightly, the share that must still be right.",
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "instance": kwargs.get("instance") or Gate()})
