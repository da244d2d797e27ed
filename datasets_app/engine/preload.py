"""Imports what reading most kinds of file needs, so that a process forked from here begins at once."""

from importlib import import_module

from datasets_app.engine import slim

slim.keep_quiet()
slim.prepare()
import_module("datasets_app.engine.parse")
for name in ("docx", "html", "md", "pdf", "pdf_image.pdfminer_processing", "pptx", "text", "utils.constants", "xml"):
    import_module(f"unstructured.partition.{name}")
for name in ("openpyxl", "pdfplumber", "PIL.Image", "pypdfium2", "pypdfium2.raw"):
    import_module(name)
# What is loaded at the first use of it: the tagging model, and the profiles of languages.
import_module("unstructured.nlp.tokenize").pos_tag("A warm engine tags its first sentence sooner.")
import_module("langdetect.detector_factory").init_factory()
