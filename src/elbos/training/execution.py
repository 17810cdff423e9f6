"""Execution of a training on this machine: precision, kernels, compilation, recomputation, memory.

A run uses bfloat16 where the machine computes in it at least as fast, else float32 (processors
without bfloat16 arithmetic emulate it a hundred times slower), and keeps its precision wherever it
is resumed.
"""

import ctypes
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from elbos.base.errors import flat
from elbos.base.hardware import device_name
from elbos.training.config import Precision
from elbos.training.sharding import blocks, sharded_parts

# Fused horizontally, CPU kernels in bfloat16 use a tensor that torch 2.13 has freed.
_OPTIONS: dict[str, Any] = {"cpp.max_horizontal_fusion_size": 0}
_MAX_GRAPHS = 64  # per function: torch's default of 8 is too few for a U-Net block by block
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_OLD_LIMIT = 2**25  # maximum in older versions of glibc
_SIZE, _NUM_ROUNDS = 256, 10  # matrix products: large enough for blocked kernels, in ms
_CLEARLY_SLOWER = 1.3


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def fast_kernels(device: torch.device) -> Iterator[None]:
    """Enable cuDNN benchmarking and TF32 within the `with` block, on CUDA alone.

    TF32 is several times as fast as float32: its rounding is far below the noise of training.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    flags = {"deterministic": cudnn.deterministic, "benchmark": not cudnn.deterministic}
    torch.set_float32_matmul_precision("high")
    try:
        with cudnn.flags(enabled=cudnn.enabled, **flags, allow_tf32=True):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def fetched(tensor: Shaped[Tensor, "*d"]) -> Callable[[], Shaped[Tensor, "*d"]]:
    """Begin to copy a tensor to the host, and return a function that waits for this copy alone."""
    if tensor.device.type == "cpu":
        return lambda: tensor
    copied, event = tensor.to("cpu", non_blocking=True), torch.Event(tensor.device)
    event.record()

    def wait() -> Tensor:
        event.synchronize()
        return copied

    return wait


def compiled(loss: Any, augmented: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a loss and its network in place, and return the compiled augmentation.

    Under FSDP2 each block has a graph per shape.
    """
    loss.drawn = torch.compile(loss.drawn, options=_OPTIONS)
    parts = sharded_parts(loss.network)
    for part in parts:
        part.compile(options=_OPTIONS, dynamic=False)
    if not parts:
        loss.compile(options=_OPTIONS)
    return torch.compile(augmented, options=_OPTIONS)


@contextmanager
def compiling() -> Iterator[None]:
    """Convert errors of torch.compile, as without a C++ compiler, into a ValueError of one line."""
    from torch._dynamo import config  # takes a second to import
    from torch._dynamo.exc import TorchDynamoException

    try:
        with config.patch(cache_size_limit=_MAX_GRAPHS):
            yield
    except TorchDynamoException as error:
        reason = flat(error).partition(" Set TORCH")[0][:300]
        raise ValueError(
            f"torch.compile failed ({reason}): install what is missing, or run again with "
            "--execution.compile off."
        ) from error


@contextmanager
def checkpointed(network: nn.Module) -> Iterator[None]:
    """Recompute activations of a network's blocks in the backward pass, in the `with` block."""
    modules = blocks(network)
    for block in modules:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in modules:
            del block.forward


def memory_format(network: nn.Module) -> torch.memory_format:
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    last = [w for w in weights if w.is_contiguous(memory_format=torch.channels_last)]
    is_last = not all(weight.is_contiguous() for weight in last)  # 1x1 kernels have both formats
    return torch.channels_last if is_last else torch.contiguous_format


def keep_freed_memory() -> None:
    """Configure glibc's malloc to keep freed memory instead of returning it to the system.

    By default malloc returns blocks of megabytes on release and requests them again, zeroed page by
    page, in the next step: 15 to 20 % of a step of the `fashion` preset on two cores.
    """
    if platform.libc_ver()[0] != "glibc" or torch.accelerator.is_available():
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


@cache
def best_precision(device: torch.device) -> Precision:
    """Return "bf16" if bfloat16 matrix products are fast on a device, otherwise "fp32"."""
    is_fast = True
    if device.type == "cuda":
        is_fast = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        bf16, fp32 = _seconds((torch.bfloat16, torch.float32))
        is_fast = bf16 < _CLEARLY_SLOWER * fp32
    return "bf16" if is_fast else "fp32"


def _seconds(dtypes: Sequence[torch.dtype]) -> list[float]:
    matrices = [torch.ones(_SIZE, _SIZE, dtype=dtype) for dtype in dtypes]
    least = [math.inf] * len(matrices)
    for _ in range(_NUM_ROUNDS):  # in turns: other work on the machine slows all of them
        for i, matrix in enumerate(matrices):
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            least[i] = min(least[i], time.perf_counter() - start)
    return least
