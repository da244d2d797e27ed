"""How examples came into a dataset: generations with the outcome of every passage, and imports."""

import os
from pathlib import Path

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models
from django.urls import reverse
from django.utils import timezone

from datasets_app.engine.spec import MAX_PARALLEL
from datasets_app.models.addresses import AddressField
from datasets_app.models.datasets import Dataset
from datasets_app.models.documents import Document
from datasets_app.models.recipes import RecipeVersion
from finetune_site.jobs.models import Job
from finetune_site.lib.sealing import seal, unseal


class ModelServer(models.Model):
    """A model server that operators registered. People choose one; nobody else types an address."""

    OLLAMA, OPENAI = "ollama", "openai"

    name = models.CharField(max_length=80, unique=True)
    provider = models.CharField(max_length=10, choices=[(OLLAMA, "Ollama"), (OPENAI, "OpenAI-compatible")])
    base_url = AddressField(help_text="http://host:11434 for Ollama, https://host/v1 for the others")
    key_variable = models.CharField(
        max_length=80,
        blank=True,
        # Under this prefix engines that parse uploads do not see it, and no other secret can be sent to a server.
        validators=[RegexValidator(r"^FINETUNE_LLM_[A-Z0-9_]+$", "Its name must begin with FINETUNE_LLM_.")],
        help_text="Environment variable of the workers that holds its key, if it needs one: FINETUNE_LLM_…",
    )
    sealed_key = models.TextField(editable=False, default="", blank=True)
    offered = models.TextField(blank=True, help_text="The models people may choose, one a line")
    context_window = models.PositiveIntegerField(default=4096, help_text="Tokens; set on every call")
    parallel = models.PositiveSmallIntegerField(
        "requests at once",
        default=2,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_PARALLEL)],
        help_text="As many as the server answers side by side: OLLAMA_NUM_PARALLEL of an Ollama",
    )
    price_in = models.DecimalField(
        "price of what is read",
        max_digits=9,
        decimal_places=4,
        null=True,
        blank=True,
        validators=[MinValueValidator(0)],
        help_text="For a million tokens, in your currency; empty where it costs nothing",
    )
    price_out = models.DecimalField(
        "price of what is written", max_digits=9, decimal_places=4, null=True, blank=True,
        validators=[MinValueValidator(0)],
    )  # fmt: skip
    takes_models = models.BooleanField(
        "takes models", default=False, help_text="Trainers of every project may publish models to it (Ollama only)"
    )

    class Meta:
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name

    @property
    def key(self) -> str:
        """In clear, for workers alone: the one that was entered, else the environment's; empty where none is needed or
        the environment lacks it. `UnsealError` when the site's key is another than when it was entered."""
        if self.sealed_key:
            return unseal(self.sealed_key, settings.SECRET_KEY)
        return os.environ.get(self.key_variable, "") if self.key_variable else ""

    @key.setter
    def key(self, value: str) -> None:
        self.sealed_key = seal(value, settings.SECRET_KEY) if value else ""

    @property
    def model_names(self) -> list[str]:
        return [line.strip() for line in self.offered.splitlines() if line.strip()]


class Generation(models.Model):
    """One making of examples from documents. A trial asks about some passages and keeps no example: `sample` holds what
    they would be."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="generations")
    documents = models.ManyToManyField(Document, related_name="generations")
    generator = models.CharField(max_length=20)
    server = models.ForeignKey(ModelServer, models.PROTECT, null=True, related_name="+")
    recipe = models.ForeignKey(RecipeVersion, models.PROTECT, null=True, related_name="generations")
    options = models.JSONField(default=dict)
    digest = models.CharField(max_length=80, blank=True, help_text="Of the model's weights, as its server told it")
    is_trial = models.BooleanField(default=False)
    sample = models.JSONField(default=list)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="generation")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    counts = models.JSONField(default=dict)

    class Meta:
        ordering = ["-pk"]

    def __str__(self) -> str:
        return f"generation {self.pk} for {self.dataset}"

    def get_absolute_url(self) -> str:
        return reverse("generation", args=[self.pk])

    @property
    def outcome_counts(self) -> dict[str, int]:
        """How many passages came to which outcome so far."""
        return dict(self.outcomes.order_by("outcome").values_list("outcome").annotate(count=models.Count("pk")))


class GenerationCall(models.Model):
    """One request to a model, as it was asked and answered. `work`: the job, so that later ones begin at 1 again."""

    generation = models.ForeignKey(Generation, models.CASCADE, related_name="calls")
    document = models.ForeignKey(Document, models.SET_NULL, null=True, related_name="+")
    chunk_index = models.PositiveIntegerField()
    work = models.PositiveBigIntegerField()
    number = models.PositiveSmallIntegerField()
    prompt = models.TextField()
    answer = models.TextField()
    tokens_in = models.PositiveIntegerField(null=True)
    tokens_out = models.PositiveIntegerField(null=True)
    seconds = models.FloatField()
    problem = models.CharField(max_length=300, blank=True, help_text="Why the answer could not be used")
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ["pk"]
        constraints = [
            models.UniqueConstraint(
                fields=["generation", "document", "chunk_index", "work", "number"], name="one_call_per_number"
            )
        ]

    def __str__(self) -> str:
        return f"request {self.number} about passage {self.chunk_index + 1}"


class GenerationOutcome(models.Model):
    """What became of one passage. Every passage has one."""

    generation = models.ForeignKey(Generation, models.CASCADE, related_name="outcomes")
    document = models.ForeignKey(Document, models.CASCADE, related_name="+")
    chunk_index = models.PositiveIntegerField()
    outcome = models.CharField(max_length=10)
    made = models.PositiveIntegerField(default=0)
    reason = models.CharField(max_length=300, blank=True)

    class Meta:
        ordering = ["document", "chunk_index"]
        constraints = [
            models.UniqueConstraint(fields=["generation", "document", "chunk_index"], name="one_outcome_per_passage")
        ]

    def __str__(self) -> str:
        return f"{self.outcome}: passage {self.chunk_index + 1}"


class ImportBatch(models.Model):
    """An uploaded file of examples."""

    dataset = models.ForeignKey(Dataset, models.CASCADE, related_name="imports")
    name = models.CharField(max_length=255)
    sha256 = models.CharField(max_length=64)
    size = models.BigIntegerField(default=0, editable=False)
    format = models.CharField(max_length=20, blank=True)
    job = models.OneToOneField(Job, models.SET_NULL, null=True, related_name="import_batch")
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+")
    created_at = models.DateTimeField(default=timezone.now)
    added = models.PositiveIntegerField(default=0)
    errors = models.JSONField(default=list, help_text="The first lines that could not be used, with their reasons")
    wrong = models.PositiveIntegerField(default=0, help_text="How many lines could not be used")
    good = models.PositiveIntegerField(default=0, help_text="How many could")
    takes_good_rows = models.BooleanField(default=False)

    class Meta:
        ordering = ["-pk"]
        verbose_name_plural = "import batches"

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("import_batch", args=[self.pk])

    @property
    def path(self) -> Path:
        """Where the content lies."""
        return Path(settings.MEDIA_ROOT) / "imports" / self.sha256
