"""The supervisor and the engine at the two ends of one channel."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from finetune_site.lib import channel, files
from finetune_site.lib.kernel import Limits, start_time
from finetune_site.lib.process import Engine, is_alive, kill_group

SCRIPT = "tests.site.small_engine"


@pytest.fixture(params=[None, "json"], ids=["program", "fork"])
def preload(request):
    """Each engine is started as a program, and forked from a process that has imported something."""
    return request.param


@pytest.fixture
def run(tmp_path, preload):
    """Runs the small engine, to be stopped once it told something; gives its outcome, its events and its log."""

    def run(*arguments, stop=False, **options):
        events = []
        with Engine(SCRIPT, list(arguments), log_path=tmp_path / "log.txt", preload=preload, **options) as engine:
            outcome = engine.run(events.append, lambda: stop and bool(events))
        return outcome, [event["event"] for event in events], files.tail(tmp_path / "log.txt")

    return run


def test_events_pass_and_prints_go_to_the_log(tmp_path, run):
    outcome, events, log = run("work", str(tmp_path / "result.json"))
    assert (outcome.returncode, events) == (0, ["started", "step", "done"])
    assert "a library prints" in log
    assert '"answer": 42' in (tmp_path / "result.json").read_text()


def test_an_engine_inherits_no_secret_of_the_site(tmp_path, monkeypatch, preload):
    for name in ("DATABASE_URL", "FINETUNE_SECRET_KEY", "FINETUNE_LLM_API_KEY", "PGPASSWORD", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    seen = []
    own = {"FINETUNE_LLM_API_KEY": "its own"}
    with Engine(SCRIPT, ["environment"], log_path=tmp_path / "log.txt", env=own, preload=preload) as engine:
        engine.run(seen.append, lambda: False)
    names = set(seen[0]["names"])
    assert "PATH" in names
    assert {name for name in names if name.startswith(("DATABASE", "FINETUNE", "PG", "HF_TOKEN"))} == {
        "FINETUNE_LLM_API_KEY"
    }


def test_a_crash_after_the_result_was_written_is_no_failure(tmp_path, run):
    outcome, events, _ = run("crash_late", str(tmp_path / "result.json"))
    assert (outcome.returncode, events) == (0, ["done"])
    assert (tmp_path / "result.json").exists()


def test_wrong_input_is_code_2_with_its_sentence(tmp_path, run):
    outcome, _, _ = run("refuse")
    assert (outcome.returncode, outcome.failure["message"]) == (2, "The rows are too few. Approve more.")


def test_an_error_of_ours_is_code_1_with_its_traceback_in_the_log(tmp_path, run):
    outcome, _, log = run("break", str(tmp_path / "result.json"))
    assert (outcome.returncode, outcome.failure["kind"]) == (1, "error")
    assert "ZeroDivisionError" in log
    assert not (tmp_path / "result.json").exists()


def test_asked_to_stop_it_saves_and_exits_130(tmp_path, run):
    outcome, events, _ = run("wait", stop=True)
    assert (outcome.returncode, events[-2:]) == (130, ["checkpoint", "cancelled"])


def test_when_the_supervisor_dies_it_saves_and_stops(tmp_path, preload):
    supervisor = subprocess.Popen(
        [sys.executable, "-c", f"""
from pathlib import Path
from finetune_site.lib.process import Engine
saved, log = {str(tmp_path / "saved")!r}, Path({str(tmp_path / "log.txt")!r})
with Engine({SCRIPT!r}, ["wait", saved], log_path=log, preload={preload!r}) as engine:
    print(engine.pid, engine.started, flush=True)
    engine.run(lambda event: None, lambda: False)
"""], stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert supervisor.stdout is not None
    pid, started = map(int, supervisor.stdout.readline().split())
    time.sleep(0.7)
    supervisor.kill()
    supervisor.wait()
    deadline = time.monotonic() + 120
    while is_alive(pid, started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(pid, started)
    assert (tmp_path / "saved").exists()


def test_a_wall_clock_limit_ends_it(tmp_path, run):
    outcome, _, _ = run("wait", limits=Limits(wall_seconds=1))
    assert outcome.timed_out
    assert outcome.returncode == -signal.SIGKILL


def test_a_memory_limit_ends_it_and_not_us(tmp_path, run):
    outcome, _, log = run("eat", limits=Limits(memory_bytes=400 * 1024 * 1024))
    assert outcome.returncode == 1
    assert "MemoryError" in log


def test_a_cpu_limit_ends_it(tmp_path, run):
    outcome, _, _ = run("spin", limits=Limits(cpu_seconds=1))
    assert outcome.returncode < 0


def test_leaving_the_context_kills_the_whole_group(tmp_path, preload):
    with Engine(SCRIPT, ["wait"], log_path=tmp_path / "log.txt", preload=preload) as engine:
        pid, started = engine.pid, engine.started
    assert not is_alive(pid, started)


def test_a_pid_used_by_another_process_is_not_killed():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(30)"], start_new_session=True)
    try:
        assert not kill_group(process.pid, (start_time(process.pid) or 0) + 1)
        assert process.poll() is None
        assert kill_group(process.pid, start_time(process.pid))
        assert process.wait(120) == -9
    finally:
        process.kill()


def test_a_zombie_counts_as_dead():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert start_time(pid) is None
    os.waitpid(pid, 0)


@pytest.mark.parametrize(("text", "size", "want"), [("a\nb\nc\n", 4, "c\n"), ("a\n", 100, "a\n")])
def test_tail_gives_whole_lines(tmp_path, text, size, want):
    path = Path(tmp_path / "log")
    path.write_text(text)
    assert files.tail(path, size) == want


@pytest.mark.parametrize(
    ("text", "want"), [(r'"a\u0000b"', "a\ufffdb"), (r'"a\\u0000b"', r"a\u0000b"), (r'"a\\\u0000"', "a\\\ufffd")]
)
def test_a_nul_that_a_model_wrote_does_not_reach_the_database(text, want):
    assert channel.parse_json(text) == want


def test_write_whole_leaves_no_part_behind_and_names_the_hash(tmp_path):
    digest = files.write_whole(tmp_path / "deep" / "file", [b"abc", b"def"])
    assert digest == files.sha256_of(tmp_path / "deep" / "file")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["file"]


def test_a_nursery_that_is_killed_loses_no_engine_and_is_begun_anew(tmp_path):
    events = []
    with Engine(SCRIPT, ["wait"], log_path=tmp_path / "log.txt", preload="csv") as engine:
        nursery = psutil.Process(engine.pid).parent()
        assert nursery.cmdline()[-3:-1] == ["finetune_site.lib.nursery", "csv"]
        nursery.kill()
        outcome = engine.run(events.append, lambda: bool(events))
    assert [event["event"] for event in events[-2:]] == ["checkpoint", "cancelled"]
    assert outcome.returncode == -signal.SIGKILL  # nobody could tell
    with Engine(
        SCRIPT, ["work", str(tmp_path / "result.json")], log_path=tmp_path / "log.txt", preload="csv"
    ) as engine:
        assert engine.run(events.append, lambda: False).returncode == 0


def test_without_what_a_nursery_imports_the_engine_starts_as_a_program(tmp_path):
    result = str(tmp_path / "result.json")
    with Engine(SCRIPT, ["work", result], log_path=tmp_path / "log.txt", preload="not_installed") as engine:
        assert engine.run(lambda event: None, lambda: False).returncode == 0
