"""`make demo` to its end, on a document of four facts."""

import subprocess

import pytest

from tests.site.test_recovery import ROOT, UP, environment, free_port  # noqa: F401  a fixture


@pytest.mark.slow
def test_it_goes_from_a_document_to_a_model_that_knows_it(environment, tmp_path):  # noqa: F811
    document = tmp_path / "figures.md"
    rows = (("Weight", "41 kg"), ("Rated speed", "1840 rpm"), ("Oil volume", "2.7 l"), ("Pressure", "63 bar"))
    document.write_text(
        "# Tarn 12 gearbox\n\n| Figure | Value |\n|---|---|\n" + "\n".join(f"| {a} | {b} |" for a, b in rows)
    )
    demo = [*UP, "--port", free_port(), "--then", "demo", "--doc", str(document)]
    done = subprocess.run(demo, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "fine-tuned in" in done.stdout and "still answered:" in done.stdout and "41 kg" in done.stdout
