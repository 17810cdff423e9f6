"""Names of processors and accelerators, and the number of cores."""

import os
import platform
from pathlib import Path

import torch


def device_name(device: torch.device) -> str:
    """Return the model name of a GPU, or of a CPU with its cores and vector instructions."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = (line.partition(":")[2] for line in lines if line.startswith("model name"))
        name = next(models, platform.machine()).strip()
    except OSError:
        name = platform.processor() or platform.machine()
    return f"{name}, {num_cores()} cores, {torch.backends.cpu.get_cpu_capability()}"


def num_cores() -> int:
    """Return the number of CPU cores that are available to this process."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
