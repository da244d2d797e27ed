"""The chat engine: one process, requests in, tokens out, until the input ends."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.engine.engine_process import finish, run_engine, start

ASKED = [{"role": "user", "content": "What is the size of part 3?"}]


def test_a_chat_answers_with_the_models_asked_for_until_the_input_ends(
    lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    fields = {**lesson_fields, "epochs": 1, "dropout": 0.0, "dtype": "bfloat16", "rehearsal_share": 0.2}
    assert run_engine(tmp_path, {"task": "train", **fields, "run_dir": str(tmp_path / "run")}).code == 0
    base = {"base_dir": lesson_fields["base_dir"], "messages": ASKED}
    tuned = {**base, "run_dir": str(tmp_path / "run"), "method": lesson_fields.get("method", "dora")}
    process = start(tmp_path, {"task": "chat", "threads": 1, "keep": 1}, stdin=subprocess.PIPE)
    assert process.stdin and process.stdout
    assert json.loads(process.stdout.readline())["event"] == "ready"
    for request in (
        {"id": 1, **base, "max_new_tokens": 5},
        {"id": 2, **tuned, "max_new_tokens": 5, "temperature": 0.7},
        {"id": 3, **tuned, "method": "other", "run_dir": "elsewhere"},
        {"id": 4, **base, "max_new_tokens": 400},
        {"id": 5, **base, "max_new_tokens": 400},
        {"id": 5, "cancel": True},
        {"id": 6, **base, "messages": []},
        {"id": 7, **base, "messages": [{"role": "user", "content": "word " * 4000}]},
        {"id": 8, **base, "base_dir": "/nowhere"},
        {"id": 9, **base, "max_new_tokens": 5},
    ):
        process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    answers: dict[int, dict[str, Any]] = {}
    tokens: dict[int, str] = {}
    loaded: list[int] = []
    while len(answers) < 9:
        event = json.loads(process.stdout.readline())
        if event["event"] == "token":
            tokens[event["id"]] = tokens.get(event["id"], "") + event["text"]
        elif event["event"] == "loading":
            loaded.append(event["id"])
        else:
            answers[event["id"]] = event
            if event["id"] == 3:
                process.stdin.write(json.dumps({"id": 4, "cancel": True}) + "\n")
                process.stdin.flush()
    assert [answers[number]["finish"] for number in (3, 5, 6, 7, 8)] == ["error", "cancelled", *["error"] * 3]
    assert answers[3]["message"].startswith("method must be one of ")
    assert answers[6]["message"] == "messages must hold at least one message."
    assert "Begin a new one" in answers[7]["message"] and "Prepare the base model first" in answers[8]["message"]
    assert answers[1]["finish"] in ("length", "stop") and answers[1]["tokens"] <= 5
    assert answers[9]["text"] == answers[1]["text"], "greedy, so the same again"
    assert tokens[1].strip() == answers[1]["text"] and tokens[2].strip() == answers[2]["text"]
    assert answers[4]["finish"] in ("cancelled", "stop") and answers[4]["tokens"] < 400
    assert loaded[:3] == [1, 2, 3] and loaded[-2:] == [8, 9], "one model is kept, so another takes its place"
    process.stdin.close()
    process.stdin = None
    ended = finish(process)
    assert ended.code == 0 and ended.events[-1]["event"] == "done"
