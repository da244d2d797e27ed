from datasets_app.models.datasets import Dataset, DatasetVersion, VersionEntry
from datasets_app.models.documents import Chunk, Document, Element
from datasets_app.models.examples import Decision, Example, ExampleText, State
from datasets_app.models.generation import Generation, GenerationOutcome, ImportBatch, ModelServer

__all__ = [
    "Chunk",
    "Dataset",
    "DatasetVersion",
    "Decision",
    "Document",
    "Element",
    "Example",
    "ExampleText",
    "Generation",
    "GenerationOutcome",
    "ImportBatch",
    "ModelServer",
    "State",
    "VersionEntry",
]
