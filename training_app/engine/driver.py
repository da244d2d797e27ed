"""`python -m training_app.engine.driver FOLDER`: the process that speaks with Ray for one attempt of a training.

It joins the cluster, has Ray Train start the workers and waits for their end. What it has to say stands in the folder.
"""

import os
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import ray
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.torch.torch_trainer import TorchTrainer

from finetune_site.lib.channel import EXIT_DONE, EXIT_ERROR, EXIT_INPUT, InputError, load_json, write_json
from training_app.engine.checkpoints import newest
from training_app.engine.cluster import Attempt
from training_app.engine.spec import TrainSpec
from training_app.engine.team import PATIENCE, backend
from training_app.engine.worker import work

ROOT = Path(__file__).resolve().parents[2]
# What workers take from the engine's environment; variables of Ray and NCCL are set where Ray is started.
PASSED_ON = (
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_DISABLE_PROGRESS_BARS",
    "HF_HUB_DISABLE_TELEMETRY",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_VERBOSITY",
    "OMP_WAIT_POLICY",
)


class Trainer(TorchTrainer):
    """Ray's, with fewer actors beside the workers: ours read their rows themselves, and the actor that frees places
    after a dead driver, which Ray does anyhow, never ends on a cluster whose dashboard is off."""

    def _create_default_callbacks(self) -> list[Any]:
        spared = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, spared)]


def main(folder: str) -> int:
    attempt = Attempt(Path(folder))
    threading.Thread(target=_end_with_the_engine, daemon=True).start()
    try:
        drive(attempt)
    except Exception as error:
        if isinstance(reason := _reason(error), InputError):
            write_json(attempt.failure, {"message": str(reason)})
            return EXIT_INPUT
        traceback.print_exc()
        write_json(attempt.failure, {"message": f"{type(reason).__name__}: {reason}"[:500]})
        return EXIT_ERROR
    return EXIT_DONE


def drive(attempt: Attempt) -> None:
    """Have the workers work; an error of any of them is raised here."""
    spec = attempt.spec
    _join(spec.ray_address)
    has_cuda = _uses_cuda(spec)
    variables = {name: os.environ[name] for name in PASSED_ON if name in os.environ} | {"PYTHONPATH": str(ROOT)}
    if not has_cuda:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    trainer = Trainer(
        work,
        train_loop_config={"attempt": str(attempt.folder)},
        torch_config=TorchConfig(backend=backend(has_cuda), timeout_s=round(PATIENCE.total_seconds())),
        scaling_config=ScalingConfig(num_workers=spec.processes, use_gpu=has_cuda, placement_strategy="SPREAD"),
        run_config=RunConfig(
            name="ray",
            storage_path=str(attempt.folder),
            worker_runtime_env={"env_vars": variables},
            failure_config=FailureConfig(max_failures=0),  # the site starts a run again, and counts how often
        ),
    )
    trainer.fit()


def _join(address: str) -> None:
    try:
        ray.init(address)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"This machine cannot join the Ray cluster at {address}. It must be one of the cluster's machines, with "
            f"the same versions of Ray and Python. Ray says: {error}"
        ) from error


def _uses_cuda(spec: TrainSpec) -> bool:
    """What the run's checkpoints were computed on it goes on with: devices that a cluster has lost are waited for."""
    path = Path(spec.run_dir) / "cluster.json"
    if not path.exists() or newest(Path(spec.run_dir)) is None:
        write_json(path, {"cuda": spec.device != "cpu" and ray.cluster_resources().get("GPU", 0) > 0})
    return bool(load_json(path)["cuda"])


def _reason(error: Exception) -> Exception:
    """What a worker refused, rather than what Ray says about it."""
    failures = getattr(error, "worker_failures", {}).values()
    return next((failure for failure in failures if isinstance(failure, InputError)), error)


def _end_with_the_engine() -> None:
    """End-of-file on standard input: the engine is gone."""
    while os.read(0, 4096):
        pass
    os._exit(EXIT_ERROR)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
