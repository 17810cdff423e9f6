"""Kernels for network and loss, made by torch.compile."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from elbos.training.config import Config
from elbos.training.sharding import sharded_parts


def is_compiled(config: Config, device: torch.device) -> bool:
    """Whether a run is compiled on a device: by default on GPUs."""
    chosen = config.execution.compile
    return chosen == "on" or (chosen == "auto" and device.type == "cuda")


def compiled(loss: Callable[..., Any], network: nn.Module) -> Callable[..., Any]:
    """A loss as one graph with its network; or the blocks of a network that is on several
    processes, each as a graph, with what processes exchange between them.
    """
    if not (parts := sharded_parts(network)):
        function: Callable[..., Any] = torch.compile(loss)
        return function
    for part in parts:
        part.compile()
    return loss
