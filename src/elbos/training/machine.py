"""The machine: devices, processes, memory, precision, and its description in reports.

The precision of a run is bfloat16 where the machine computes in it, else float32. Processors
without bfloat16 arithmetic imitate it, a hundred times slower than float32. A run keeps the
precision that it was begun in, wherever it is resumed.
"""

import ctypes
import math
import os
import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from elbos.training.config import Config, Precision, run_config
from elbos.training.directory import RunDirectory
from elbos.training.processes import Processes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_OLD_LIMIT = 2**25  # half a heap: the most that older versions take
_SIZE, _NUM_ROUNDS = 256, 10  # of matrices: large enough to be computed in blocks, and milliseconds
_CLEARLY_SLOWER = 1.3
_PEAKS = {  # dense bfloat16 FLOP/s, by what the device's name holds
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


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


def record(config: Config, device: torch.device) -> dict[str, Any]:
    """What the rounding of a run depends on besides its configuration's numbers."""
    is_tf32 = device.type == "cuda" and config.execution.use_tf32
    return {**machine(device), "threads": torch.get_num_threads(), "tf32": is_tf32}


@contextmanager
def fast_kernels(config: Config, device: torch.device) -> Iterator[None]:
    """A context in which cuDNN chooses kernels by trial, since shapes are the same in each step,
    and float32 products are as configured; afterwards both are as they were.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, use_tf32 = torch.backends.cudnn, config.execution.use_tf32
    flags = {"deterministic": cudnn.deterministic, "benchmark": not cudnn.deterministic}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if use_tf32 else "highest")
    try:
        with cudnn.flags(enabled=cudnn.enabled, **flags, allow_tf32=use_tf32):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def num_cores() -> int:
    """The cores that this process may use, which are not all there are, as under Slurm."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def require_few(**counts: int) -> None:
    """Raise a ValueError that names the first number of processes above 64 and above four for each
    core: thousands would fill the memory.
    """
    limit = max(64, 4 * num_cores())
    for name, num in counts.items():
        if not 0 <= num <= limit:
            raise ValueError(f"{name} is {num}: give at most {limit}.")


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


def peak_flops(config: Config, device: torch.device) -> float | None:
    """The most FLOP/s of matrix products in bfloat16, if the run computes in it on a known GPU."""
    if device.type != "cuda" or config.precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if part in name), None)


# --- precision -----------------------------------------------------------------------------------


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """The precision of a run, as a context."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def resolved(config: Config, run: RunDirectory, processes: Processes) -> Config:
    """`config` with the precision that "auto" stands for: that of the run if it has begun, else
    what serves this machine; the same in all processes.
    """
    if config.precision != "auto":
        return config
    has_begun = (run.path / "config.json").exists()
    chosen = run_config(run).precision if has_begun else best_precision(processes.device)
    return replace(config, precision=processes.from_main(chosen))


def described(config: Config, device: torch.device) -> str:
    """The precision of a run, and whether another one would be faster on this machine."""
    best = best_precision(device)
    if config.precision != best:
        return f"{config.precision} (--precision {best} is faster here)"
    return "bf16" if best == "bf16" else "fp32 (bf16 is no faster here)"


@cache
def best_precision(device: torch.device) -> Precision:
    """The faster precision on a device: bf16, unless matrix products are clearly slower in it."""
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        bf16, fp32 = _seconds((torch.bfloat16, torch.float32))
        is_fast = bf16 < _CLEARLY_SLOWER * fp32
    else:
        is_fast = True
    return "bf16" if is_fast else "fp32"


def _seconds(dtypes: Sequence[torch.dtype]) -> list[float]:
    """The least time that a product of two matrices takes on the CPU in each type, in turns: other
    work on the machine slows all.
    """
    matrices = [torch.ones(_SIZE, _SIZE, dtype=dtype) for dtype in dtypes]
    least = [math.inf] * len(matrices)
    for _ in range(_NUM_ROUNDS):
        for i, matrix in enumerate(matrices):
            begin = time.perf_counter()
            torch.mm(matrix, matrix)
            least[i] = min(least[i], time.perf_counter() - begin)
    return least
