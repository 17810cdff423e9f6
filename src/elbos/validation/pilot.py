"""The pilot, a first pass: its size, and the density and control variate fitted to it."""

import math

import torch

from elbos.theory.adaptive import Adaptive
from elbos.validation.measurements import NUM_BINS, ControlVariate, Measurements

MIN_PILOT_TIMES = 32  # noise levels per sample
MIN_LOSSES_PER_BIN = 25  # for a usable estimate of the variance in a bin
MIN_PILOT_SAMPLES = math.ceil(MIN_LOSSES_PER_BIN * NUM_BINS / MIN_PILOT_TIMES)
MIN_TUNING_SAMPLES = 8  # fewer may miss a component of the data: 5 double the error on a mixture


def num_pilot_times(num_samples: int) -> int:
    """Return the number of noise levels per sample in the pilot, such that each bin gets at least
    25 losses.
    """
    return max(MIN_PILOT_TIMES, math.ceil(MIN_LOSSES_PER_BIN * NUM_BINS / num_samples))


def require_many(num_pilot: int, num_samples: int) -> None:
    """Raise a ValueError unless the pilot has at least 8 samples, or all samples of a smaller
    dataset.
    """
    if num_pilot < min(MIN_TUNING_SAMPLES, num_samples):
        raise ValueError(
            f"the pilot is of {num_pilot} of {num_samples} samples: give {MIN_TUNING_SAMPLES} or "
            "more."
        )


def fit(pilot: Measurements) -> tuple[Adaptive, ControlVariate]:
    r"""Fit the sampling density and the control variate that minimize the variance of further
    measurements.

    The control variate is the pilot's loss by least squares, linear between the edges of bins; the
    density follows, bin by bin, the standard deviation of the loss around it.

    Args:
        pilot: Measurements with independent noise, at levels that cover the range evenly.
    """
    low, high = pilot.schedule.logsnr_min, pilot.schedule.logsnr_max
    nodes = torch.linspace(low, high, NUM_BINS + 1, dtype=torch.float64)
    logsnr, loss = pilot.logsnr.flatten(), pilot.loss.flatten()
    place = (logsnr - low) / (high - low) * NUM_BINS
    hats = (1 - (place[:, None] - torch.arange(NUM_BINS + 1)).abs()).clamp(min=0)
    solution = torch.linalg.lstsq(hats, loss[:, None], driver="gelsd").solution
    control = ControlVariate(nodes, solution[:, 0])
    bins, ones = place.long().clamp(max=NUM_BINS - 1), torch.ones_like(loss)
    count, square = torch.zeros(2, NUM_BINS, dtype=torch.float64)
    count.index_add_(0, bins, ones)
    square.index_add_(0, bins, (loss - control(logsnr)).square())
    schedule = Adaptive(logsnr_min=low, logsnr_max=high, num_bins=NUM_BINS)
    is_measured = (count > 0).double()
    schedule.load_state_dict({"total": (square / count.clamp(min=1)).sqrt(), "count": is_measured})
    return schedule, control
