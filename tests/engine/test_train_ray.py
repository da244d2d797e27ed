"""A training on a real Ray cluster of two nodes: the numbers of one machine, and nothing lost whichever part dies."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from finetune_site.lib.channel import InputError, read_journal
from tests.engine.engine_process import Finished, Listener, finish, run_engine, start, train_here

STEPS = 150
NODE = {"num_cpus": 1, "object_store_memory": 80 * 1024 * 1024}


@pytest.fixture(scope="module")
def unreachable(lesson_fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> "subprocess.Popen[str]":
    """An engine that waits for a head where none is; started first, as it waits long."""
    folder = tmp_path_factory.mktemp("unreachable")
    return start(folder, {**on_cluster(lesson_fields, folder), "ray_address": f"127.0.0.1:{_free_port()}"})


@pytest.fixture(scope="module")
def cluster(unreachable: object) -> Iterator[Any]:
    """Two nodes of one processor each, so that the two workers of a run never stand on the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
        nodes.add_node(**NODE)
        yield nodes
        nodes.shutdown()


@pytest.fixture(scope="module")
def refused(
    cluster: Any, lesson_fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> "subprocess.Popen[str]":
    """An engine whose workers refuse their input, started beside the first test."""
    folder = tmp_path_factory.mktemp("refused")
    spec = on_cluster({**lesson_fields, "data_sha256": "0" * 64}, folder)
    return start(folder, {**spec, "ray_address": cluster.address})


def on_cluster(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    return {"task": "train", **fields, "processes": 2, "cluster": True, "run_dir": str(folder / "run")}


def losses(events: list[dict[str, Any]]) -> dict[int, float]:
    return {event["step"]: event["loss"] for event in events if event["event"] == "step"}


def test_workers_on_two_nodes_learn_as_one_process(
    cluster: Any, refused: object, lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    fields = {**lesson_fields, "dropout": 0.0, "sample_answers": 1}
    finished = run_engine(tmp_path, {**on_cluster(fields, tmp_path), "ray_address": cluster.address})
    assert finished.code == 0, finished.log
    assert finished.of("started")[0]["processes"] == 2
    assert [event["step"] for event in finished.of("step")] == list(range(1, 13))  # each told once, in order
    alone = train_here({**fields, "run_dir": str(tmp_path / "alone")})
    assert losses(finished.events) == pytest.approx(losses(alone.events), abs=1e-4)
    assert [e["loss"] for e in finished.of("eval")] == pytest.approx([e["loss"] for e in alone.of("eval")], abs=1e-4)
    assert len(finished.of("sample")) == len(alone.of("sample"))
    assert not list((tmp_path / "run" / "cluster").iterdir())
    assert run_engine(tmp_path, {**on_cluster(fields, tmp_path), "ray_address": cluster.address}).events == [
        finished.events[-1] | {"at": pytest.approx(time.time(), abs=60)}
    ]  # a finished run stands as it is


def test_what_a_worker_refuses_the_engine_says(
    refused: "subprocess.Popen[str]", lesson_fields: dict[str, Any], tmp_path: Path
) -> None:
    ended = finish(refused)
    here = train_here({**lesson_fields, "data_sha256": "0" * 64, "run_dir": str(tmp_path)})
    assert (ended.code, ended.refusal) == (2, here.refusal), ended.log


@pytest.mark.slow
def test_whatever_dies_the_run_goes_on(cluster: Any, lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    """One run, disturbed in each of its attempts but the last; between two of them it waits for a lost node."""
    fields = {**lesson_fields, "dropout": 0.0, "sample_answers": 0, "epochs": STEPS / 4, "eval_every": STEPS}
    spec = {**on_cluster(fields, tmp_path), "ray_address": cluster.address}
    told: list[dict[str, Any]] = []
    for disturb, code in (
        (kill_engine, -signal.SIGKILL),
        (kill_first_worker, 1),
        (kill_other_worker, 1),
        (ask_to_stop, 130),
        (kill_node, 1),
    ):
        process = start(tmp_path, spec)
        told += read_some_steps(process)
        disturb(process, cluster, tmp_path / "run")
        ended = finish(process)
        assert ended.code == code, f"{disturb.__name__}: {ended.log}"
        told += ended.events
    waiting = start(tmp_path, spec)
    time.sleep(8)
    assert waiting.poll() is None  # for the node
    waiting.send_signal(signal.SIGTERM)
    assert finish(waiting).code == 130
    cluster.add_node(**NODE)
    taken_over = start(tmp_path, spec)
    told += read_some_steps(taken_over)
    last = start(tmp_path, spec)
    ended = finish(taken_over)
    assert (ended.code, ended.refusal) == (2, "Another engine has taken this run over.")
    told += ended.events
    ended = finish(last)
    assert ended.code == 0, ended.log
    told += ended.events

    journal = list(read_journal(tmp_path / "run" / "events.jsonl"))
    starts = [event["start_step"] for event in journal if event["event"] == "started"]
    assert len(starts) == 7
    assert starts == sorted(set(starts)), "an attempt went on from nothing or from an older checkpoint"
    written: list[list[int]] = []  # steps by attempt: two engines at once would write between each other
    for event in journal:
        if event["event"] == "started":
            written.append([])
        elif event["event"] == "step":
            written[-1].append(event["step"])
    assert written == [list(range(at + 1, steps[-1] + 1)) for at, steps in zip(starts, written, strict=True)]
    alone = losses(train_here({**fields, "run_dir": str(tmp_path / "alone")}).events)
    for events in (told, journal):
        assert losses(events) == pytest.approx({step: alone[step] for step in losses(events)}, abs=1e-3)
    assert sorted(losses(journal)) == list(range(1, STEPS + 1))


def read_some_steps(process: "subprocess.Popen[str]") -> list[dict[str, Any]]:
    """Events until a checkpoint was written in this attempt and the training went on."""
    assert process.stdout is not None
    events: list[dict[str, Any]] = []
    for line in process.stdout:
        events.append(json.loads(line))
        names = [event["event"] for event in events]
        if "checkpoint" in names and names[-1] == "step":
            return events
    raise AssertionError(f"it ended too early: {finish(process).log}")


def kill_engine(process: "subprocess.Popen[str]", cluster: Any, run_dir: Path) -> None:
    workers = worker_processes(run_dir)
    process.kill()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert alive == [], "workers outlived their driver"


def kill_first_worker(process: "subprocess.Popen[str]", cluster: Any, run_dir: Path) -> None:
    worker_processes(run_dir)[0].kill()


def kill_other_worker(process: "subprocess.Popen[str]", cluster: Any, run_dir: Path) -> None:
    worker_processes(run_dir)[1].kill()


def ask_to_stop(process: "subprocess.Popen[str]", cluster: Any, run_dir: Path) -> None:
    process.send_signal(signal.SIGTERM)


def kill_node(process: "subprocess.Popen[str]", cluster: Any, run_dir: Path) -> None:
    (node,) = cluster.worker_nodes
    cluster.remove_node(node, allow_graceful=False)


def worker_processes(run_dir: Path) -> list[psutil.Process]:
    """The workers of the run; the one that holds its folder comes first."""
    found = [
        process for process in psutil.process_iter(["cmdline"])
        if "".join(process.info["cmdline"] or ()).startswith("ray::RayTrainWorker")
    ]  # fmt: skip
    lock = str(run_dir / "lock")
    found.sort(key=lambda worker: lock not in [file.path for file in worker.open_files()])
    assert [lock in [file.path for file in worker.open_files()] for worker in found] == [True, False]
    return found


def test_a_machine_without_the_data_folder_says_so(tmp_path: Path) -> None:
    from training_app.engine.worker import work

    with pytest.raises(InputError, match=f"does not see the folder {tmp_path}"):
        work({"attempt": str(tmp_path / "cluster" / "attempt")})


def test_a_site_without_a_cluster_says_so(lesson_fields: dict[str, Any], tmp_path: Path) -> None:
    refused = run_engine(tmp_path, on_cluster(lesson_fields, tmp_path))
    assert refused.code == 2
    assert "FINETUNE_RAY_ADDRESS" in refused.refusal


def test_where_ray_is_not_installed_it_says_what_to_do(
    lesson_fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from training_app.engine import cluster
    from training_app.engine.spec import TrainSpec

    monkeypatch.setattr(cluster.importlib.util, "find_spec", lambda name: None)
    fields = {**on_cluster(lesson_fields, tmp_path), "ray_address": "127.0.0.1:1"}
    del fields["task"]
    with pytest.raises(InputError, match=r"pip install '\.\[ray\]'"):
        cluster.train_on_cluster(TrainSpec(**fields), Listener())
    assert not (tmp_path / "run").exists()


def test_a_head_that_does_not_answer_is_named(unreachable: "subprocess.Popen[str]") -> None:
    refused: Finished = finish(unreachable)
    assert refused.code == 2
    assert "does not answer" in refused.refusal
    assert "resume the run" in refused.refusal


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
