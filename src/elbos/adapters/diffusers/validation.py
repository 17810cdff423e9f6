"""Validation by the ELBO in the place of `log_validation` in diffusers' training scripts."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import nn

from elbos.validation import ValidationHistory

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers.training_utils import EMAModel


def log_validation(
    history: ValidationHistory,
    accelerator: "Accelerator",
    model: nn.Module,
    step: int,
    *,
    ema: "EMAModel | None" = None,
) -> dict[str, float] | None:
    """Validate the network of a diffusers script and log the result.

    The log goes to the accelerator's trackers; nothing is done if no validation is due. All
    processes have to make the call; they share the work. `history.should_stop` tells whether to end
    the training.

    Args:
        history: How to validate, and when; its `denoiser` takes the network, such as
            `lambda unet: denoiser(unet, noise_scheduler)`.
        accelerator: The script's accelerator.
        model: The network, as `accelerator.prepare` returned it.
        step: The script's `global_step`.
        ema: The averaged weights, with which the network is validated; its own are restored. Not
            for a network whose weights are averaged already. Default: the network's own weights.

    Returns:
        What was logged: metrics and the loss by noise level; None if no validation is due.
    """
    unwrapped = accelerator.unwrap_model(model)
    with _averaged(unwrapped, ema if history.is_due(step) else None):
        metrics = history.update(step, unwrapped)
    if metrics:
        accelerator.log(metrics, step=step)
    return metrics


@contextmanager
def _averaged(model: nn.Module, ema: "EMAModel | None") -> Iterator[None]:
    if ema is None:
        yield
        return
    ema.store(model.parameters())
    ema.copy_to(model.parameters())
    try:
        yield
    finally:
        ema.restore(model.parameters())
