"""The machine a task runs on: threads, device, precision, memory, and how fast it multiplies matrices."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from finetune_site.lib.channel import InputError


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


def choose_machine(threads: int, device: str, dtype: str) -> Machine:
    """Set the thread count, pick the device, and pick the precision.

    `auto` takes CUDA where there is one; on a processor it takes bfloat16 only where that is measured to be clearly
    faster (with AVX512-BF16 or AMX twice as fast, without them three times slower).
    """
    threads = threads or min(psutil.cpu_count(logical=False) or 1, len(os.sched_getaffinity(0)))
    torch.set_num_threads(threads)
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but this machine has no CUDA device. Choose auto or cpu.")
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    if dtype != "auto":
        kind = torch.float32 if dtype == "float32" else torch.bfloat16
        return Machine(place, kind, threads, matmul_rate(place, kind))
    if place.type == "cuda":
        return Machine(place, torch.bfloat16, threads, matmul_rate(place, torch.bfloat16))
    single, half = matmul_rate(place, torch.float32), matmul_rate(place, torch.bfloat16)
    return Machine(place, torch.bfloat16 if half > 1.3 * single else torch.float32, threads, max(single, half))


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.15) -> float:
    """Floating-point operations a second of `torch.matmul` on matrices of a small transformer's size."""
    left = torch.randn(512, 576, device=device, dtype=dtype)
    right = torch.randn(576, 1536, device=device, dtype=dtype)
    for _ in range(3):
        left @ right
    _wait_for(device)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(4):
            left @ right
        _wait_for(device)
        best = min(best, (time.perf_counter() - start) / 4)
    return 2 * 512 * 576 * 1536 / best


def memory_bytes(device: torch.device) -> int:
    """What this process holds now: resident memory, or what CUDA has reserved."""
    if device.type == "cuda":
        return int(torch.cuda.memory_reserved(device))
    return int(psutil.Process().memory_info().rss)


def processor_name() -> str:
    """The processor's name as Linux tells it."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
