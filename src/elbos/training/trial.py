"""A trial of a network that is not ours, before anything is written."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from elbos.conditions import cond_at, replace_conds, to_device
from elbos.denoiser import Denoiser
from elbos.errors import flat
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.dropout import observed
from elbos.training.machine import autocast
from elbos.training.processes import Processes
from elbos.training.validation import require_measurable

NUM_TRIED = 4  # samples


def require_trainable(
    network: nn.Module, config: Config, data: Samples, processes: Processes
) -> list[str]:
    """Raise a ValueError if a network has no loss with a gradient on a few samples, or no bound on
    those for validation, or several processes cannot share it. Computed on copies: what cannot be
    trained leaves no trace.

    Returns:
        The names of its layers of dropout whose masks may be drawn by sample.
    """
    device, num = processes.device, min(config.batch_size, NUM_TRIED)
    x, cond = data.training.batch(torch.arange(num) % len(data.training))
    x, cond = x.to(device), to_device(cond, device) if config.use_labels else None
    if cond is not None and config.label_dropout > 0:
        cond = replace_conds(cond, data.null_cond, torch.arange(num) % 2 == 0)
    tried, name = copy.deepcopy(network).train(), type(network).__name__
    logsnr = config.schedule.logsnr((torch.arange(num) + 0.5) / num)

    def losses(tried: nn.Module, rows: Int64[Tensor, " b"]) -> Float[Tensor, " b"]:
        with autocast(config, device):
            noise, some = torch.zeros_like(x[rows]), cond_at(cond, rows)
            return config.objective(tried, x[rows], noise, logsnr[rows], some)

    with _refusing(f"The network {name} cannot be trained on x of shape {tuple(x.shape)}"):
        with observed(tried, num) as by_sample:
            loss = losses(tried, torch.arange(num))
        if not loss.requires_grad:
            raise ValueError("its output has no gradient: compute it from weights, with grad")
        loss.mean().backward()  # type: ignore[no-untyped-call]
        copy.deepcopy(tried)  # as of a `Run`; a network that keeps its activations has none
        if processes.num > 1:
            _require_unwritten(network, tried)
            _require_all_called(network, losses, num)
    denoiser = Denoiser(copy.deepcopy(network).eval(), config.parameterization)
    with _refusing("The validation set cannot be measured"), autocast(config, device):
        require_measurable(denoiser, config, data, device)
    return by_sample


def _require_unwritten(network: nn.Module, tried: nn.Module) -> None:
    """Raise a ValueError if a forward pass has changed weights: several processes compute with
    copies of them, which are made again for the next one.
    """
    for (name, own), other in zip(network.named_parameters(), tried.parameters(), strict=True):
        if not torch.equal(own, other):
            raise ValueError(
                f"its forward pass writes to {name}, which on several processes is lost: leave the "
                "weights to the optimizer"
            )


def _require_all_called(
    network: nn.Module, losses: Callable[[nn.Module, Tensor], Tensor], num: int
) -> None:
    """Raise a ValueError if some weights have a gradient of some samples alone: processes average
    the gradients of the same weights, and wait for each other in each layer.
    """
    found: list[set[str]] = []
    for i in range(num):
        tried = copy.deepcopy(network).train()
        pair = torch.tensor([i, i])  # a BatchNorm takes no single sample
        losses(tried, pair).mean().backward()  # type: ignore[no-untyped-call]
        found.append({name for name, p in tried.named_parameters() if p.grad is not None})
    if names := sorted(set().union(*found) - found[0].intersection(*found)):
        raise ValueError(
            f"{names[0]} has a gradient of some samples alone, and several processes need those of "
            "the same weights: call each layer in every forward pass, with no samples if need be"
        )


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Make any error a ValueError that says what cannot be done, and why."""
    try:
        yield
    except Exception as error:  # of the user's code, of any type
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{flat(error)[:300]}") from error
