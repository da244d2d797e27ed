"""The forms of a chat: a question with how it is to be answered, and what becomes of an answer."""

from typing import Any

from django import forms

from datasets_app.models import Dataset
from finetune_site.projects.forms import StyledMixin
from training_app.models import MAX_ANSWER_TOKENS, Conversation
from training_app.services.chat import BETTER, MAX_PROMPT, MAX_SYSTEM, VERDICTS, Manner


class TextField(forms.CharField):
    """A text of several lines, which browsers send with Windows' ends of lines."""

    def to_python(self, value: Any) -> str:
        return str(super().to_python(value)).replace("\r\n", "\n")


class ChatForm(StyledMixin, forms.Form):
    """A question; asking the last one again needs none."""

    prompt = TextField(
        required=False,
        max_length=MAX_PROMPT,
        strip=False,
        label="Question",
        widget=forms.Textarea(attrs={"rows": 2, "data-prompt": ""}),
    )
    system = TextField(
        required=False,
        max_length=MAX_SYSTEM,
        label="System prompt",
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="Empty: as the model was trained.",
    )
    temperature = forms.FloatField(
        min_value=0, max_value=2, initial=0, help_text="0: always the likeliest word, so the same answer every time."
    )
    max_tokens = forms.IntegerField(
        min_value=1,
        max_value=MAX_ANSWER_TOKENS,
        initial=256,
        label="Tokens at most",
        help_text="How long an answer may be.",
    )

    def __init__(self, *args: Any, conversation: Conversation | None = None, draft: str = "", **kwargs: Any) -> None:
        if conversation:
            kept = {name: getattr(conversation, name) for name in ("system", "temperature", "max_tokens")}
            kwargs["initial"] = {"prompt": draft, **kept}
        super().__init__(*args, **kwargs)

    @property
    def manner(self) -> Manner:
        """How it is to be answered."""
        data = self.cleaned_data
        return Manner(data["system"].strip(), data["temperature"], data["max_tokens"])

    @property
    def problem(self) -> str:
        """What is wrong with what was typed, in one sentence."""
        return " ".join(f"{self[name].label}: {' '.join(map(str, errors))}" for name, errors in self.errors.items())


class KeepForm(StyledMixin, forms.Form):
    """Which dataset an answer goes to, and whether it is good."""

    dataset = forms.ModelChoiceField(Dataset.objects.none(), empty_label=None)
    verdict = forms.ChoiceField(
        choices=list(VERDICTS.items()), widget=forms.RadioSelect, initial=BETTER, label="Answer"
    )
    better = TextField(
        required=False,
        strip=False,
        label="The better answer",
        widget=forms.Textarea(attrs={"rows": 8}),
        help_text="Starts as what the model wrote.",
    )

    with_earlier = forms.BooleanField(
        required=False,
        label="Keep the earlier turns with it",
        help_text="For a question that is not understood without them. What the model said in them is then taught too.",
    )

    def __init__(self, *args: Any, project: Any, has_earlier: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not has_earlier:
            del self.fields["with_earlier"]
        chooser = self.fields["dataset"]
        assert isinstance(chooser, forms.ModelChoiceField)
        chooser.queryset = Dataset.objects.filter(project=project).order_by("name")
