"""Test of a user-defined network before training: one forward and one backward pass."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbos.base.conditions import replace_conds, to_device
from elbos.base.errors import message
from elbos.base.processes import Processes
from elbos.theory.denoiser import Denoiser
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.execution import autocast, blocks, checkpointed
from elbos.training.state import in_format, memory_format
from elbos.training.validation import require_measurable

NUM_SAMPLES = 4


def require_trainable(
    network: nn.Module, config: Config, data: Samples, processes: Processes
) -> bool:
    """Test that a network can be trained and validated, and return whether all weights are used.

    A copy of the network computes the gradients of four samples and the ELBO of validation samples.

    Raises:
        ValueError: If that fails.
    """
    tried, shape = copy.deepcopy(network).train(), data.spec.shape
    name = type(network).__name__
    with _refusing(f"The network {name} cannot be trained on x of shape {shape}"):
        names = _names_with_gradient(tried, _loss(tried, config, data, processes.device))
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
        copy.deepcopy(tried)  # as in `Run`; fails if the network stores activations
    denoiser = Denoiser(tried.eval(), config.parameterization)
    with _refusing("The validation set cannot be measured"), autocast(config, processes.device):
        require_measurable(denoiser, config, data, processes.device)
    trained = {key for key, parameter in network.named_parameters() if parameter.requires_grad}
    return trained <= names


def _loss(
    network: nn.Module, config: Config, data: Samples, device: torch.device
) -> Float[Tensor, " b"]:
    # if labels are dropped, every other sample has the null condition
    num = min(config.batch_size, NUM_SAMPLES)
    rows = torch.arange(num)
    x, cond = data.training.batch(rows % len(data.training))
    x = in_format(x.to(device), memory_format(network))
    cond = to_device(cond, device) if config.use_labels else None
    if cond is not None and config.label_dropout > 0:
        cond = replace_conds(cond, data.null_cond, rows % 2 == 0)
    logsnr = config.schedule.logsnr((rows + 0.5) / num)
    recomputed = blocks(network) if config.execution.use_checkpointing else []
    devices = [device] if device.type == "cuda" else []
    with checkpointed(recomputed), autocast(config, device), torch.random.fork_rng(devices):
        torch.manual_seed(0)  # seed of dropout masks
        return config.objective(network, x, torch.zeros_like(x), logsnr, cond)


def _names_with_gradient(network: nn.Module, loss: Float[Tensor, " b"]) -> set[str]:
    if not loss.requires_grad:
        raise ValueError("its output has no gradient: compute it from weights, with grad")
    loss.mean().backward()  # type: ignore[no-untyped-call]
    names = set()
    for name, parameter in network.named_parameters():
        if parameter.grad is not None and parameter.grad.is_sparse:
            raise ValueError(f"{name} has a sparse gradient: make it dense, with sparse=False")
        if parameter.grad is not None and parameter.numel():
            names.add(name)
    network.zero_grad()
    return names


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # any error of the user's code
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{message(error)}") from error
