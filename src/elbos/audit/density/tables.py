r"""Schedules of which the noise levels of a table are the steps.

The steps of a table are known to rounding. A schedule is named if training code makes these very
steps of it: DDPM's with $\beta_i$ linear in $i$, Stable Diffusion's with $\sqrt{\beta_i}$, IDDPM's
cosine with its offset, these rescaled to zero terminal SNR, or even steps of a schedule's time.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import scipy
import torch
from jaxtyping import Float

from elbos.audit.density.families import FAMILIES, MAX_LEFT_OUT, PUBLISHED, with_default_ends
from elbos.audit.density.levels import Table
from elbos.base.arrays import Array
from elbos.theory.schedules import DDPM, Cosine, Schedule, StableDiffusion, ZeroTerminal

MIN_STEPS = 30  # the steps of a shorter table were picked: they have no density
_OFFSET = 0.008  # of the time of IDDPM's cosine
_MAX_BETA = 0.999
_NUM_STEPS = 1000  # of most trainings
_UNSEEN = 12.0  # expected number of samples of steps that may have none


def training_levels(schedule: Schedule, num: int) -> Float[Array, " num"] | None:
    r"""Return the log-SNRs of `num` training steps, increasing; None if its steps are even in time.

    The products of $1 - \beta_i$ are $\alpha_i^2$; each $\beta_i$ is the schedule's over `num`.
    """
    time = np.arange(num + 1) / num
    match schedule:
        case DDPM(beta_min=low, beta_max=high):
            betas = np.linspace(low, high, num) / num
        case StableDiffusion(beta_min=low, beta_max=high):
            betas = np.linspace(low**0.5, high**0.5, num) ** 2 / num
        case Cosine(shift=0.0):
            squared = np.cos((time + _OFFSET) / (1 + _OFFSET) * np.pi / 2) ** 2
            betas = np.minimum(1 - squared[1:] / squared[:-1], _MAX_BETA)
        case ZeroTerminal(inner=inner, snr_shift=shift):
            levels = training_levels(inner, num)
            if levels is None:
                return None
            alpha = scipy.special.expit(levels - np.log(shift)) ** 0.5
            alpha = (alpha - alpha[0]) * alpha[-1] / (alpha[-1] - alpha[0])
            with np.errstate(divide="ignore"):  # the first step is pure noise
                return np.asarray(2 * np.log(alpha) - np.log1p(-(alpha**2)))
        case _:
            return None
    log_squared = np.log1p(-betas.clip(max=1 - 1e-9)).cumsum()[::-1]
    return np.asarray(log_squared - np.log(-np.expm1(log_squared)))


class _Steps:
    """Noise levels of a table, which are compared step by step with those of schedules."""

    def __init__(self, table: Table, error: float) -> None:
        self.levels, self.error = table.levels, error
        self.num_unseen = int(_UNSEEN / table.counts.mean())  # at an end, at the most
        self.steps = table.steps.astype(int) if self.num_unseen else np.arange(len(self.levels))
        self.num = int(self.steps[-1]) + 1

    def differences(self, schedule: Schedule) -> Float[Array, " t"]:
        """Return the differences of the levels from the steps of a schedule, one by one."""
        off = []
        for clean in range(self.num_unseen + 1):
            levels = training_levels(schedule, self.num + clean)
            off += [] if levels is None else [levels[self.steps] - self.levels]
        if not off or isinstance(schedule, Cosine):
            time = schedule.time(torch.from_numpy(self.levels)).numpy()
            even = np.polyval(np.polyfit(self.steps, time, 1), self.steps).clip(0, 1)
            off.append(schedule.logsnr(torch.from_numpy(even)).numpy() - self.levels)
        return min(off, key=lambda each: float(np.abs(each).max()))

    def has(self, schedule: Schedule) -> bool:
        """Return whether the levels are the steps of a schedule, some of which may be unseen.

        The step of pure noise is not among the levels.
        """
        most = self.num_unseen + 1
        for num in (_NUM_STEPS, *range(self.num, self.num + 2 * most)):
            if (levels := training_levels(schedule, num)) is None:
                break
            nearest = np.abs(levels[:, None] - self.levels).argmin(0)
            is_near = np.abs(levels[nearest] - self.levels) < self.error
            if is_near.all() and nearest[0] <= most and num - 1 - nearest[-1] < most:
                return True
        return bool(np.abs(self.differences(schedule)).max() < self.error)

    def fitted(self, build: Callable[..., Schedule], start: Sequence[float]) -> Schedule | None:
        """Fit the parameters of a schedule; None if the levels are not its steps."""

        def differences(theta: Array) -> Array:
            try:
                return self.differences(build(*theta.tolist())).clip(-1e3, 1e3)
            except (ValueError, OverflowError):  # invalid parameters
                return np.full(len(self.levels), 1e3)

        fit = scipy.optimize.least_squares(differences, start, x_scale=0.1, max_nfev=100)
        return build(*fit.x.tolist()) if np.abs(fit.fun).max() < self.error else None


def schedule_of_table(table: Table, error: float) -> Schedule | None:
    """Find the schedule that a table has the steps of, up to an error of their log-SNRs.

    A published schedule is preferred, then one of fewer parameters.
    """
    steps = _Steps(table, error)
    ends = {"logsnr_min": float(table.levels[0]), "logsnr_max": float(table.levels[-1])}
    max_left_out = MAX_LEFT_OUT + 1.5 / len(table)  # beyond the first and the last step

    def named(schedule: Schedule) -> Schedule:
        is_whole = training_levels(schedule, 2) is not None and not isinstance(schedule, Cosine)
        return with_default_ends(schedule, 1.0 if is_whole else max_left_out)

    for schedule in (dataclasses.replace(schedule, **ends) for schedule in PUBLISHED):
        if steps.has(schedule):
            return named(schedule)
    for family, start in FAMILIES:
        build = partial(family, **ends)
        if (fitted := steps.fitted(build, start(table.levels))) is not None:
            return named(fitted)
    return None
