"""The machine a task runs on: threads, device, precision, memory, and how fast it multiplies matrices."""

import functools
import os
import platform
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from finetune_site.lib.channel import InputError

CORE_WATTS = 10.0
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, ARM


@dataclass(frozen=True)
class Machine:
    """Where and how to compute. `matmul_flops` is measured, in floating-point operations a second."""

    device: torch.device
    dtype: torch.dtype
    threads: int
    matmul_flops: float

    @property
    def name(self) -> str:
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else processor_name()


def choose_machine(threads: int, device: str, dtype: str, rank: int = 0, sharers: int = 1) -> Machine:
    """Set the thread count, pick the device, and pick the precision.

    `auto` takes CUDA where there is one. On a processor it takes bfloat16 where that has instructions of its own (then
    matrix products run twice as fast; without them three times slower), by their names and not by a stopwatch: a run
    must not depend on what its neighbours did while it started. Of several processes, `rank` takes the device of that
    number, and they share the processor's cores.
    """
    threads = threads or min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    threads = max(1, threads // sharers)
    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but this machine has no CUDA device. Choose auto or cpu.")
    place = torch.device(f"cuda:{rank}" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if dtype == "auto":
        dtype = "bfloat16" if place.type == "cuda" or BFLOAT16_FLAGS & _processor_flags() else "float32"
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    return Machine(place, kind, threads, matmul_rate(place, kind, threads))


def matmul_rate(device: torch.device, dtype: torch.dtype, threads: int, seconds: float = 0.3) -> float:
    """Floating-point operations a second of `torch.matmul` on matrices of a small transformer's size; on CUDA of a
    large one's, as small ones do not fill a GPU.

    On a processor one thread is measured and multiplied: two threads on a busy machine show the neighbours' work.
    """
    rows, width, columns = (512, 576, 1536) if device.type == "cpu" else (8192, 4096, 4096)
    left = torch.randn(rows, width, device=device, dtype=dtype)
    right = torch.randn(width, columns, device=device, dtype=dtype)
    torch.set_num_threads(1)
    for _ in range(3):
        left @ right
    _wait_for(device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        left @ right
        _wait_for(device)
        best = min(best, time.perf_counter() - start)
    torch.set_num_threads(threads)
    return 2 * rows * width * columns / best * (threads if device.type == "cpu" else 1)


def memory_bytes(device: torch.device) -> int:
    """What this process holds now: resident memory, or what CUDA has reserved."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    return int(psutil.Process().memory_info().rss)


def peak_bytes(device: torch.device) -> int:
    """The most that this process has held so far: resident memory, or what CUDA has reserved."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def power_watts(machine: Machine) -> tuple[float, str]:
    """What the machine draws while it computes, and how that is known."""
    if machine.device.type == "cuda" and (gpu := _gpu(machine.device)):
        import pynvml

        return pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000, "the device's power limit"
    return machine.threads * CORE_WATTS, f"{CORE_WATTS:.0f} W a core, as servers draw; this processor tells none"


def energy_joules(device: torch.device) -> float | None:
    """The device's energy meter; only the difference of two readings means something. None where there is none."""
    if device.type != "cuda" or (gpu := _gpu(device)) is None:
        return None
    import pynvml

    try:
        return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu)) / 1000
    except pynvml.NVMLError:
        return None  # before Volta


def used_share(machine: Machine) -> float | None:
    """How busy the device was since the last call (CUDA: just now), 0 to 1; None where nobody tells."""
    if machine.device.type == "cuda":
        if (gpu := _gpu(machine.device)) is None:
            return None
        import pynvml

        return float(pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu) / 100
    return min(1.0, _process().cpu_percent() / 100 / machine.threads)


@functools.cache
def _process() -> psutil.Process:
    return psutil.Process()


@functools.cache
def _gpu(device: torch.device) -> Any:
    """NVML's handle of a CUDA device, found by its identity: the two libraries may number devices differently."""
    import pynvml

    try:
        pynvml.nvmlInit()
        place = torch.cuda.get_device_properties(device)
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{place.uuid}".encode())
    except pynvml.NVMLError:
        return None


def processor_name() -> str:
    """The processor's name as Linux tells it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _processor_flags() -> set[str]:
    return {*_cpuinfo("flags").split(), *_cpuinfo("Features").split()}


def _cpuinfo(key: str) -> str:
    """The first processor's entry of that name; empty where Linux tells nothing."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        return ""


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
