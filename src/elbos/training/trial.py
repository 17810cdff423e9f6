"""Test of a user-defined network before training: one forward and one backward pass."""

import copy

import torch
from torch import nn

from elbos.base.conditions import replace_conds, to_device
from elbos.base.errors import message
from elbos.base.processes import Processes
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.execution import autocast, checkpointed
from elbos.training.sharding import blocks
from elbos.training.state import in_format, memory_format

NUM_SAMPLES = 4


def require_trainable(
    network: nn.Module, config: Config, data: Samples, processes: Processes
) -> bool:
    """Test that a network can be trained, and return whether all its weights are used.

    A copy of the network computes the gradients of four samples, and is evaluated on them.

    Raises:
        ValueError: If that fails.
    """
    device = processes.device
    tried = copy.deepcopy(network).train().to(device)
    num = min(config.batch_size, NUM_SAMPLES)
    rows = torch.arange(num)
    x, cond = data.train.batch(rows % len(data.train))
    x = in_format(x.to(device), memory_format(tried))
    cond = to_device(cond, device) if config.use_labels else None
    if cond is not None and config.label_dropout > 0:  # every other sample
        cond = replace_conds(cond, data.null_cond, rows % 2 == 0)
    logsnr = config.schedule.logsnr((rows + 0.5) / num)
    devices = [device] if device.type == "cuda" else []
    recomputed = blocks(tried) if config.execution.use_checkpointing else []
    if config.execution.use_checkpointing and not recomputed:
        raise ValueError(
            f"{type(network).__name__} has no blocks in a torch.nn.ModuleList that could be "
            "computed again: leave out use_checkpointing."
        )
    try:
        with torch.random.fork_rng(devices), autocast(config.precision, device):
            torch.manual_seed(0)  # seed of dropout masks
            with checkpointed(recomputed):
                loss = config.objective(tried, x, torch.zeros_like(x), logsnr, cond)
            loss.mean().backward()  # type: ignore[no-untyped-call]
        parameters = [p for p in tried.parameters() if p.requires_grad]
        uses_all = all(p.grad is not None and p.numel() > 0 for p in parameters)
        tried.zero_grad()
        copy.deepcopy(tried)  # `Run` does so; fails if the network stores activations
        with torch.no_grad(), autocast(config.precision, device):
            config.objective(tried.eval(), x, torch.zeros_like(x), logsnr, cond)
    except Exception as error:  # any error of the user's code
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"The network {type(network).__name__} cannot be trained on x of shape "
            f"{data.spec.shape}: {kind}{message(error)}"
        ) from error
    return uses_all
