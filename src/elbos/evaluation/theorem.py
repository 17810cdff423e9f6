r"""The theorem on a trained network, as a check of its evaluation.

$$\int w\,\ell\,d\lambda
  = \int -w'(\lambda)\, L(\lambda)\, d\lambda
  + w(\lambda_\max) L(\lambda_\max) - w(\lambda_\min) L(\lambda_\min).$$

The left side weighs losses: those of the rounds, drawn from the fitted density. The right side
mixes ELBOs: $L$ at a thousand noise levels, integrated from the losses of the pilot, which were
measured with other noise at levels uniform in log-SNR. The two share images, weighting and network,
and no code but the loss at a noise level: an error in a density, a control variate or an end term
sets them apart.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from elbos import weightings
from elbos.analysis import is_monotone
from elbos.evaluation.likelihood import Measured
from elbos.evaluation.result import TheoremCheck
from elbos.likelihood import Measurements
from elbos.weightings import WeightFunction

NUM_LEVELS = 1001

CHECKED: dict[str, WeightFunction] = {
    "ELBO": weightings.ELBO(),
    "sigmoid(2)": weightings.Sigmoid(k=2.0),
    "v-cosine": weightings.Exponential(rate=0.5),
    "EDM": weightings.EDM(),
    "EDM-monotonic": weightings.Monotone(weightings.EDM()),
    "Min-SNR(5)": weightings.MinSNR(gamma=5.0),
}
"""Monotone and not, flat and steep."""


def mixed_elbos(
    measurements: Measurements, weighting: WeightFunction, prior: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    r"""The right side for each image, as a Stieltjes sum over noise levels.

    Args:
        measurements: One round of losses.
        weighting: $w$.
        prior: $L(\lambda_\min)$ of each image.
    """
    schedule, num_times = measurements.schedule, measurements.logsnr.shape[2]
    levels = torch.linspace(
        schedule.logsnr_min, schedule.logsnr_max, NUM_LEVELS, dtype=torch.float64
    )
    logsnr, loss = measurements.logsnr[:, 0], measurements.loss[:, 0]
    cell = torch.searchsorted(levels, logsnr).clamp(1, NUM_LEVELS - 1)  # counts from this level on
    gains = torch.zeros(len(loss), NUM_LEVELS, dtype=torch.float64)
    gains.scatter_add_(1, cell, loss / schedule.density(logsnr) / num_times)
    elbos = prior[:, None] + gains.cumsum(1)  # L at every level
    w = weighting(levels)
    between = (elbos[:, 1:] + elbos[:, :-1]) / 2
    return w[-1] * elbos[:, -1] - w[0] * elbos[:, 0] - (between * w.diff()).sum(1)


def check_theorem(measured: Measured, trained: WeightFunction) -> tuple[TheoremCheck, ...]:
    """Both sides for some weightings, on the pilot's images, and the z score of their difference.

    Args:
        measured: A condition's losses.
        trained: The run's own weighting, which is checked besides.
    """
    own = {} if trained in CHECKED.values() else {repr(trained): trained}
    return tuple(_check(measured, *named) for named in (CHECKED | own).items())


def _check(measured: Measured, name: str, weighting: WeightFunction) -> TheoremCheck:
    schedule, num = measured.rounds.schedule, len(measured.pilot.loss)
    loss = measured.rounds.integral(weighting)[:num].mean(1)
    mixture = mixed_elbos(measured.pilot, weighting, measured.prior[:num])
    difference = loss - mixture
    error = _standard_error(difference)
    return TheoremCheck(
        name=name,
        is_monotone=is_monotone(weighting, schedule.logsnr_min, schedule.logsnr_max),
        loss=loss.mean().item(),
        loss_se=_standard_error(loss),
        mixture=mixture.mean().item(),
        mixture_se=_standard_error(mixture),
        difference_se=error,
        z=difference.mean().item() / error,
    )


def _standard_error(values: Float[Tensor, " n"]) -> float:
    return values.std().item() / math.sqrt(len(values))
