"""PDFs by the look of their pages: a model finds the blocks on the picture of a page and says what each is.

Unstructured's strategy `hi_res`, with a model file of YOLOX's kind that an operator put on the machine (Unstructured
publishes one as `unstructuredio/yolo_x_layout`, Apache-2.0): nothing is fetched.
"""

import importlib.util
from pathlib import Path
from typing import Any

from datasets_app.engine import ocr
from finetune_site.lib.channel import InputError

EXTRA = "layout"
MODULES = ("onnxruntime", "matplotlib")  # what the extra brings
SETTING = "FINETUNE_LAYOUT_MODEL"
NAME = "of this site"


def check(model: str, languages: tuple[str, ...]) -> None:
    """`InputError` names what is missing for it. `model`: the path of its file."""
    if missing := [name for name in MODULES if not importlib.util.find_spec(name)]:
        raise InputError(
            f"Reading by the look of the page needs {' and '.join(missing)}, which is not installed where documents "
            f"are read. Ask the operator to install the extra {EXTRA}, or choose another way."
        )
    if not model or not Path(model).is_file():
        raise InputError(
            f"Reading by the look of the page needs a layout model. Ask the operator to set {SETTING} to its file on "
            "the machine where documents are read, or choose another way."
        )
    ocr.check(languages)


def partition(part: Path, model: str, languages: tuple[str, ...]) -> list[Any]:
    """Unstructured's elements of a PDF, their places in points as those that are read from text have them. `check`
    comes first, and `slim.prepare` with layout models."""
    import pypdfium2
    from unstructured.documents.coordinates import PixelSpace
    from unstructured.partition.pdf import partition_pdf
    from unstructured_inference.models import base, yolox

    own = {NAME: {"model_path": model, "label_map": yolox.YOLOX_LABEL_MAP}}
    base.register_new_model(own, yolox.UnstructuredYoloXModel)
    found = partition_pdf(
        filename=str(part),
        strategy="hi_res",
        hi_res_model_name=NAME,
        languages=list(languages),
        infer_table_structure=False,
    )
    sizes = [page.get_size() for page in pypdfium2.PdfDocument(part)]
    for element in found:
        if element.metadata.coordinates:
            width, height = sizes[(element.metadata.page_number or 1) - 1]
            element.convert_coordinates_to_new_system(PixelSpace(width, height))
    return list(found)
