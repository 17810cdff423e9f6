"""Test of a user-defined network before training: one forward and one backward pass."""

import copy

import torch
from torch import nn

from elbos.base.conditions import replace_conds, to_device
from elbos.base.errors import message
from elbos.base.processes import Processes
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.execution import autocast, blocks, checkpointed
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
    try:
        return _has_all_gradients(network, config, data, processes.device)
    except Exception as error:  # any error of the user's code
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(
            f"The network {type(network).__name__} cannot be trained on x of shape "
            f"{data.spec.shape}: {kind}{message(error)}"
        ) from error


def _has_all_gradients(
    network: nn.Module, config: Config, data: Samples, device: torch.device
) -> bool:
    tried = copy.deepcopy(network).train()
    num = min(config.batch_size, NUM_SAMPLES)
    rows = torch.arange(num)
    x, cond = data.training.batch(rows % len(data.training))
    x = in_format(x.to(device), memory_format(tried))
    cond = to_device(cond, device) if config.use_labels else None
    if cond is not None and config.label_dropout > 0:  # every other sample
        cond = replace_conds(cond, data.null_cond, rows % 2 == 0)
    logsnr = config.schedule.logsnr((rows + 0.5) / num)
    recomputed = blocks(tried) if config.execution.use_checkpointing else []
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), autocast(config, device):
        torch.manual_seed(0)  # seed of dropout masks
        with checkpointed(recomputed):
            loss = config.objective(tried, x, torch.zeros_like(x), logsnr, cond)
        if not loss.requires_grad:
            raise ValueError("its output has no gradient: compute it from weights, with grad")
        loss.mean().backward()  # type: ignore[no-untyped-call]
    # the averages of the weights, copied before, would lack tensors that a forward pass makes
    before, after = (
        {key: (t.shape, t.dtype) for key, t in (*net.named_parameters(), *net.named_buffers())}
        for net in (network, tried)
    )
    for key in before | after:
        if before.get(key) != after.get(key):
            raise ValueError(
                f"{key} is made or reshaped by a forward pass: make it in __init__, or call "
                "the network once before training"
            )
    parameters = {key: p for key, p in tried.named_parameters() if p.requires_grad}
    if sparse := [key for key, p in parameters.items() if p.grad is not None and p.grad.is_sparse]:
        raise ValueError(f"{sparse[0]} has a sparse gradient: make it dense, with sparse=False")
    is_used = [p.grad is not None and p.numel() > 0 for p in parameters.values()]
    tried.zero_grad()
    copy.deepcopy(tried)  # as in `Run`; fails if the network stores activations
    with torch.no_grad(), autocast(config, device):
        config.objective(tried.eval(), x, torch.zeros_like(x), logsnr, cond)
    return all(is_used)
