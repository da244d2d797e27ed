"""What the training engine can be asked to do: one frozen dataclass per task, and the table of knobs of a run.

Standard library only: the web form and the command line read the same fields, bounds, help and refusals from here.
Every dataclass checks itself; a refusal is an `InputError` that says which value is wrong and what to do.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from finetune_site.lib.channel import InputError
from training_app.engine.suites import runnable

OBJECTIVES: Mapping[str, str] = MappingProxyType(
    {
        "supervised": "Supervised fine-tuning: learns to answer as the conversations do.",
        "pretraining": "Continued pre-training: learns the wording of texts, without questions.",
        "dpo": "DPO: learns which of two answers is better, and stays near its base.",
        "kto": "KTO: learns from good and bad answers each for itself; steadier than DPO when the pairs are noisy.",
        "orpo": "ORPO: learns the better answer's wording and to prefer it, both at once.",
    }
)
# The kind of rows that each learns from.
ROW_KINDS: Mapping[str, str] = MappingProxyType(
    {"supervised": "chat", "pretraining": "text", "dpo": "preference", "kto": "preference", "orpo": "preference"}
)
METHODS: Mapping[str, str] = MappingProxyType(
    {
        "lora": "LoRA trains small matrices beside the frozen model: fast, and the result is a few megabytes.",
        "dora": "DoRA also trains the length of every weight row: a little slower than LoRA, steadier at low rank.",
        "oft": "OFT turns the weights without stretching them: keeps what the base knows, slower than LoRA.",
        "full": "Full fine-tuning changes every weight: the most memory, and the result is a whole model.",
    }
)
SCHEDULERS = ("cosine", "linear", "constant")
SOURCES = ("bundled", "folder", "hub", "gguf")
SETS = ("validation", "recall")
# A person asks for a checkpoint by laying a file of this name into the run folder.
CHECKPOINT_WISH = "checkpoint-now"


@dataclass(frozen=True)
class Bounds:
    """A closed range a number must lie in, and the sentence that explains why."""

    low: float
    high: float
    why: str


def knob(default: Any, help: str, bounds: Bounds | None = None, choices: tuple[str, ...] = ()) -> Any:
    """A field of a spec together with what a form needs to show it."""
    return field(default=default, metadata={"help": help, "bounds": bounds, "choices": choices})


@dataclass(frozen=True)
class PrepareSpec:
    """Make a base model folder: safetensors weights, tokenizer, configuration.

    `location`: the folder; the id on the hub; for a GGUF its SHA-256, under which `ollama_models`, the store of an
    Ollama, holds it.
    """

    source: str
    out_dir: str
    location: str = ""
    ollama_models: str = ""

    def __post_init__(self) -> None:
        _check_choice("source", self.source, SOURCES)
        if self.source != "bundled" and not self.location:
            raise InputError("location is empty: name the model's folder, or its id on the hub.")


@dataclass(frozen=True)
class RunSpec:
    """What a preview and a training have in common: the sealed rows, the base model and every knob."""

    data_path: str
    data_sha256: str
    base_dir: str
    base_name: str = ""
    start_dir: str = ""  # a finished run whose weights this one goes on from; empty: the base model's
    objective: str = knob("supervised", "What is learnt.", choices=tuple(OBJECTIVES))
    method: str = knob("dora", "How the model is changed.", choices=tuple(METHODS))
    seed: int = knob(
        42, "Decides order and initial values: the same seed gives the same run.", Bounds(0, 2**31 - 1, "")
    )
    epochs: float = knob(
        4.0, "How often every row is seen.", Bounds(0.01, 1000, "more than that only memorises the wording")
    )
    max_steps: int = knob(0, "Stop after this many steps; 0 means all epochs.", Bounds(0, 10_000_000, ""))
    learning_rate: float = knob(
        1e-3,
        "How far one step moves the weights. Small models like 1e-3 with LoRA or DoRA, a tenth of it in full training.",
        Bounds(1e-8, 0.1, "larger steps always destroy the model"),
    )
    scheduler: str = knob("cosine", "How the learning rate falls towards the end.", choices=SCHEDULERS)
    warmup_share: float = knob(
        0.05, "Share of the steps in which the learning rate rises from zero.", Bounds(0, 0.9, "some steps must train")
    )
    beta: float = knob(
        0.1,
        "How firmly DPO and KTO hold the model to its base; how much ORPO's preference weighs beside the wording.",
        Bounds(0.001, 10, "the other part of the loss would vanish"),
    )
    weight_decay: float = knob(0.0, "Pulls trained weights towards zero.", Bounds(0, 1, "more erases the weights"))
    rank: int = knob(
        16,
        "Width of the trained matrices: more holds more facts. With OFT the size of its blocks.",
        Bounds(1, 1024, "wider than the model's own layers"),
    )
    alpha: int = knob(
        32,
        "Scale of the trained matrices; usually once or twice the rank.",
        Bounds(1, 8192, "the update would swamp the model"),
    )
    quantization: str = knob(
        "none",
        "Hold the frozen base in 8 or 4 bits (QLoRA): a half or a quarter of its memory, slower.",
        choices=("none", "8bit", "4bit"),
    )
    pissa: bool = knob(
        False,
        "Start from the largest directions of the base's matrices: often learns faster (PiSSA, Meng et al. 2024).",
    )
    rslora: bool = knob(
        False, "Scale by the root of the rank, so that high ranks learn too (rsLoRA, Kalajdzievski 2023)."
    )
    lora_plus: float = knob(
        1.0,
        "How much faster the second of the two matrices learns: 1 as in LoRA, 16 in LoRA+ (Hayou et al. 2024).",
        Bounds(1, 256, "the first matrix would stand still"),
    )
    dropout: float = knob(
        0.0,
        "Share of inputs ignored while training. With DoRA anything but 0 is slow.",
        Bounds(0, 0.9, "too little would be left"),
    )
    target_modules: str = knob("all-linear", "Which layers are changed: all-linear, or names separated by commas.")
    max_length: int = knob(
        1024, "Longest row in tokens; what is beyond is cut.", Bounds(8, 1_048_576, "no model reads more at once")
    )
    batch_rows: int = knob(
        8, "Rows that one step learns from.", Bounds(1, 4096, "so large a batch leaves too few steps")
    )
    micro_batch_tokens: int = knob(
        2048,
        "Tokens computed at once. It changes memory and speed, never the result.",
        Bounds(16, 10_000_000, "no device holds more"),
    )
    rehearsal_share: float = knob(
        0.125,
        "Against forgetting: beside its rows, every step repeats this share of general answers of the base model.",
        Bounds(0, 1, "the rows must stay the larger part"),
    )
    max_grad_norm: float = knob(1.0, "Longest step direction allowed; longer ones are cut.", Bounds(0.001, 1000, ""))
    eval_every: int = knob(
        0, "Steps between two looks at the validation rows; 0 means once per epoch.", Bounds(0, 10_000_000, "")
    )
    early_stopping: int = knob(
        0,
        "Stop after so many looks at the validation rows without a gain, and keep the best weights; 0 means never.",
        Bounds(0, 1000, ""),
    )
    sample_answers: int = knob(
        3,
        "At each look at the validation rows, so many of their questions are answered for you to read.",
        Bounds(0, 32, "the run would mostly write answers"),
    )
    checkpoint_every: int = knob(
        0, "Steps between two checkpoints; 0 means about every three minutes.", Bounds(0, 10_000_000, "")
    )
    keep_checkpoints: int = knob(2, "How many checkpoints stay on disk.", Bounds(1, 1000, ""))
    gradient_checkpointing: bool = knob(False, "Halves the memory for a third more time.")
    processes: int = knob(
        1, "Devices that share every step; a run waits until so many are free.", Bounds(1, 64, "no machine has more")
    )
    shard: bool = knob(
        False,
        "Split the frozen base over the processes, for one that a single device does not hold. Each then holds its "
        "part of it, and they talk at every layer: slower.",
    )
    cluster: bool = knob(
        False, "Compute on the Ray cluster: the processes then stand on its machines, and this one only watches."
    )
    threads: int = knob(0, "Processor threads; 0 means one per physical core.", Bounds(0, 1024, ""))
    device: str = knob("auto", "Where to compute.", choices=("auto", "cpu", "cuda"))
    dtype: str = knob(
        "auto",
        "Precision of the matrix products; auto takes bfloat16 where the device has it.",
        choices=("auto", "float32", "bfloat16"),
    )

    def __post_init__(self) -> None:
        for item in fields(self):
            _check_field(item.name, getattr(self, item.name), item.metadata, type(item.default))
        if self.method == "full" and self.learning_rate > 0.005:
            raise InputError(
                f"learning_rate must be below 0.005 in full training: {self.learning_rate} moves every weight too far."
            )
        _check_combination(self)
        if self.rehearsal_share and self.row_kind == "preference":
            raise InputError("rehearsal_share must be 0 in preference tuning: general answers have no worse twin.")

    @property
    def row_kind(self) -> str:
        """Which rows of the version are learnt from."""
        return ROW_KINDS[self.objective]

    @property
    def rehearsal_rows(self) -> int:
        """How many rehearsed rows stand in each step beside `batch_rows`."""
        return round(self.batch_rows * self.rehearsal_share)

    @property
    def targets(self) -> str | list[str]:
        """`target_modules` as PEFT wants it."""
        names = [name.strip() for name in self.target_modules.split(",") if name.strip()]
        return "all-linear" if names in ([], ["all-linear"]) else names


@dataclass(frozen=True)
class PreviewSpec(RunSpec):
    """Tokenise and estimate; train nothing."""

    out_dir: str = ""


@dataclass(frozen=True)
class TrainSpec(RunSpec):
    """Train, or go on training, in `run_dir`. `ray_address` is where the head of the cluster answers."""

    run_dir: str = ""
    ray_address: str = ""


@dataclass(frozen=True)
class EvaluateSpec:
    """Ask the base and the tuned model the same questions."""

    base_dir: str
    run_dir: str
    data_path: str
    out_dir: str
    data_sha256: str = ""
    method: str = "dora"
    splits: tuple[str, ...] = ("recall", "validation")
    max_rows: int = 200
    general: bool = True
    max_new_tokens: int = 64
    batch_rows: int = 48
    threads: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        _check_choice("method", self.method, tuple(METHODS))
        for name in self.splits:
            _check_choice("splits", name, SETS)
        for name in ("max_rows", "max_new_tokens", "batch_rows"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1.")


@dataclass(frozen=True)
class ChatSpec:
    """Answer requests from standard input, each of which names its model; `keep` of them stay in memory at most."""

    keep: int = 4
    threads: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise InputError("keep must be 1 or more.")


@dataclass(frozen=True)
class BenchmarkSpec:
    """Run public benchmarks by lm-eval on the base and the tuned model.

    `tasks_dir`: the operator's folder of task files; without it only the known names can be run.
    `limit`: the first rows of each task that are asked; 0 means all.
    """

    base_dir: str
    run_dir: str
    out_dir: str
    tasks: tuple[str, ...]
    tasks_dir: str = ""
    limit: int = 100
    method: str = "dora"
    batch_rows: int = 8
    seed: int = 42
    threads: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        _check_choice("method", self.method, tuple(METHODS))
        allowed = tuple(runnable(self.tasks_dir))
        if not self.tasks:
            raise InputError("tasks is empty: choose at least one benchmark.")
        for name in self.tasks:
            _check_choice("tasks", name, allowed)
        if self.limit < 0 or self.batch_rows < 1:
            raise InputError("limit must not be below 0, and batch_rows must be at least 1.")


@dataclass(frozen=True)
class JudgeSpec:
    """Have a model score answers by a rubric.

    `rows_path`: one JSON object a line with row (a number), set, question, reference, base_answer and tuned_answer.
    `llm`: the fields of the `ModelSpec` that generation uses; its key comes from the environment alone.
    """

    rows_path: str
    out_dir: str
    rubric: str
    llm: dict[str, Any]

    def __post_init__(self) -> None:
        if not self.rubric.strip():
            raise InputError("rubric is empty: say what makes an answer good.")


@dataclass(frozen=True)
class Format:
    """One way to export a run. `bits` a weight, to foretell its size; `tolerance`: how far a first token's
    log-probability may be from the merged model's.
    """

    title: str
    line: str
    bits: float = 0.0
    tolerance: float = 0.0
    is_quantised_after: bool = False

    @property
    def is_gguf(self) -> bool:
        return self.bits > 0


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "adapter": Format("Adapter", "The trained matrices alone, as PEFT reads them (safetensors)."),
        "merged": Format("Merged model", "The whole model in the Hugging Face layout (safetensors)."),
        "f16": Format("GGUF f16", "For llama.cpp and Ollama: two bytes a weight, the same answers.", 16, 0.05),
        "bf16": Format("GGUF bf16", "Two bytes a weight as models are trained; quick on recent GPUs.", 16, 0.1),
        "q8_0": Format("GGUF q8_0", "Half of f16, hardly another model: the usual choice.", 8.5, 0.5),
        "q6_k": Format("GGUF q6_k", "Six bits a weight.", 6.6, 1.0, True),
        "q5_k_m": Format("GGUF q5_k_m", "Five bits a weight: judge it again before you trust it.", 5.7, 1.5, True),
        "q4_k_m": Format("GGUF q4_k_m", "Four bits a weight: judge it again before you trust it.", 4.9, 2.0, True),
    }
)


@dataclass(frozen=True)
class ExportSpec:
    """Write a finished run's model as one file.

    `base_sha256`, `chat_template_sha256`: the base that the run was trained on; another one is refused.
    `llama_cpp_dir`: the operator's llama.cpp tree; empty: the installed package's. `data_path`: the version, for
    questions to compare with.
    """

    base_dir: str
    run_dir: str
    out_dir: str
    format: str
    method: str = "dora"
    name: str = ""
    base_sha256: str = ""
    chat_template_sha256: str = ""
    data_path: str = ""
    data_sha256: str = ""
    llama_cpp_dir: str = ""
    threads: int = 0
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        _check_choice("method", self.method, tuple(METHODS))
        _check_choice("format", self.format, tuple(FORMATS))


@dataclass(frozen=True)
class PromptsSpec:
    """Write down what a published model must read. `system`: what it is told where a conversation has no such turn;
    `base_sha256`, `chat_template_sha256` as in `ExportSpec`.
    """

    base_dir: str
    out_dir: str
    system: str = ""
    base_sha256: str = ""
    chat_template_sha256: str = ""
    data_path: str = ""
    data_sha256: str = ""


TaskSpec = (
    PrepareSpec
    | PreviewSpec
    | TrainSpec
    | EvaluateSpec
    | ChatSpec
    | JudgeSpec
    | BenchmarkSpec
    | ExportSpec
    | PromptsSpec
)
TASKS: Mapping[str, type[TaskSpec]] = MappingProxyType(
    {
        "prepare": PrepareSpec,
        "preview": PreviewSpec,
        "train": TrainSpec,
        "evaluate": EvaluateSpec,
        "chat": ChatSpec,
        "judge": JudgeSpec,
        "benchmark": BenchmarkSpec,
        "export": ExportSpec,
        "prompts": PromptsSpec,
    }
)


@dataclass(frozen=True)
class Preset:
    """A named set of knobs, with one line for the person who chooses. `passes`: share of the usual epochs."""

    title: str
    line: str
    passes: float
    values: Mapping[str, Any]


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "quick": Preset("Quick look", "A few passes in minutes: shows whether the rows teach anything.", 0.5, {}),
        "balanced": Preset("Balanced", "Learns the facts and keeps general knowledge: the right start.", 1.0, {}),
        "thorough": Preset(
            "Thorough", "More passes at a higher rank, about twice as long.", 2.0, {"rank": 32, "alpha": 64}
        ),
    }
)


# What the presets take, by size: each row holds up to its first number.
# Adapters' learning rate by parameters of the base. Small: measured on the sample manual (benchmarks/methods.py).
# From 3 billion: QLoRA (Dettmers et al. 2023, table 9) took 2e-4 at 7 and 13 billion, 1e-4 at 33 and 65.
RATES = ((0.5e9, 1e-3), (3e9, 5e-4), (14e9, 2e-4), (math.inf, 1e-4))
# Epochs by training rows. Few rows: measured as above; Alpaca took 3 for 52,000 rows, Llama 2 took 2 for 27,540 good
# ones (Touvron et al. 2023, 3.1).
EPOCHS = ((2_000, 4.0), (20_000, 3.0), (math.inf, 2.0))
# Rows a step. Adapters lose to full training in batches much above 32 (Schulman, LoRA Without Regret, 2025).
BATCHES = ((100, 4), (20_000, 8), (math.inf, 16))


def by_size(table: tuple[tuple[float, Any], ...], size: float) -> Any:
    """The value of the first row that holds `size`."""
    return next(value for limit, value in table if size <= limit)


def knobs(
    method: str = "dora", preset: str = "balanced", objective: str = "supervised", parameters: int = 0, rows: int = 0
) -> dict[str, Any]:
    """Every knob's value under a preset, method and objective: what a form starts from. All names must exist.

    `parameters` of the base and training `rows` scale it; 0 where they are not known.
    """
    values: dict[str, Any] = {item.name: item.default for item in fields(RunSpec) if item.metadata}
    values |= PRESETS[preset].values
    values["epochs"] = by_size(EPOCHS, rows) * PRESETS[preset].passes
    values["learning_rate"] = by_size(RATES, parameters)
    if rows:
        values["batch_rows"] = by_size(BATCHES, rows)
    if ROW_KINDS[objective] == "preference":
        # A preference needs far smaller steps than new wording: TRL's examples take 5e-6 with adapters on large models.
        values |= {"learning_rate": values["learning_rate"] / 10, "rehearsal_share": 0.0}
    if method == "full":
        values["learning_rate"] = values["learning_rate"] / 10  # LoRA Without Regret: about ten times apart
    return {**values, "method": method, "objective": objective}


# Knobs that do not go with every method and with each other, and the values that may not.
COMBINED: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {"quantization": ("8bit", "4bit"), "pissa": (True,), "rslora": (True,), "lora_plus": (16.0,), "shard": (True,)}
)


def barred(values: Mapping[str, Any]) -> dict[str, dict[Any, str]]:
    """Of the knobs in `COMBINED` the values that the other `values` of a run rule out, each with the refusal."""
    usual = {name: TrainSpec.__dataclass_fields__[name].default for name in COMBINED}
    found: dict[str, dict[Any, str]] = {}
    for name, options in COMBINED.items():
        # Where the others contradict each other already, each is held against the method alone.
        others = values if not _refusal(values, name, usual[name]) else {**values, **usual}
        for option in options:
            if reason := _refusal(others, name, option):
                found.setdefault(name, {})[option] = reason
    return found


def _refusal(values: Mapping[str, Any], name: str, value: Any) -> str:
    try:
        TrainSpec(**{"data_path": "", "data_sha256": "", "base_dir": "", **values, name: value})
    except InputError as error:
        return str(error)
    return ""


def _check_field(name: str, value: Any, metadata: Mapping[str, Any], kind: type) -> None:
    if choices := metadata.get("choices"):
        return _check_choice(name, value, choices)
    if kind is bool and not isinstance(value, bool):
        raise InputError(f"{name} must be true or false.")
    bounds: Bounds | None = metadata.get("bounds")
    if bounds is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{name} must be a number.")
    if kind is int and not float(value).is_integer():
        raise InputError(f"{name} must be a whole number.")
    because = f": {bounds.why}." if bounds.why else "."
    if value < bounds.low:
        raise InputError(f"{name} must be at least {bounds.low:g}{because}")
    if value > bounds.high:
        raise InputError(f"{name} must not be above {bounds.high:g}{because}")
    return None


def _check_combination(spec: RunSpec) -> None:
    """Refuse what PEFT does not put together."""
    if spec.method == "full" and spec.quantization != "none":
        raise InputError("quantization must be none in full training: a base held in few bits cannot be changed.")
    if spec.shard and (spec.method not in ("lora", "dora") or spec.quantization != "none" or spec.pissa):
        raise InputError(
            "shard splits a frozen base of full precision: it goes with lora and dora, without quantization and pissa."
        )
    if spec.shard and spec.processes == 1:
        raise InputError("shard splits the base over several processes: raise processes to 2 or more.")
    if spec.method == "oft" and spec.quantization != "none":
        raise InputError("quantization must be none with OFT: it turns weights of full precision. Choose lora or dora.")
    if spec.method in {"oft", "full"} and (spec.rslora or spec.lora_plus != 1):
        raise InputError(f"rslora and lora_plus belong to LoRA and DoRA; turn them off with {spec.method}.")
    if spec.pissa and (spec.method != "lora" or spec.quantization != "none" or spec.start_dir):
        raise InputError("pissa goes with method lora on a base of full precision that is not gone on from.")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, not {value!r}.")
