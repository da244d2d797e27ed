from datasets_app.models.datasets import Dataset, DatasetVersion, VersionEntry
from datasets_app.models.documents import Chunk, Correction, Document, Element, Parsing, ReadingDefault
from datasets_app.models.examples import Decision, Example, ExampleText, State
from datasets_app.models.generation import Generation, GenerationCall, GenerationOutcome, ImportBatch, ModelServer
from datasets_app.models.labelstudio import (
    Conflict,
    LabelStudioImport,
    LabelStudioLink,
    LabelStudioProject,
    LabelStudioSending,
    LabelStudioServer,
    LabelStudioTask,
)
from datasets_app.models.quality import QualityRules
from datasets_app.models.recipes import Recipe, RecipeVersion
from datasets_app.models.tally import Counts, Tally
from datasets_app.models.uploads import Upload

__all__ = [
    "Chunk",
    "Conflict",
    "Correction",
    "Counts",
    "Dataset",
    "DatasetVersion",
    "Decision",
    "Document",
    "Element",
    "Example",
    "ExampleText",
    "Generation",
    "GenerationCall",
    "GenerationOutcome",
    "ImportBatch",
    "LabelStudioImport",
    "LabelStudioLink",
    "LabelStudioProject",
    "LabelStudioSending",
    "LabelStudioServer",
    "LabelStudioTask",
    "ModelServer",
    "Parsing",
    "QualityRules",
    "ReadingDefault",
    "Recipe",
    "RecipeVersion",
    "State",
    "Tally",
    "Upload",
    "VersionEntry",
]
