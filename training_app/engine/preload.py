"""Imports what most tasks of this engine need, so that a process forked from here begins at once."""

from training_app.engine.allocator import begin_anew_under_it

begin_anew_under_it()

import peft  # noqa: E402, F401
import torch  # noqa: E402, F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402, F401
from transformers.models.llama import modeling_llama  # noqa: E402, F401
