r"""Exact audits, without measurement, of published recipes and of losses given as formulas or
tables.

A loss is determined by the distribution of log-SNR $\lambda$, the target $y = a x + b\epsilon$ and
the coefficient $c$ of $\|\hat y - y\|^2$, as formulas (`DeclaredLoss`) or as a table of steps
(`LossTable`). The network's error of the noise is

$$\|\hat\epsilon - \epsilon\|^2 = \frac{\|\hat y - y\|^2}{(b - a\,e^{-\lambda/2})^2}.$$
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from elbos.audit.density.levels import table_log_density
from elbos.audit.diagnostics import Diagnostic, UnknownTarget
from elbos.audit.estimate import NUM_POINTS, assembled, significant_rises
from elbos.audit.names.matching import Prediction
from elbos.audit.result import Audit
from elbos.base.arrays import Array
from elbos.base.checks import typed
from elbos.base.errors import suggestion
from elbos.theory.extrema import rising_intervals
from elbos.theory.names import code
from elbos.theory.parameterizations import Parameterization
from elbos.theory.recipes import RECIPES
from elbos.theory.schedules import Schedule

_TAIL = 1e-5  # tail probability outside the range of 100,000 samples
_LAST_DIGIT = 80.0  # absolute log-SNR at which float64 rounds data or noise away
_MIN_PROBABILITY = 1e-15  # smallest probability of a step that counts as drawn
_DECIMALS = 9  # steps with log-SNRs equal to so many decimals are merged


@dataclass(frozen=True, kw_only=True)
class DeclaredLoss:
    r"""A training loss given by formulas.

    Attributes:
        title: Name of the loss, in a few words.
        schedule: Distribution $p$ of log-SNR.
        parameterization: Prediction type $y$.
        coefficient: $c(\lambda)$, up to a constant.
    """

    title: str
    schedule: Schedule
    parameterization: Parameterization
    coefficient: Callable[[Tensor], Tensor]

    def weighting(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Compute $p\,c\,\|\hat y - y\|^2/\|\hat\epsilon - \epsilon\|^2$ at any log-SNR."""
        error_ratio = 1 / self.parameterization.eps_error_per_error(logsnr)
        return self.schedule.log_density(logsnr).exp() * self.coefficient(logsnr) * error_ratio


@dataclass(frozen=True, kw_only=True)
class LossTable:
    r"""Training loss described by its coefficients at each time step of a table.

    Attributes:
        logsnr: $\lambda$, `[steps]`; $-\infty$ is pure noise, $\infty$ clean data.
        probability: Probability of each step, `[steps]`, summing to 1.
        coefficient: Coefficient $c$ of $\|\hat y - y\|^2$, `[steps]`.
        title, parameterization: As of `DeclaredLoss`.
        factor: Factor on the target; -1 for the opposite sign.
        diagnostics: Findings that the weighting does not show.
    """

    title: str
    logsnr: Float[Tensor, " steps"]
    probability: Float[Tensor, " steps"]
    coefficient: Float[Tensor, " steps"]
    parameterization: Parameterization
    factor: float = 1.0
    diagnostics: tuple[Diagnostic, ...] = ()

    @property
    def a(self) -> Float[Tensor, " steps"]:
        """Coefficient of the data in the regression target at each time step."""
        return self.factor * self.parameterization.coefficients(self.logsnr)[0]

    @property
    def b(self) -> Float[Tensor, " steps"]:
        """Coefficient of the noise in the regression target at each time step."""
        return self.factor * self.parameterization.coefficients(self.logsnr)[1]

    @property
    def eps_coefficient(self) -> Float[Tensor, " steps"]:
        r"""Coefficient $c\,(b - a e^{-\lambda/2})^2$ of the squared error of the noise."""
        return self.coefficient * (self.b - self.a * torch.exp(-self.logsnr / 2)) ** 2

    def at(self, steps: Bool[Tensor, " steps"] | Int[Tensor, " kept"]) -> "LossTable":
        columns = ("logsnr", "probability", "coefficient")
        return replace(self, **{name: getattr(self, name)[steps] for name in columns})


@typed
def from_recipe(name: str) -> Audit:
    """Audit the loss of a published training recipe from its formulas.

    Raises:
        ValueError: If there is no such recipe.

    Examples:
        >>> audit = from_recipe("edm")
        >>> audit.parameterization, audit.is_monotone, round(audit.rising[0][1], 3)
        ('edm', False, -3.308)
    """
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}: {suggestion(name, RECIPES)}")
    recipe = RECIPES[name]
    loss = DeclaredLoss(
        title=name,
        schedule=recipe.schedule,
        parameterization=recipe.parameterization,
        coefficient=recipe.coefficient_at,
    )
    return from_loss(loss)


@typed
def from_loss(loss: DeclaredLoss) -> Audit:
    """Audit a training loss given by formulas, on the log-SNR range of 100,000 samples.

    Raises:
        ValueError: If the coefficient is negative or infinite at some noise level, or 0 at all
            of them.

    Examples:
        >>> from elbos import parameterizations, schedules
        >>> flow = DeclaredLoss(
        ...     title="flow",
        ...     schedule=schedules.Flow(),
        ...     parameterization=parameterizations.Flow(),
        ...     coefficient=torch.ones_like,
        ... )
        >>> from_loss(flow).closest[0].name
        'Exponential()'
    """
    tails = torch.tensor([1 - _TAIL, _TAIL], dtype=torch.float64)
    low, high = loss.schedule.logsnr(tails).tolist()
    grid = torch.linspace(low, high, NUM_POINTS, dtype=torch.float64)
    a, b = loss.parameterization.coefficients(grid)
    return _declared(
        loss.title,
        Prediction.from_target(loss.parameterization),
        grid=grid.numpy(),
        log_p=loss.schedule.density(grid).log().numpy(),
        log_w=_log(loss.weighting(grid)).numpy(),
        log_c=_log(loss.coefficient(grid)).numpy(),
        rising=rising_intervals(loss.weighting, low, high),
        a=a.numpy(),
        b=b.numpy(),
        schedule=code(loss.schedule),
        density_kind="named",
    )


@typed
def from_table(table: LossTable) -> Audit:
    """Audit a training loss that is given as a table of noise levels.

    Raises:
        ValueError: If fewer than three steps of positive probability have both signal and noise, or
            the coefficient is negative or infinite at one of these, or 0 at all of them.
    """
    p, is_mixed = table.probability, table.logsnr.abs() <= _LAST_DIGIT
    drawn = table.at(is_mixed & (p > _MIN_PROBABILITY))
    _, first, place = np.unique(
        np.round(drawn.logsnr.numpy(), _DECIMALS), return_index=True, return_inverse=True
    )
    if len(first) < 3:
        raise ValueError(
            "The table has fewer than three noise levels with both signal and noise: there is no "
            "weighting to compute."
        )
    probability = np.bincount(place, weights=drawn.probability.numpy())
    log_probability = np.log(probability / probability.sum())
    steps = drawn.at(torch.from_numpy(first))
    levels, numbers = steps.logsnr.numpy(), np.arange(len(first), dtype=np.float64)
    grid = np.linspace(levels[0], levels[-1], NUM_POINTS)
    log_p, spacing_error = table_log_density(levels, numbers, log_probability, grid)

    def curve(values: Tensor) -> Array:
        return np.asarray(np.interp(grid, levels, values.numpy()))

    log_w = log_p + curve(_log(steps.eps_coefficient))
    c = table.coefficient
    is_pure, is_clean = table.logsnr < -_LAST_DIGIT, table.logsnr > _LAST_DIGIT
    pure, every = ((p * c)[where].sum() / p[where].sum() for where in (is_pure, p > 0))
    covariance = np.diag(spacing_error**2)
    return _declared(
        table.title,
        Prediction.from_target(table.parameterization, table.factor),
        table.diagnostics,
        grid=grid,
        log_p=log_p,
        log_w=log_w,
        log_c=curve(_log(steps.coefficient)),
        rising=significant_rises(grid, log_w, covariance),
        a=curve(steps.a),
        b=curve(steps.b),
        schedule=None,
        density_kind="table",
        num_steps=len(table.logsnr),
        share_pure_noise=p[is_pure].sum().item(),
        weight_pure_noise=(pure / every).nan_to_num().item(),
        share_clean=p[is_clean].sum().item(),
    )


def _declared(
    title: str, prediction: Prediction, diagnostics: Sequence[Diagnostic] = (), **fields: Any
) -> Audit:
    unknown = [] if prediction.name else [UnknownTarget()]
    fields |= {"title": title, "diagnostics": [*diagnostics, *unknown]}
    return assembled(source="declared", prediction=prediction, **fields)


def _log(values: Tensor) -> Tensor:
    if not (values.isfinite() & (values >= 0)).all() or not values.any():
        raise ValueError(
            "The coefficient is 0 everywhere, or below 0 or infinite at some noise level: there is "
            "no weighting to compute."
        )
    log = values.log()
    return log.clamp(min=log[log.isfinite()].min().item() + math.log(1e-12))
