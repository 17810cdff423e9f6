"""Execution of a training step: torch.compile, mixed precision, activation checkpointing.

These settings change a training by rounding and dropout masks alone. With activation
checkpointing, each block stores its input alone and is computed again in the backward pass: less
memory for about a third more work.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from elbos.base.errors import flat
from elbos.training.config import Config
from elbos.training.loss import Loss
from elbos.training.sharding import is_container, sharded_parts

# Fused horizontally, CPU kernels in bfloat16 use a tensor that torch 2.13 has freed.
_OPTIONS: dict[str, Any] = {"cpp.max_horizontal_fusion_size": 0}
_MAX_GRAPHS = 64  # per function: torch's default of 8 is too few for a U-Net block by block


def autocast(config: Config, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


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


def is_compiled(config: Config, device: torch.device) -> bool:
    chosen = config.execution.compile
    return chosen == "on" or (chosen == "auto" and device.type == "cuda")


def one_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    # compiled functions that call it include its graph
    compiled: Callable[..., Any] = torch.compile(function, options=_OPTIONS)
    return compiled


def compile_(loss: Loss) -> None:
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

        if not isinstance(error, TorchDynamoException) and "double backward" not in str(error):
            raise
        reason = flat(error).partition(" Set TORCH")[0][:300]
        raise ValueError(
            f"torch.compile failed ({reason}): install what is missing, or run again with "
            "--execution.compile off."
        ) from error


def blocks(network: nn.Module) -> list[nn.Module]:
    """Return the building blocks of a network.

    Blocks are the entries of `ModuleList`s that have children.

    Raises:
        ValueError: If the network has no such block.
    """

    def search(module: nn.Module) -> Iterator[nn.Module]:
        is_list = isinstance(module, nn.ModuleList | nn.ModuleDict)
        for child in module.children():
            if not is_list or is_container(child):
                yield from search(child)
            elif any(True for _ in child.children()):
                yield child

    if not (modules := [*dict.fromkeys(search(network))]):
        raise ValueError(
            f"{type(network).__name__} has no blocks in a torch.nn.ModuleList that could be "
            "computed again: leave out use_checkpointing."
        )
    return modules


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
