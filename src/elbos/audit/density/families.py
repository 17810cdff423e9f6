r"""Parametric families of schedules, and the named schedule that fits measured noise levels.

Given an estimated density (`density`), a schedule of a published recipe, or with fitted parameters,
is named if its density has the same shape within the errors of the estimate; a published one, and
then one with fewer parameters, is preferred.
"""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
import scipy
import torch
from jaxtyping import Float

from elbos.audit.density.curves import is_central
from elbos.base.arrays import Array
from elbos.theory.recipes import RECIPES
from elbos.theory.schedules import (
    DDPM,
    Cosine,
    EDMSampling,
    Flow,
    Laplace,
    Linear,
    Normal,
    Schedule,
    StableDiffusion,
)

T = TypeVar("T")

_FIRST_STEP = 0.1  # first step of a parameter at 0; SciPy's default is too small
_MAX_PARAMETER = 20.0  # largest plausible mean log-SNR or log-scale
_TAIL = 5e-4  # share of the samples at either end that is not compared
MAX_LEFT_OUT = 0.005  # share of a schedule's levels beyond an end that need no mention
_SHAPE_ERROR = 5e-4  # rounding error of a log-density


def fit_family(
    build: Callable[..., T],
    start: Sequence[float],
    loss: Callable[[T], float],
    *,
    bounds: Sequence[tuple[float, float]] = (),
    xatol: float = 1e-4,
    fatol: float = 1e-4,
    max_calls: int = 1000,
) -> list[float]:
    """Minimize `loss` over a family by Nelder-Mead; invalid and infinite cases count as 1e6."""

    def loss_of(theta: Array) -> float:
        if not all(low <= value <= high for value, (low, high) in zip(theta, bounds, strict=False)):
            return 1e6
        try:
            value = loss(build(*theta.tolist()))
        except (ValueError, OverflowError):  # invalid parameters
            return 1e6
        return value if np.isfinite(value) else 1e6

    first = np.array(start)
    steps = np.where(first == 0, _FIRST_STEP, 0.05 * first)
    minimum = scipy.optimize.minimize(
        loss_of,
        first,
        method="Nelder-Mead",
        options={
            "initial_simplex": np.vstack([first, first + np.diag(steps)]),
            "xatol": xatol,
            "fatol": fatol,
            "maxfev": max_calls,
        },
    )
    theta: list[float] = minimum.x.tolist()
    return theta


PUBLISHED = sorted({recipe.schedule for recipe in RECIPES.values()}, key=repr)
FAMILIES: list[tuple[Callable[..., Schedule], Callable[[Array], list[float]]]] = [
    # a schedule of given parameters, and their first values for noise levels; few of them first
    (lambda s, **ends: Cosine(shift=s, **ends), lambda x: [float(np.median(x)) / 2]),
    (
        lambda s, **ends: Flow(shift=float(np.exp(s)), **ends),
        lambda x: [-float(np.median(x)) / 2],
    ),
    (
        lambda rho, **ends: EDMSampling(
            sigma_min=float(np.exp(-ends["logsnr_max"] / 2)),
            sigma_max=float(np.exp(-ends["logsnr_min"] / 2)),
            rho=float(np.exp(rho)),
        ),
        lambda _: [float(np.log(7))],
    ),
    (
        lambda m, s, **ends: Normal(mean=m, std=float(np.exp(s)), **ends),
        lambda x: [float(np.mean(x)), float(np.log(np.std(x)))],
    ),
    (
        lambda m, b, **ends: Laplace(mean=m, scale=float(np.exp(b)), **ends),
        lambda x: [float(np.median(x)), float(np.log(np.abs(x - np.median(x)).mean()))],
    ),
    (
        lambda b0, b1, **ends: DDPM(
            beta_min=float(np.exp(b0)), beta_max=float(np.exp(b0) + np.exp(b1)), **ends
        ),
        lambda _: [float(np.log(0.1)), float(np.log(20))],
    ),
    (
        lambda b0, b1, **ends: StableDiffusion(
            beta_min=float(np.exp(b0)), beta_max=float(np.exp(b0) + np.exp(b1)), **ends
        ),
        lambda _: [float(np.log(1)), float(np.log(10))],
    ),
]


def schedule_of_shape(
    grid: Float[Array, " g"],
    log_p: Float[Array, " g"],
    error: Float[Array, " g"],
    logsnr: Float[Array, " n"],
) -> tuple[Schedule | None, bool]:
    """Find the schedule that matches an estimated log-density, and whether none of its shape is
    fitted.
    """
    is_drawn = is_central(log_p, _TAIL)  # the loss itself rounds in the tails
    at, weight = torch.from_numpy(grid), is_drawn / (error**2 + _SHAPE_ERROR**2)

    def residual(schedule: Schedule) -> Array:
        off = schedule.log_density(at).numpy().clip(min=-1e3) - log_p  # -inf beyond its own ends
        return np.asarray(off - (weight * off).sum() / weight.sum())

    def distance(schedule: Schedule) -> float:
        return float((weight * residual(schedule) ** 2).sum() / weight.sum())

    def has_shape(schedule: Schedule) -> bool:
        return bool((np.abs(residual(schedule)) < 5 * (error + _SHAPE_ERROR))[is_drawn].all())

    low, high, num = float(logsnr.min()), float(logsnr.max()), len(logsnr)
    pad = 0.0 if num < 2 else (high - low) / num
    ends = {"logsnr_min": low - pad, "logsnr_max": high + pad}
    max_left_out = max(12 / num, MAX_LEFT_OUT)

    exact = [dataclasses.replace(s, **ends) for s in PUBLISHED if not isinstance(s, Linear)]
    exact += [Linear(**ends), StableDiffusion(**ends)]
    exact = [schedule for schedule in exact if has_shape(schedule)]
    if exact:
        return with_default_ends(min(exact, key=distance), max_left_out), True
    fitting = []
    for family, start in FAMILIES:
        build = partial(family, **ends)
        theta = fit_family(build, start(logsnr), distance, xatol=1e-6, fatol=1e-14)
        if max(map(abs, theta)) < _MAX_PARAMETER and has_shape(build(*theta)):
            fitting.append((len(theta), build(*theta)))
    if not fitting:
        return None, False
    _, best = min(fitting, key=lambda candidate: (candidate[0], distance(candidate[1])))
    return with_default_ends(best, max_left_out), False


def with_default_ends(schedule: Schedule, max_left_out: float) -> Schedule:
    """Replace a log-SNR limit by the default if a smaller share of levels lies beyond it."""
    if isinstance(schedule, Linear | EDMSampling):
        return schedule
    defaults: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(schedule)}
    ends = torch.tensor([schedule.logsnr_min, schedule.logsnr_max], dtype=torch.float64)
    for name in ("logsnr_min", "logsnr_max"):
        longer = dataclasses.replace(schedule, **{name: defaults[name]})
        noisy, clean = longer.time(ends).tolist()
        if 1 - noisy + clean < max_left_out:
            schedule = longer
    return schedule
