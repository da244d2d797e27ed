"""What operators type about where the weights of a base model lie, and what the list of them is filtered by."""

from typing import Any

from django import forms
from django.conf import settings

from finetune_site.projects.forms import StyledMixin
from training_app.forms.reasons import ReasonedRadios
from training_app.models import BaseModel
from training_app.services.bases import Offer


class BaseFilterForm(StyledMixin, forms.Form):
    """Which names are listed; both fields may stay empty."""

    words = forms.CharField(required=False, max_length=120, label="Name or repository")
    is_whole = forms.BooleanField(required=False, label="Also what no server here holds")


class PointForm(StyledMixin, forms.Form):
    """Where the weights of a name lie."""

    source = forms.ChoiceField(
        choices=[
            (BaseModel.HUB, "A repository on Hugging Face, fetched at the first use."),
            (BaseModel.FOLDER, "A folder on this machine, in the layout of Hugging Face: for sites without a network."),
            (BaseModel.GGUF, "Ollama's own quantised file, read back: lower quality than the original weights."),
        ],
        widget=ReasonedRadios,
        initial=BaseModel.HUB,
        label="Its weights are",
    )
    location = forms.CharField(
        required=False,
        max_length=300,
        label="Repository or folder",
        help_text="owner/name as Hugging Face writes it, or the folder's whole path. Ollama's own file needs neither.",
    )
    licence = forms.CharField(required=False, max_length=80, help_text="Shown wherever the model can be chosen.")

    def __init__(self, *args: Any, offer: Offer, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        chooser = self.fields["source"].widget
        assert isinstance(chooser, ReasonedRadios)
        chooser.reasons = {}
        if not settings.MODEL_FOLDERS:
            chooser.reasons[BaseModel.FOLDER] = "The site has no folder for models (FINETUNE_MODEL_FOLDERS)."
        if not settings.OLLAMA_MODELS:
            chooser.reasons[BaseModel.GGUF] = "The site does not share an Ollama's folder (FINETUNE_OLLAMA_MODELS)."
        elif not offer.quantised:
            chooser.reasons[BaseModel.GGUF] = "No server here holds a file of it that can be read back."

    def clean(self) -> dict[str, Any]:
        found: dict[str, Any] = super().clean() or {}
        if found.get("source") != BaseModel.GGUF and not found.get("location"):
            self.add_error("location", "Enter the repository or the folder.")
        return found
