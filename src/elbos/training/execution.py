"""Execution of a training on this machine: precision, kernels, compilation, recomputation, memory.

A run uses bfloat16 where the machine computes in it at least as fast, else float32 (processors
without bfloat16 arithmetic emulate it a hundred times slower), and keeps its precision wherever it
is resumed.
"""

import ctypes
import gc
import math
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn, profiler
from torch.utils.checkpoint import checkpoint

from elbos.base.errors import flat
from elbos.base.hardware import device_name
from elbos.base.processes import Processes
from elbos.training.config import Config, Precision
from elbos.training.directory import RunDirectory
from elbos.training.sharding import sharded_parts

# Fused horizontally, CPU kernels in bfloat16 use a tensor that torch 2.13 has freed.
_OPTIONS: dict[str, Any] = {"cpp.max_horizontal_fusion_size": 0}
_MAX_GRAPHS = 64  # per function: torch's default of 8 is too few for a U-Net block by block
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
_OLD_LIMIT = 2**25  # maximum in older versions of glibc
_SIZE, _NUM_ROUNDS = 256, 10  # matrix products: large enough for blocked kernels, in ms
_CLEARLY_SLOWER = 1.3
_NUM_UNPROFILED = 9  # first steps of a process


def autocast(precision: str, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def fast_kernels(device: torch.device) -> Iterator[None]:
    """Enable cuDNN benchmarking and TF32 within the `with` block, on CUDA alone.

    TF32 has 10 bits, and is several times as fast as float32: its rounding is far below the noise
    of training.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    flags = {"deterministic": cudnn.deterministic, "benchmark": not cudnn.deterministic}
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with cudnn.flags(enabled=cudnn.enabled, **flags, allow_tf32=True):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextmanager
def collecting_seldom(processes: Processes) -> Iterator[None]:
    """Leave Python's garbage to the caller in the `with` block, on several processes.

    By itself each process collects at another time, and the others wait for it.
    """
    if processes.num == 1:
        yield
        return
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


@contextmanager
def profiled(num_steps: int, folder: Path, processes: Processes) -> Iterator[Callable[[], None]]:
    """Profile steps of the main process, and write their trace to trace.json in a folder.

    The yielded function is called after each step. Steps before the tenth are left out, as they
    compile and allocate.
    """
    if num_steps == 0 or not processes.is_main:
        yield lambda: None
        return

    def write(trace: profiler.profile) -> None:
        trace.export_chrome_trace(str(folder / "trace.json"))

    plan = profiler.schedule(wait=_NUM_UNPROFILED, warmup=1, active=num_steps, repeat=1)
    with profiler.profile(schedule=plan, on_trace_ready=write) as trace:
        yield trace.step


def sent(tensor: Shaped[Tensor, "*d"], device: torch.device) -> Shaped[Tensor, "*d"]:
    """Send a tensor of the host to a device, without waiting for the device's work."""
    if device.type == "cpu":
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


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


def is_compiled(config: Config, device: torch.device) -> bool:
    chosen = config.execution.compile
    return chosen == "on" or (chosen == "auto" and device.type == "cuda")


def one_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    # compiled functions that call it include its graph
    compiled: Callable[..., Any] = torch.compile(function, options=_OPTIONS)
    return compiled


def compile_(loss: Any) -> None:
    """Compile a loss and its network in place; under FSDP2 each block has a graph per shape."""
    loss.drawn = one_graph(loss.drawn)
    if not (parts := sharded_parts(loss.network)):
        loss.compile(options=_OPTIONS)
    for part in parts:
        part.compile(options=_OPTIONS, dynamic=False)


@contextmanager
def compiling(*, is_on: bool) -> Iterator[None]:
    """Convert errors of torch.compile, as without a C++ compiler, into a ValueError of one line."""
    stack = ExitStack()
    if is_on:
        from torch._dynamo import config  # takes a second to import

        stack.enter_context(config.patch(cache_size_limit=_MAX_GRAPHS))
    try:
        with stack:
            yield
    except RuntimeError as error:
        from torch._dynamo.exc import TorchDynamoException  # takes a second to import

        if not isinstance(error, TorchDynamoException):
            raise
        reason = flat(error).partition(" Set TORCH")[0][:300]
        raise ValueError(
            f"torch.compile failed ({reason}): install what is missing, or run again with "
            "--execution.compile off."
        ) from error


@contextmanager
def checkpointed(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Recompute activations of the given modules in the backward pass, in the `with` block."""
    for block in modules:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    try:
        yield
    finally:
        for block in modules:
            del block.forward


# --- the machine ----------------------------------------------------------------------------------


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


def resolved(config: Config, run: RunDirectory, processes: Processes) -> Config:
    """Replace the precision "auto" by that of the stored run, or else by the best one here."""
    if config.precision != "auto":
        return config
    is_started = (run.path / "config.json").exists()
    chosen = run.config().precision if is_started else best_precision(processes.device)
    return replace(config, precision=processes.from_main(chosen))


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
