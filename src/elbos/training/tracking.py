"""Results in experiment trackers: TensorBoard, W&B, Trackio, MLflow and whatever else accelerate
reaches, in a training loop of anybody's.

    accelerator = Accelerator(log_with="wandb")
    accelerator.init_trackers("my-project")
    elbos.tracking.log(accelerator, validator(denoiser), step)

Every tracker gets numbers, each under a name of its own; figures go to those that take one.
"""

import io
import math
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from elbos.base import extras
from elbos.base.checks import require_type
from elbos.base.errors import flat
from elbos.validation import BinnedLoss, Validation

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.tracking import GeneralTracker
    from plotly.graph_objects import Figure

MAX_BINS = 12  # of a validation: as many curves over steps as one can read


def log(
    to: "Accelerator | GeneralTracker",
    result: Validation | BinnedLoss,
    step: int,
    *,
    name: str | None = None,
) -> None:
    """Log a validation, or the loss by noise level of a training, to experiment trackers.

    All get the numbers that `scalars` gives. Of a validation there is a figure, too,
    `Validation.plot`: W&B and MLflow take it as it is, interactive; TensorBoard, Trackio, Aim,
    ClearML, SwanLab and trackers of one's own with a method `log_images` get a picture of it if
    `kaleido` is installed, which draws one in some seconds.

    Args:
        to: An accelerator, for all its trackers, after `init_trackers`; or one of accelerate's
            trackers. Of several processes the main one logs.
        result: What is logged.
        step: The step of the training that it is of.
        name: What all names begin with. Default: "validation", of a `BinnedLoss` "train".

    Raises:
        TypeError: If it is neither accelerator nor tracker, or not such a result.
        MissingExtra: If accelerate is not installed.

    Examples:
        >>> from accelerate.tracking import GeneralTracker
        >>> class Printing(GeneralTracker):  # a tracker of one's own
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
    figure = result.plot() if isinstance(result, Validation) else None
    for tracker in to.trackers if isinstance(to, Accelerator) else [to]:
        tracker.log(values, step=step)
        if figure is not None:
            _log_figure(tracker, f"{name or 'validation'}/by_level", figure, step)


def scalars(result: Validation | BinnedLoss, *, name: str | None = None) -> dict[str, float]:
    """The numbers of a result under the names that `log` gives them: for what is no tracker of
    accelerate's, such as Lightning's `log_dict`.

    Of a validation `validation/bits_per_dim` and `validation/standard_error`, both in bits per
    dimension; and of both the mean loss in each bin of log-SNR that has one, nats per dimension.

    Args:
        result: A validation, or the loss by noise level of a training.
        name: What all names begin with. Default: "validation", of a `BinnedLoss` "train".

    Raises:
        TypeError: If it is not such a result.
    """
    require_type(Validation | BinnedLoss, result=result)
    if isinstance(result, BinnedLoss):
        return _by_level(name or "train", result.edges, result.nats_per_dim)
    name, bits = name or "validation", result.bits
    found = {f"{name}/bits_per_dim": bits.mean}
    if math.isfinite(bits.standard_error):  # a single sample has none
        found[f"{name}/standard_error"] = bits.standard_error
    curve = result.curve(MAX_BINS)
    half = (curve.logsnr[1] - curve.logsnr[0]) / 2
    edges = (curve.logsnr[0] - half, *(level + half for level in curve.logsnr))
    return found | _by_level(name, edges, curve.nats_per_dim)


def log_picture(
    tracker: "GeneralTracker", name: str, pixels: UInt8[np.ndarray, "h w 3"], step: int
) -> None:
    """Log a picture, unless the tracker takes none."""
    has_images = hasattr(tracker, "log_images")
    send = _PICTURES.get(tracker.name, _as_list if has_images else None)
    if send is not None:
        send(tracker, name, pixels, step)


def _by_level(
    name: str, edges: tuple[float, ...], values: tuple[float | None, ...]
) -> dict[str, float]:
    """The values of bins by names that are sorted from noise to data."""
    digits = len(str(len(values) - 1))
    return {
        f"{name}/loss_by_level/{i:0{digits}}_logsnr_{edges[i]:.1f}_to_{edges[i + 1]:.1f}": value
        for i, value in enumerate(values)
        if value is not None
    }


def _log_figure(tracker: "GeneralTracker", name: str, figure: "Figure", step: int) -> None:
    """Log a figure as it is, or as a picture, or not."""
    if tracker.name == "wandb":
        tracker.log({name: figure}, step=step)
    elif tracker.name == "mlflow":
        tracker.log_figure(figure, f"{name}/{step:08d}.html")
    elif find_spec("kaleido") is not None:
        try:
            png = figure.to_image("png")
        except Exception as error:  # of kaleido, of any type: it finds no browser
            warnings.warn(f"kaleido draws no figure: {flat(error)[:300]}", stacklevel=3)
        else:
            from PIL import Image

            pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
            log_picture(tracker, name, pixels, step)


# --- pictures, which every tracker takes in a form of its own -------------------------------------


def _as_list(tracker: "GeneralTracker", name: str, pixels: np.ndarray, step: int) -> None:
    tracker.log_images({name: [pixels]}, step=step)


def _alone(tracker: "GeneralTracker", name: str, pixels: np.ndarray, step: int) -> None:
    tracker.log_images({name: pixels}, step=step)


def _as_batch(tracker: "GeneralTracker", name: str, pixels: np.ndarray, step: int) -> None:
    tracker.log_images({name: pixels.transpose(2, 0, 1)[None]}, step=step)


def _to_trackio(tracker: "GeneralTracker", name: str, pixels: np.ndarray, step: int) -> None:
    tracker.log({name: import_module("trackio").Image(pixels)}, step=step)


def _to_mlflow(_: "GeneralTracker", name: str, pixels: np.ndarray, step: int) -> None:
    import_module("mlflow").log_image(pixels, key=name, step=step)


_PICTURES: dict[str, Callable[["GeneralTracker", str, np.ndarray, int], None]] = {
    "tensorboard": _as_batch,
    "aim": _alone,
    "clearml": _alone,
    "trackio": _to_trackio,
    "mlflow": _to_mlflow,
}
