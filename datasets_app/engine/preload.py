"""Imports what reading most kinds of file needs, so that a process forked from here begins at once."""

import os
from importlib import import_module

# No telemetry, no notice, no download: as the program itself has it.
os.environ.update(DO_NOT_TRACK="true", SCARF_NO_ANALYTICS="true", UNSTRUCTURED_DISABLE_NOTICE="1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_THREAD_LIMIT", "1")

for name in ("parse", "slim"):
    import_module(f"datasets_app.engine.{name}")
import_module("datasets_app.engine.slim").prepare()
for name in ("docx", "html", "md", "pdf", "pdf_image.pdfminer_processing", "pptx", "text", "utils.constants", "xml"):
    import_module(f"unstructured.partition.{name}")
for name in ("openpyxl", "pdfplumber", "PIL.Image", "pypdfium2", "pypdfium2.raw"):
    import_module(name)
# What is loaded at the first use of it: the tagging model, and the profiles of languages.
import_module("unstructured.nlp.tokenize").pos_tag("A warm engine tags its first sentence sooner.")
import_module("langdetect.detector_factory").init_factory()
