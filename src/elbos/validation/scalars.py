"""Results of validations and trainings as named numbers, for experiment trackers."""

import math

from elbos.base.checks import typed
from elbos.validation.by_level import BinnedLoss
from elbos.validation.result import Validation

MAX_BINS = 12  # of a validation: as many curves as are legible in one plot


@typed
def scalars(result: Validation | BinnedLoss, *, name: str | None = None) -> dict[str, float]:
    """Convert a validation or training loss to the named numbers that `tracking.log` logs.

    A validation gives `validation/bits_per_dim` and `validation/standard_error`, both in bits per
    dimension; both results give the mean loss in each bin of log-SNR, nats per dimension.
    """
    if isinstance(result, BinnedLoss):
        return losses_by_level(result, name or "train")
    name, bits = name or "validation", result.bits
    numbers = {f"{name}/bits_per_dim": bits.mean}
    if math.isfinite(bits.standard_error):  # infinite or NaN for a single sample
        numbers[f"{name}/standard_error"] = bits.standard_error
    return numbers | losses_by_level(result, name)


def losses_by_level(result: Validation | BinnedLoss, name: str = "validation") -> dict[str, float]:
    """Return the mean loss in each bin of log-SNR by the name of the bin, nats per dimension."""
    edges: tuple[float, ...]
    values: tuple[float | None, ...]
    if isinstance(result, BinnedLoss):
        edges, values = result.edges, result.nats_per_dim
    else:
        curve = result.curve(MAX_BINS)
        half = (curve.logsnr[1] - curve.logsnr[0]) / 2
        edges = (curve.logsnr[0] - half, *(level + half for level in curve.logsnr))
        values = curve.nats_per_dim
    digits = len(str(len(values) - 1))
    return {
        f"{name}/loss_by_level/{i:0{digits}}_logsnr_{edges[i]:.1f}_to_{edges[i + 1]:.1f}": value
        for i, value in enumerate(values)
        if value is not None
    }
