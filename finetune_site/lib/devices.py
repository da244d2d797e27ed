"""What computes on this machine, and how busy it is now: the processor from /proc, NVIDIA devices from their driver."""

import contextlib
import os
import platform
from pathlib import Path
from typing import Any


def read_devices() -> dict[str, Any]:
    """`processor` (name, cores, load, memory_used, memory_total) and `gpus`, a list; bytes, watts, degrees Celsius."""
    return {"processor": _processor(), "gpus": _gpus()}


def _processor() -> dict[str, Any]:
    memory = _memory()
    total = memory.get("MemTotal", 0)
    return {
        "name": _processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "memory_total": total,
        "memory_used": total - memory.get("MemAvailable", 0),
    }


def _gpus() -> list[dict[str, Any]]:
    """No NVIDIA library, driver or device: an empty list. What a device does not tell is None."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_gpu(pynvml, number) for number in range(pynvml.nvmlDeviceGetCount())]
    finally:
        pynvml.nvmlShutdown()


def _gpu(nvml: Any, number: int) -> dict[str, Any]:
    device = nvml.nvmlDeviceGetHandleByIndex(number)
    memory = nvml.nvmlDeviceGetMemoryInfo(device)
    told: dict[str, Any] = {"use": None, "temperature": None, "watts": None}
    with contextlib.suppress(nvml.NVMLError):
        told["use"] = nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100
    with contextlib.suppress(nvml.NVMLError):
        told["temperature"] = nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)
    with contextlib.suppress(nvml.NVMLError):
        told["watts"] = nvml.nvmlDeviceGetPowerUsage(device) / 1000
    return {
        "number": str(number),
        "uuid": nvml.nvmlDeviceGetUUID(device),
        "name": nvml.nvmlDeviceGetName(device),
        "memory_used": memory.used,
        "memory_total": memory.total,
        **told,
    }


def _memory() -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none."""
    found = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, rest = line.partition(":")
            found[name] = int(rest.split()[0]) * 1024
    return found


def _processor_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()
