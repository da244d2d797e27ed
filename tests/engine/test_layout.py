"""PDFs by the look of their pages: the real runtime, Unstructured's own path, and a model that sees what it is told."""

import json
import shutil
from pathlib import Path

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from datasets_app.engine import elements, layout
from datasets_app.engine.media_type import PDF
from datasets_app.jobs import ENGINE
from finetune_site.lib.channel import InputError
from finetune_site.lib.process import Engine

MANUAL = Path("datasets_app/samples/kestrel-40-manual.pdf")
WIDTH, HEIGHT, STRIDE = 768, 1024, 32  # what the model looks at, and the largest of its three grids
TITLE = 10  # among Unstructured's labels of this kind of model
needs_tesseract = pytest.mark.skipif(not shutil.which("tesseract"), reason="tesseract is not installed")


def model_that_sees(path: Path, blocks: list[tuple[int, float, float, float, float]]) -> Path:
    """A model of YOLOX's shape that finds these on every page: label, middle, width and height in its pixels."""
    cells = sum((HEIGHT // stride) * (WIDTH // stride) for stride in (8, 16, 32))
    answer = numpy.zeros((1, cells, 5 + 11), dtype=numpy.float32)
    last_grid = cells - (HEIGHT // STRIDE) * (WIDTH // STRIDE)
    for label, x, y, width, height in blocks:
        column, row = int(x // STRIDE), int(y // STRIDE)
        seen = answer[0, last_grid + row * (WIDTH // STRIDE) + column]
        seen[:5] = x / STRIDE - column, y / STRIDE - row, numpy.log(width / STRIDE), numpy.log(height / STRIDE), 1
        seen[5 + label] = 1
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "nothing"], ["none of it"]),
            helper.make_node("Add", ["answer", "none of it"], ["output"]),
        ],
        "layout",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, list(answer.shape))],
        [numpy_helper.from_array(answer, "answer"), numpy_helper.from_array(numpy.float32(0), "nothing")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def parse(tmp_path, **reading):
    out = tmp_path / "out"
    out.mkdir()
    spec = tmp_path / "spec.json"
    fields = {"input_path": str(MANUAL.resolve()), "filename": MANUAL.name, "out_dir": str(out)}
    fields["layout_model"] = str(tmp_path / "layout.onnx")
    spec.write_text(json.dumps({**fields, "reading": {"strategy": "layout", **reading}}))
    with Engine(ENGINE, ["parse", str(spec)], log_path=tmp_path / "log") as engine:
        return engine.run(lambda event: None, lambda: False), out


@needs_tesseract
def test_blocks_are_what_the_model_says_with_the_text_under_them(tmp_path):
    # Of the manual's first page: its first paragraph, as if it were a heading.
    model_that_sees(tmp_path / "layout.onnx", [(TITLE, 358, 374, 560, 92)])
    outcome, out = parse(tmp_path, last_page=1)
    assert outcome.returncode == 0, outcome.log_tail
    result = json.loads((out / "result.json").read_text())
    assert result["media_type"] == PDF
    found = elements.read(out / "elements.jsonl")
    titles = [element.text for element in found if element.kind == "title"]
    assert len(titles) == 1 and "The Kestrel 40 is a grain mill that is driven by the tide" in titles[0]
    [table] = [element for element in found if element.kind == "table"]
    assert "31 months" in table.text and not any("31 months" in element.text for element in found if element != table)
    assert all(element.box for element in found)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    outcome, _ = parse(tmp_path)
    assert outcome.returncode == 2 and "FINETUNE_LAYOUT_MODEL" in outcome.failure["message"]
    monkeypatch.setattr(layout.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="onnxruntime and matplotlib"):
        layout.check("any", ("eng",))
