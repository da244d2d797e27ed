"""Base models: what runs start from, where its weights come from, and whether they are what Ollama serves."""

import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.urls import reverse

from datasets_app.models import ModelServer
from finetune_site.jobs.models import Job
from training_app.engine import catalogue
from training_app.engine.shapes import Line, contradiction


class BaseModel(models.Model):
    """A model that can be fine-tuned, named as Ollama names it. Operators add them; the bundled one is always there."""

    BUNDLED, FOLDER, HUB, GGUF = "bundled", "folder", "hub", "gguf"
    SOURCES = {
        BUNDLED: "comes with the site",
        FOLDER: "local folder of safetensors",
        HUB: "Hugging Face",
        GGUF: "made from Ollama's quantised file: lower quality than the original weights",
    }

    class Standing(models.TextChoices):
        """Whether its weights are what Ollama serves under its name."""

        OPEN = "open", "not compared with Ollama"
        AGAIN = "again", "to be verified again"
        VERIFIED = "verified", "verified"
        CONTRADICTED = "contradicted", "contradicted"

    name = models.CharField(max_length=120, unique=True, help_text="As Ollama names it: smollm2:135m")
    title = models.CharField(max_length=200)
    source = models.CharField(max_length=10, choices=list(SOURCES.items()))
    location = models.CharField(
        max_length=300, blank=True, help_text="The folder's path, owner/name on Hugging Face, or the GGUF's SHA-256"
    )
    licence = models.CharField(max_length=80, blank=True)
    how = models.CharField(max_length=10, default="operator", editable=False, help_text="How its weights were found")
    facts = models.JSONField(default=dict, editable=False, help_text="What was read when it was made ready")
    ready_at = models.DateTimeField(null=True, editable=False)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, editable=False, related_name="prepared_base")
    server = models.ForeignKey(
        ModelServer, models.SET_NULL, null=True, editable=False, related_name="+", help_text="Compared with this one"
    )
    digest = models.CharField(max_length=100, blank=True, editable=False, help_text="Ollama's, when it was compared")
    shapes = models.JSONField(default=list, editable=False, help_text="What was compared, line by line")
    compared_at = models.DateTimeField(null=True, editable=False)

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return f"{reverse('base_models')}?{urlencode({'words': self.name})}"

    def clean(self) -> None:
        """A folder must lie below one that the operator of the machine has opened for models."""
        allowed = [Path(root).resolve() for root in settings.MODEL_FOLDERS]
        place = Path(self.location).resolve()
        if self.source == self.FOLDER and not any(place.is_relative_to(root) for root in allowed):
            raise ValidationError({"location": "The folder must lie below one of FINETUNE_MODEL_FOLDERS."})
        if self.source == self.HUB and not catalogue.HUB_NAME.fullmatch(self.location):
            raise ValidationError({"location": "Enter the repository as Hugging Face writes it: owner/name."})

    @property
    def folder(self) -> Path:
        """Where the model lies once it is ready: safetensors and a tokenizer."""
        return Path(settings.DATA_DIR) / "models" / str(self.pk)

    @property
    def entry(self) -> catalogue.Entry | None:
        """What the catalogue says of its weights, under whatever name they go here."""
        return catalogue.of_repository(self.location) if self.source == self.HUB else catalogue.find(self.name)

    @property
    def parameters(self) -> int:
        """How many it has, as read when it was made ready, else by the catalogue, else as its name says (“8b”); 0 when
        nobody knows."""
        if known := self.facts.get("parameters"):
            return int(known)
        if self.entry:
            return self.entry.parameters
        told = re.search(r"(?:^|[:\-_/ ])(\d+(?:\.\d+)?)([mb])(?![a-z])", f"{self.name} {self.location}".lower())
        return round(float(told[1]) * {"m": 1e6, "b": 1e9}[told[2]]) if told else 0

    @property
    def is_ready(self) -> bool:
        return self.ready_at is not None

    @property
    def weights(self) -> str:
        """Where its weights come from, as people call it."""
        return self.location if self.source in (self.HUB, self.FOLDER) else self.get_source_display()

    @property
    def lines(self) -> list[Line]:
        return [Line(**line) for line in self.shapes]

    @property
    def standing(self) -> "BaseModel.Standing":
        if not self.shapes:
            return self.Standing.OPEN
        state = getattr(self.server, "ollama_state", None)
        there = state.digest_of(self.name) if state else ""
        if there and there != self.digest:
            return self.Standing.AGAIN
        if all(line.ok for line in self.lines):
            return self.Standing.VERIFIED
        return self.Standing.CONTRADICTED if there else self.Standing.OPEN  # nobody serves the other weights any more

    @property
    def contradiction(self) -> str:
        """Why no run may start from it; empty when nothing speaks against it."""
        if self.standing != self.Standing.CONTRADICTED:
            return ""
        return contradiction(self.name, str(self.server or "Ollama"), self.weights, self.lines)

    @property
    def identity(self) -> dict[str, Any]:
        """What a run keeps of it."""
        return {
            "name": self.name,
            "source": self.source,
            "weights": self.weights,
            "licence": self.licence,
            "server": str(self.server or ""),
            "digest": self.digest,
            "standing": str(self.standing.label),
            "sha256": self.facts.get("sha256", ""),
        }
