from training_app.models.bases import BaseModel
from training_app.models.benchmarks import Benchmark
from training_app.models.chat import MAX_ANSWER_TOKENS, ChatAnswer, ChatTurn, Conversation
from training_app.models.evaluations import Evaluation, EvaluationRow
from training_app.models.judging import Grade, Judgement, Rubric, Side, Verdict
from training_app.models.publishing import (
    STEPS,
    Export,
    Gate,
    OllamaPull,
    OllamaState,
    Publication,
    PublishedModel,
    Switch,
)
from training_app.models.runs import Metric, RowLoss, Run, Sample
from training_app.models.sweeps import Sweep, Trial

__all__ = [
    "MAX_ANSWER_TOKENS",
    "STEPS",
    "BaseModel",
    "Benchmark",
    "ChatAnswer",
    "ChatTurn",
    "Conversation",
    "Evaluation",
    "EvaluationRow",
    "Export",
    "Gate",
    "Grade",
    "Judgement",
    "Metric",
    "OllamaPull",
    "OllamaState",
    "Publication",
    "PublishedModel",
    "RowLoss",
    "Rubric",
    "Run",
    "Sample",
    "Side",
    "Sweep",
    "Switch",
    "Trial",
    "Verdict",
]
