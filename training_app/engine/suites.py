"""Which public benchmarks can be run: the names people choose from, and whether lm-eval is there. Standard library.

A task of lm-eval may hold code (`!function`), so nobody types a task: the names stand here, or in the files of the one
folder that the operator of the machine fills.
"""

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

KNOWN: Mapping[str, str] = MappingProxyType(
    {
        "arc_easy": "ARC, easy: science questions of primary school; four answers to choose from",
        "arc_challenge": "ARC, challenge: the ones that word statistics do not solve",
        "hellaswag": "HellaSwag: how an everyday scene goes on",
        "winogrande": "WinoGrande: whom a pronoun means",
        "piqa": "PIQA: how to do things with things",
        "boolq": "BoolQ: yes or no from a passage",
        "openbookqa": "OpenBookQA: elementary science with common sense",
        "commonsense_qa": "CommonsenseQA: five answers to choose from",
        "sciq": "SciQ: science questions with a supporting passage",
        "truthfulqa_mc2": "TruthfulQA: whether common errors are repeated",
        "lambada_openai": "LAMBADA: the last word of a story",
        "mmlu": "MMLU: 57 school and university subjects; the limit counts for each, so it takes long",
        "gsm8k": "GSM8K: word problems, answered in writing; slow, and small models score near zero",
        "ifeval": "IFEval: whether instructions about form are followed; answered in writing, slow",
    }
)
USUAL = ("arc_easy", "hellaswag")
OWN = "From the operator's folder"
INSTALL = (
    "lm-eval is not installed on this machine. An operator installs it: pip install -c constraints.txt '.[benchmarks]'"
)


def is_installed() -> bool:
    """Whether lm-eval can be imported, without importing it: that takes seconds."""
    return importlib.util.find_spec("lm_eval") is not None


def own_tasks(folder: str | Path) -> list[str]:
    """Names of the tasks and groups that the YAML files below the operator's folder define; none without a folder."""
    if not folder or not Path(folder).is_dir():
        return []
    named = re.compile(r"^(?:task|group):[ \t]*[\"']?([\w.-]+)[\"']?[ \t]*$", re.M)
    texts = (path.read_text(encoding="utf-8", errors="replace") for path in Path(folder).rglob("*.y*ml"))
    return sorted({name for text in texts for name in named.findall(text)})


def runnable(folder: str | Path) -> dict[str, str]:
    """Every name that may be chosen, with a line for the person who chooses; the operator's first."""
    return {**dict.fromkeys(own_tasks(folder), OWN), **KNOWN}
