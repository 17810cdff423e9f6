"""Kernels for network and loss, made by torch.compile."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from elbos.base.errors import flat
from elbos.training.config import Config
from elbos.training.loss import Loss
from elbos.training.sharding import sharded_parts

# Joined into one loop, kernels for the CPU in bfloat16 ask for a tensor that torch 2.13 has freed.
_OPTIONS: dict[str, Any] = {"cpp.max_horizontal_fusion_size": 0}
_MAX_GRAPHS = 64  # of one function: torch's 8 are too few for the stages of a U-Net, block by block


def is_compiled(config: Config, device: torch.device) -> bool:
    """Whether a run is compiled on a device: by default on GPUs."""
    chosen = config.execution.compile
    return chosen == "on" or (chosen == "auto" and device.type == "cuda")


def one_graph(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function; where another compiled one calls it, it is part of that graph."""
    found: Callable[..., Any] = torch.compile(function, options=_OPTIONS)
    return found


def compile_(loss: Loss) -> None:
    """Compile a loss as one graph with its network; or, where processes share a copy, its random
    numbers and the parts of the network that are gathered by themselves, a graph for each shape.
    """
    loss.drawn = one_graph(loss.drawn)
    if not (parts := sharded_parts(loss.network)):
        loss.compile(options=_OPTIONS)
    for part in parts:
        part.compile(options=_OPTIONS, dynamic=False)


@contextmanager
def compiling(*, is_on: bool) -> Iterator[None]:
    """A context for steps that may compile. It raises a ValueError where torch makes no kernels, as
    without a compiler for C++, or none for the gradient of a gradient, as of an energy.
    """
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
            f"torch.compile made no kernels ({reason}): install what is missing, or run again with "
            "--execution.compile off."
        ) from error
