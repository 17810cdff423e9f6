"""The precision of a run: bfloat16 where the machine computes in it, else float32.

Processors without bfloat16 arithmetic imitate it, a hundred times slower than float32. A run keeps
the precision that it was begun in, wherever it is resumed.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from elbos.runs.directory import RunDirectory
from elbos.training.config import Config, Precision, run_config

_SIZE, _NUM_ROUNDS = 256, 10  # of matrices: large enough to be computed in blocks, and milliseconds
_CLEARLY_SLOWER = 1.3


def autocast(config: Config, device: torch.device) -> torch.autocast:
    """The precision of a run, as a context."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def resolved(config: Config, run: RunDirectory, accelerator: Accelerator) -> Config:
    """`config` with the precision that "auto" stands for: that of the run if it has begun, else
    what serves this machine; the same in all processes.
    """
    if config.precision != "auto":
        return config
    has_begun = (run.path / "config.json").exists()
    chosen = run_config(run).precision if has_begun else best_precision(accelerator.device)
    (chosen,) = broadcast_object_list([chosen])
    return replace(config, precision=chosen)


def described(config: Config, accelerator: Accelerator) -> str:
    """The precision of a run, and whether another one would be faster on this machine."""
    best = best_precision(accelerator.device)
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
