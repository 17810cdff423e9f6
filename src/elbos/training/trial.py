"""A trial of a network that is not ours, before anything is written."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from elbos.conditions import replace_conds, to_device
from elbos.denoiser import Denoiser
from elbos.errors import flat
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.dropout import observed
from elbos.training.machine import autocast
from elbos.training.validation import require_measurable

NUM_TRIED = 4  # samples


def require_trainable(
    network: nn.Module, config: Config, data: Samples, device: torch.device
) -> list[str]:
    """Raise a ValueError if a network on `device` has no loss with a gradient on a few samples, or
    no bound on those for validation. Computed on copies: what cannot be trained leaves no trace.

    Returns:
        The names of its layers of dropout whose masks may be drawn by sample.
    """
    num = min(config.batch_size, NUM_TRIED)
    x, cond = data.training.batch(torch.arange(num) % len(data.training))
    x, cond = x.to(device), to_device(cond, device) if config.use_labels else None
    if cond is not None and config.label_dropout > 0:
        cond = replace_conds(cond, data.null_cond, torch.arange(num) % 2 == 0)
    tried, name = copy.deepcopy(network).train(), type(network).__name__
    times = (torch.arange(num) + 0.5) / num
    with _refusing(f"The network {name} cannot be trained on x of shape {tuple(x.shape)}"):
        with autocast(config, device), observed(tried, num) as by_sample:
            logsnr = config.schedule.logsnr(times)
            loss = config.objective(tried, x, torch.zeros_like(x), logsnr, cond)
        if not loss.requires_grad:
            raise ValueError("its output has no gradient: compute it from weights, with grad")
        loss.mean().backward()  # type: ignore[no-untyped-call]
        copy.deepcopy(tried)  # as of a `Run`; a network that keeps its activations has none
    denoiser = Denoiser(copy.deepcopy(network).eval(), config.parameterization)
    with _refusing("The validation set cannot be measured"), autocast(config, device):
        require_measurable(denoiser, config, data, device)
    return by_sample


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Make any error a ValueError that says what cannot be done, and why."""
    try:
        yield
    except Exception as error:  # of the user's code, of any type
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{flat(error)[:300]}") from error
