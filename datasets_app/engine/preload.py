"""Imports what reading most kinds of file needs, so that a process forked from here begins at once."""

import os

# No telemetry, no notice, no download: as the program itself has it.
os.environ.update(DO_NOT_TRACK="true", SCARF_NO_ANALYTICS="true", UNSTRUCTURED_DISABLE_NOTICE="1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_THREAD_LIMIT", "1")

from datasets_app.engine import parse, slim  # noqa: F401

slim.prepare()

import pdfplumber  # noqa: E402, F401
import pypdfium2  # noqa: E402, F401
from unstructured.nlp import tokenize  # noqa: E402

tokenize.pos_tag("A warm engine tags its first sentence faster.")
