"""The machine: devices, processes, memory, and its description in reports."""

import ctypes
import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch
from accelerate import Accelerator

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_OLD_LIMIT = 2**25  # half a heap: the most that older versions take


def new_accelerator() -> Accelerator:
    """Devices and processes; several processes also on machines with nothing but a CPU.

    Precision is elbos' own (`precision.autocast`): accelerate's is one for the life of the process.
    """
    return Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")


def keep_freed_memory() -> None:
    """Let this process keep the memory that it frees, where the C library is glibc.

    It gives blocks of megabytes back to the system when they are freed, and gets them again, zeroed
    page by page, in the next step: of a training step of the `fashion` preset on two cores that
    took 15 to 20 % of the time.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    if not mallopt(_M_MMAP_THRESHOLD, 2**30):
        mallopt(_M_MMAP_THRESHOLD, _OLD_LIMIT)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def machine(device: torch.device) -> dict[str, str]:
    """The description of the device, and versions."""
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
