"""Logging of results to experiment trackers, from any training loop.

Trackers are TensorBoard, W&B, Trackio, MLflow and the others of accelerate:

    accelerator = Accelerator(log_with="wandb")
    accelerator.init_trackers("my-project")
    elbos.tracking.log(accelerator, validator(denoiser), step)

Every tracker gets named numbers.
"""

import math
from importlib import import_module
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from elbos.base import extras
from elbos.base.checks import require_type, typed
from elbos.validation import BinnedLoss, Validation
from elbos.validation.by_level import losses_by_level

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker


def log(
    to: "Accelerator | GeneralTracker",
    result: Validation | BinnedLoss,
    step: int,
    *,
    name: str | None = None,
) -> None:
    """Log the numbers of `scalars` to experiment trackers.

    Args:
        to: An accelerator, for all its trackers, after `init_trackers`; or one of accelerate's
            trackers. With several processes the main one logs.
        result: A validation, or the loss by noise level.
        step: The step of the training.
        name: Prefix of all names. Default: "validation", for a `BinnedLoss` "train".

    Raises:
        TypeError: If `to` is neither accelerator nor tracker, or `result` has another type.
        MissingExtra: If accelerate is not installed.

    Examples:
        >>> from accelerate.tracking import GeneralTracker
        >>> class Printing(GeneralTracker):  # a custom tracker
        ...     name, requires_logging_directory, tracker = "printing", False, None
        ...
        ...     def log(self, values, step=None):
        ...         for key, value in values.items():
        ...             print(step, key, value)
        >>> import torch
        >>> from elbos import LossByLevel
        >>> loss_by_level = LossByLevel([-5.0, 0.0, 5.0])
        >>> loss_by_level.update(torch.tensor([-1.0, 1.0]), torch.tensor([0.25, 0.5]))
        >>> log(Printing(), loss_by_level.result(), step=100)
        100 train/loss_by_level/0_logsnr_-5.0_to_0.0 0.25
        100 train/loss_by_level/1_logsnr_0.0_to_5.0 0.5
    """
    with extras.needs("track"):
        from accelerate import Accelerator
        from accelerate.tracking import GeneralTracker
    require_type(Accelerator | GeneralTracker, to=to)
    values = scalars(result, name=name)
    for tracker in to.trackers if isinstance(to, Accelerator) else [to]:
        tracker.log(values, step=step)


@typed
def scalars(result: Validation | BinnedLoss, *, name: str | None = None) -> dict[str, float]:
    """Convert a validation or training loss to the named numbers that `tracking.log` logs.

    They suit, for example, Lightning's `log_dict`. A validation gives `validation/bits_per_dim` and
    `validation/standard_error`, both in bits per dimension; both results give the mean loss in each
    bin of log-SNR, nats per dimension.
    """
    if isinstance(result, BinnedLoss):
        return losses_by_level(result, name or "train")
    name, bits = name or "validation", result.bits
    numbers = {f"{name}/bits_per_dim": bits.mean}
    if math.isfinite(bits.standard_error):  # infinite or NaN for a single sample
        numbers[f"{name}/standard_error"] = bits.standard_error
    return numbers | losses_by_level(result, name)


def log_picture(
    tracker: "GeneralTracker", name: str, pixels: UInt8[np.ndarray, "h w 3"], step: int
) -> None:
    """Log an image to an experiment tracker, if it accepts images."""
    match tracker.name:  # each accepts images in another form
        case "tensorboard":
            tracker.log_images({name: pixels.transpose(2, 0, 1)[None]}, step=step)
        case "aim" | "clearml":
            tracker.log_images({name: pixels}, step=step)
        case "trackio":
            tracker.log({name: import_module("trackio").Image(pixels)}, step=step)
        case "mlflow":
            import_module("mlflow").log_image(pixels, key=name, step=step)
        case _ if hasattr(tracker, "log_images"):
            tracker.log_images({name: [pixels]}, step=step)
