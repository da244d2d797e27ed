"""A model that is asked about passages: whatever its server does, every passage has one outcome, and no answer that was
stored is asked for again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from datasets_app.engine.chunks import Chunk, write
from finetune_site.lib.process import Engine
from tests.engine.engine_process import ROOT
from tests.engine.llm_double import Reply, llm_double

WEIGHTS = {index: f"{index + 20} kg" for index in range(24)}
RECIPE = {"kind": "qa", "settings": {"count": 2, "wordings": 1}}


def text_of(index):
    return f"Part number P{index:02} weighs {WEIGHTS[index]}."


def answer(index):
    question = f"What does part number P{index:02} weigh?"
    item = {"quotes": [text_of(index)], "answer": f"It weighs {WEIGHTS[index]}.", "questions": [question]}
    return json.dumps({"items": [item]})


def index_of(messages):
    return next(index for index in WEIGHTS if text_of(index) in messages[0]["content"])


def spec_of(folder, base_url, count=24, **fields):
    folder.mkdir(exist_ok=True)
    chunks = [Chunk(index, text_of(index), index, index, [f"Part {index}"], f"key{index}") for index in range(count)]
    write(chunks, folder / "chunks.jsonl")
    (folder / "elements.jsonl").write_text("")
    source = {"id": 7, "name": "parts.pdf", "elements_path": str(folder / "elements.jsonl")}
    model = {"provider": "openai", "base_url": base_url, "model": "m", "timeout_seconds": 2, "parallel": 4, **fields}
    spec = {"documents": [{**source, "chunks_path": str(folder / "chunks.jsonl")}], "out_dir": str(folder / "out")}
    path = folder / "spec.json"
    path.write_text(json.dumps({**spec, "generator": "llm", "llm": model, "recipe": RECIPE}))
    return path


def run(path):
    events = []
    with Engine("datasets_app.engine", ["generate", str(path)], log_path=path.parent / "log") as engine:
        outcome = engine.run(events.append, lambda: False)
    assert outcome.returncode == 0, outcome.log_tail
    return {event["chunk"]: (event["outcome"], event["reason"]) for event in events if event["event"] == "chunk"}


def lines(folder, name):
    return [json.loads(line) for line in (folder / "out" / f"{name}.jsonl").read_text().splitlines() if line]


def test_every_way_to_fail_is_an_outcome_of_its_own(tmp_path):
    ways = {
        0: [Reply(answer(0)[:30], ended="length"), Reply(answer(0))],  # cut, then asked for less
        1: [Reply(answer(1)[:30], ended="length"), Reply(answer(1)[:30], ended="length")],
        2: [Reply("I would say it is heavy."), Reply(answer(2))],  # mended
        3: [Reply("I would say it is heavy."), Reply("{}")],
        4: [Reply('{"items": []}'), Reply('{"items": []}')],
        5: [Reply(seconds=5)],
        6: [Reply(status=503), Reply(answer(6))],  # busy, then not
        7: [Reply(status=500)],
        8: [Reply(json.dumps({"items": [{**json.loads(answer(8))["items"][0], "questions": ["Hm?"]}]}))],
        9: [Reply(answer(9))],
    }
    calls = Counter()

    def script(messages):
        index = index_of(messages)
        calls[index] += 1
        return ways[index][calls[index] - 1]

    with llm_double(script) as double:
        ended = run(spec_of(tmp_path, double.base_url, 10))
        asked = {index: [each for each in double.asked if index_of(each["messages"]) == index] for index in ways}
    assert {index: outcome for index, (outcome, _) in ended.items()} == {
        0: "made", 1: "refused", 2: "made", 3: "refused", 4: "refused", 5: "timed out", 6: "made", 7: "failed",
        8: "refused", 9: "made",
    }  # fmt: skip
    assert "cut at the length limit" in ended[1][1] and "does not follow the schema" in ended[3][1]
    assert "a question is none" in ended[8][1]
    assert [len(asked[index]) for index in ways] == [2, 2, 2, 2, 2, 1, 2, 1, 1, 1]
    assert "Write 1 facts" in asked[0][1]["messages"][0]["content"]
    assert [message["role"] for message in asked[2][1]["messages"]] == ["user", "assistant", "user"]
    assert "Send all of it again" in asked[2][1]["messages"][2]["content"]
    assert all(each["response_format"]["type"] == "json_schema" for each in double.asked)
    problems = {call["chunk"]: call["problem"] for call in lines(tmp_path, "calls") if call["number"] == 1}
    assert problems[0] == "the answer was cut at the length limit" and problems[2] == "it is no JSON"
    assert problems[9] == "" and problems[4].startswith("items: ")
    assert {row["chunk"]: row["call"] for row in lines(tmp_path, "examples")} == {0: 2, 2: 2, 6: 1, 9: 1}
    assert all(row["support"] == "verified" for row in lines(tmp_path, "examples"))


def test_as_many_requests_are_in_flight_as_the_server_allows(tmp_path):
    with llm_double(lambda messages: Reply(answer(index_of(messages)), seconds=0.1)) as double:
        ended = run(spec_of(tmp_path, double.base_url, 12))
        assert double.most_at_once == 4
    assert len(ended) == 12 and {outcome for outcome, _ in ended.values()} == {"made"}


def test_a_server_that_dies_leaves_every_passage_with_an_outcome(tmp_path):
    def script(messages):
        return Reply(answer(index_of(messages)), dies=index_of(messages) == 9)

    with llm_double(script) as double:
        ended = run(spec_of(tmp_path, double.base_url))
    outcomes = Counter(outcome for outcome, _ in ended.values())
    assert sum(outcomes.values()) == len(WEIGHTS) and set(outcomes) <= {"made", "failed", "timed out"}
    assert outcomes["made"] >= 6 and outcomes["failed"] >= 10
    assert Counter(line["chunk"] for line in lines(tmp_path, "outcomes")) == Counter(list(WEIGHTS))


def test_passages_longer_than_the_context_are_refused_before_they_are_sent(tmp_path):
    with llm_double(lambda messages: Reply(answer(0))) as double:
        ended = run(spec_of(tmp_path, double.base_url, 1, context_window=300))
        assert double.asked == []
    assert ended[0][0] == "refused" and "longer than the model's context of 300 tokens" in ended[0][1]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_killed_it_loses_the_requests_in_flight_and_repeats_none_that_was_stored(tmp_path, kill):
    with llm_double(lambda messages: Reply(answer(index_of(messages)), seconds=0.3)) as double:
        path = spec_of(tmp_path, double.base_url)
        command = [sys.executable, "-m", "datasets_app.engine", "generate", str(path)]
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stored = tmp_path / "out" / "outcomes.jsonl"
        until = time.monotonic() + 60
        while time.monotonic() < until and not (stored.exists() and stored.read_text().count("\n") >= 6):
            time.sleep(0.05)
        process.send_signal(kill)
        # A request that is not answered yet is not waited for.
        process.wait(10)
        kept = {line["chunk"] for line in lines(tmp_path, "outcomes")}
        sent = Counter(index_of(asked["messages"]) for asked in double.asked)
        assert len(kept) >= 6 and len(set(sent) - kept) <= 2 * 4
        double.asked.clear()
        ended = run(path)
        again = Counter(index_of(asked["messages"]) for asked in double.asked)
    assert set(again) == set(ended) == set(WEIGHTS) - kept and set(again.values()) == {1}
    assert Counter(line["chunk"] for line in lines(tmp_path, "outcomes")) == Counter(list(WEIGHTS))
    assert Counter(row["chunk"] for row in lines(tmp_path, "examples")) == Counter(list(WEIGHTS))
    assert Counter(call["chunk"] for call in lines(tmp_path, "calls")) == Counter(list(WEIGHTS))
