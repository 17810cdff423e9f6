"""Description of the machine, memory allocator settings, and choice of the numerical precision.

A run uses bfloat16 where the machine computes in it at least as fast, else float32 (processors
without bfloat16 arithmetic emulate it a hundred times slower), and keeps its precision wherever it
is resumed.
"""

import ctypes
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version

import torch

from elbos.base.hardware import device_name
from elbos.base.processes import Processes
from elbos.training.config import Config, Precision
from elbos.training.directory import RunDirectory

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_OLD_LIMIT = 2**25  # maximum in older versions of glibc
_SIZE, _NUM_ROUNDS = 256, 10  # matrix products: large enough for blocked kernels, in ms
_CLEARLY_SLOWER = 1.3
_PEAKS = {  # dense bfloat16 FLOP/s, by a part of the device's name
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
}


def keep_freed_memory() -> None:
    """Configure glibc's malloc to keep freed memory instead of returning it to the system.

    By default malloc returns blocks of megabytes on release and requests them again, zeroed page by
    page, in the next step: 15 to 20 % of a step of the `fashion` preset on two cores.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    if not mallopt(_M_MMAP_THRESHOLD, 2**30):
        mallopt(_M_MMAP_THRESHOLD, _OLD_LIMIT)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def machine(device: torch.device) -> dict[str, str]:
    return {
        "device": device_name(device),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: version(name).partition("+")[0] for name in ("elbos", "torch")},
    }


def peak_flops(config: Config, device: torch.device) -> float | None:
    """Return the peak bfloat16 FLOP/s of a GPU; None if it is unknown, or in other precisions."""
    if device.type != "cuda" or config.precision != "bf16":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAKS.items() if part in name), None)


def resolved(config: Config, run: RunDirectory, processes: Processes) -> Config:
    """Replace the precision "auto" by that of the stored run, or else by the best one here."""
    if config.precision != "auto":
        return config
    is_started = (run.path / "config.json").exists()
    chosen = run.config().precision if is_started else best_precision(processes.device)
    return replace(config, precision=processes.from_main(chosen))


def described(config: Config, device: torch.device) -> str:
    """Return a run's precision as text, with a note if another one would be no slower."""
    best = best_precision(device)
    if config.precision != best:
        return f"{config.precision} (--precision {best} is faster here)"
    return "bf16" if best == "bf16" else "fp32 (bf16 is no faster here)"


@cache
def best_precision(device: torch.device) -> Precision:
    """Return "bf16" if bfloat16 matrix products are fast on a device, otherwise "fp32"."""
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        bf16, fp32 = _seconds((torch.bfloat16, torch.float32))
        is_fast = bf16 < _CLEARLY_SLOWER * fp32
    else:
        is_fast = True
    return "bf16" if is_fast else "fp32"


def _seconds(dtypes: Sequence[torch.dtype]) -> list[float]:
    # the dtypes are measured in turns, since other work on the machine slows all of them
    matrices = [torch.ones(_SIZE, _SIZE, dtype=dtype) for dtype in dtypes]
    least = [math.inf] * len(matrices)
    for _ in range(_NUM_ROUNDS):
        for i, matrix in enumerate(matrices):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            least[i] = min(least[i], time.perf_counter() - start)
    return least
