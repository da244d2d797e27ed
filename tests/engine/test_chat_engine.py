"""The chat engine: one process, requests in, tokens out, until the input ends."""

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.engine.engine_process import finish, run_engine, start

ASKED = [{"role": "user", "content": "What is the size of part 3?"}]


def test_a_chat_answers_with_both_models_until_the_input_ends(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    fields = {**lesson_fields, "epochs": 1, "dropout": 0.0, "dtype": "bfloat16", "rehearsal_share": 0.2}
    assert run_engine(tmp_path, {"task": "train", **fields, "run_dir": str(tmp_path / "run")}).code == 0
    places = {"base_dir": lesson_fields["base_dir"], "run_dir": str(tmp_path / "run"), "threads": 1}
    process = start(tmp_path, {"task": "chat", **places}, stdin=subprocess.PIPE)
    assert process.stdin and process.stdout
    assert json.loads(process.stdout.readline())["event"] == "ready"
    for request in (
        {"id": 1, "model": "base", "messages": ASKED, "max_new_tokens": 5},
        {"id": 2, "model": "tuned", "messages": ASKED, "max_new_tokens": 5, "temperature": 0.7},
        {"id": 3, "model": "other", "messages": ASKED},
        {"id": 4, "model": "base", "messages": ASKED, "max_new_tokens": 400},
        {"id": 5, "model": "base", "messages": ASKED, "max_new_tokens": 400},
        {"id": 5, "cancel": True},
    ):
        process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    answers: dict[int, dict[str, Any]] = {}
    tokens: dict[int, str] = {}
    while len(answers) < 5:
        event = json.loads(process.stdout.readline())
        if event["event"] == "token":
            tokens[event["id"]] = tokens.get(event["id"], "") + event["text"]
        else:
            answers[event["id"]] = event
            if event["id"] == 3:
                process.stdin.write(json.dumps({"id": 4, "cancel": True}) + "\n")
                process.stdin.flush()
    assert [answers[number]["finish"] for number in (3, 5)] == ["error", "cancelled"]
    assert answers[3]["message"] == "model must be one of base, tuned."
    assert answers[1]["finish"] in ("length", "stop") and answers[1]["tokens"] <= 5
    assert tokens[1].strip() == answers[1]["text"] and tokens[2].strip() == answers[2]["text"]
    assert answers[4]["finish"] in ("cancelled", "stop") and answers[4]["tokens"] < 400
    process.stdin.close()
    process.stdin = None
    ended = finish(process)
    assert ended.code == 0 and ended.events[-1]["event"] == "done"
