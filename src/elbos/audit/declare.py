"""Audits without measuring: of recipes, and of tables of noise levels, computed exactly."""

import math

import numpy as np
import torch

from elbos.arrays import Array
from elbos.audit.density import spacing_error, table_log_density
from elbos.audit.estimate import NUM_POINTS, closest, rising
from elbos.audit.names import code, coefficient_name
from elbos.audit.oddity import Oddity
from elbos.audit.result import Audit
from elbos.audit.steps import Steps
from elbos.extrema import rising_intervals
from elbos.recipes import RECIPES

_TAIL = 1e-5  # a declared recipe is shown where more than this is sampled, as 100,000 samples would
_LAST_DIGIT = 80.0  # log-SNR of data, or of noise, that is below the last digit of a float64
_NEVER = 1e-15  # probability of a step that no training draws
_DECIMALS = 9  # of log-SNR, up to which steps are one


def of_recipe(name: str) -> Audit:
    """What a published recipe asks for.

    Args:
        name: One of `recipes.RECIPES`.

    Raises:
        ValueError: If there is no such recipe.

    Examples:
        >>> audit = of_recipe("edm")
        >>> audit.parameterization, audit.is_monotone, round(audit.rising[0][1], 3)
        ('edm', False, -3.308)
    """
    if name not in RECIPES:
        raise ValueError(f"There is no recipe {name!r}: choose from {', '.join(RECIPES)}.")
    recipe = RECIPES[name]
    ends = recipe.schedule.logsnr(torch.tensor([1 - _TAIL, _TAIL], dtype=torch.float64))
    low, high = ends.tolist()
    grid = torch.linspace(low, high, NUM_POINTS, dtype=torch.float64)
    density = recipe.schedule.density(grid)
    probability = (density / density.sum()).numpy()
    log_w = _centered(recipe.weighting(grid).log().numpy(), probability)
    log_c = _centered(recipe.coefficient(grid).log().numpy(), probability)
    a, b = recipe.parameterization.coefficients(grid)
    return Audit(
        title=name,
        source="declared",
        num_samples=0,
        logsnr=grid,
        weight=torch.from_numpy(np.exp(log_w)),
        weight_error=torch.zeros_like(grid),
        density=density,
        coefficient=torch.from_numpy(np.exp(log_c)),
        a=a,
        b=b,
        schedule=code(recipe.schedule),
        density_kind="named",
        num_steps=None,
        process=None,
        data_scale=1.0,
        data_offset=0.0,
        parameterization=type(recipe.parameterization).__name__.lower(),
        parameterization_factor=1.0,
        sigma_data=getattr(recipe.parameterization, "sigma_data", None),
        coefficient_name=coefficient_name(grid.numpy(), log_c, probability),
        rising=rising_intervals(recipe.weighting, low, high),
        closest=closest(grid.numpy(), log_w, probability),
        share_pure_noise=0.0,
        weight_pure_noise=0.0,
        share_clean=0.0,
        oddities=[],
    )


def of_steps(steps: Steps) -> Audit:
    """What a loss with a table of noise levels asks for.

    Raises:
        ValueError: If fewer than three steps have both signal and noise, and are ever drawn.
    """
    is_pure, is_clean = steps.logsnr < -_LAST_DIGIT, steps.logsnr > _LAST_DIGIT
    drawn = steps.at(~(is_pure | is_clean) & (steps.probability > _NEVER))
    _, first, place = np.unique(
        np.round(drawn.logsnr.numpy(), _DECIMALS), return_index=True, return_inverse=True
    )
    levels = drawn.logsnr.numpy()[first]
    if len(levels) < 3:
        raise ValueError(
            "The table has fewer than three noise levels with both signal and noise: there is no "
            "weighting to compute."
        )
    probability = np.bincount(place, weights=drawn.probability.numpy())
    grid = np.linspace(levels[0], levels[-1], NUM_POINTS)
    numbers = np.arange(len(levels), dtype=np.float64)
    log_p = table_log_density(levels, numbers, np.log(probability / probability.sum()), grid)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()

    def curve(values: torch.Tensor) -> Array:
        return np.asarray(np.interp(grid, levels, values.numpy()[first]))

    log_c = _centered(curve(_log(drawn.coefficient)), p)
    log_w = _centered(log_p + curve(_log(drawn.eps_coefficient)), p)
    pure, whole = (
        (steps.probability * steps.coefficient)[where].sum() / steps.probability[where].sum()
        for where in (is_pure, steps.probability > 0)
    )
    return Audit(
        title=steps.title,
        source="declared",
        num_samples=0,
        logsnr=torch.from_numpy(grid),
        weight=torch.from_numpy(np.exp(log_w)),
        weight_error=torch.zeros(NUM_POINTS, dtype=torch.float64),
        density=torch.from_numpy(np.exp(log_p)),
        coefficient=torch.from_numpy(np.exp(log_c)),
        a=torch.from_numpy(curve(drawn.a)),
        b=torch.from_numpy(curve(drawn.b)),
        schedule=None,
        density_kind="table",
        num_steps=len(steps.logsnr),
        process=None,
        data_scale=1.0,
        data_offset=0.0,
        parameterization=steps.parameterization,
        parameterization_factor=steps.parameterization_factor,
        sigma_data=steps.sigma_data,
        coefficient_name=coefficient_name(grid, log_c, p),
        rising=rising(grid, log_w, np.diag(spacing_error(levels, numbers, grid) ** 2)),
        closest=closest(grid, log_w, p),
        share_pure_noise=steps.probability[is_pure].sum().item(),
        weight_pure_noise=(pure / whole).nan_to_num().item(),
        share_clean=steps.probability[is_clean].sum().item(),
        oddities=[Oddity("note", note) for note in steps.notes],
    )


def _log(values: torch.Tensor) -> torch.Tensor:
    """The logarithm; of 0, one that is very small beside the least of the others."""
    log = values.log()
    return log.clamp(min=log[log.isfinite()].min().item() + math.log(1e-12))


def _centered(log_values: Array, probability: Array) -> Array:
    """Divided by its geometric mean."""
    return np.asarray(log_values - (probability * log_values).sum())
