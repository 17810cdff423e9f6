"""What computed a number: hardware and versions."""

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch


def machine(device: torch.device) -> dict[str, str]:
    """The device in words, and versions."""
    return {
        "device": _device(device),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name).partition("+")[0] for name in ("elbos", "torch")},
    }


def num_cores() -> int:
    """The cores that this process may use, which are not all there are, as under Slurm."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{_processor()}, {num_cores()} cores, {capability}"


def _processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
