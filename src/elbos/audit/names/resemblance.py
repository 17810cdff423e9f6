r"""Published losses that parts of a measured loss equal, exactly or after correction of one common
coding mistake.

The coefficient $c$, the target $(a, b)$ and the density of noise levels are compared separately.
Slips are tables of edits: replaced text in a published formula, a change of the two coefficients of
a target, other parameters of a schedule. Edited formulas are compared like published formulas. A
bug whose result is another published loss cannot be recognized.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from torch import Tensor

from elbos.audit.density.curves import spread
from elbos.audit.density.levels import table_log_density
from elbos.audit.names.matching import (
    MIN_GAIN,
    NEAR,
    SAME,
    coefficient_name,
    fit_formula,
    prediction_of,
)
from elbos.audit.probing.scales import BUT_FOR, SUB_VP
from elbos.base.arrays import Array
from elbos.base.codec import parse
from elbos.theory.names import code
from elbos.theory.parameterizations import Flow as FlowTarget
from elbos.theory.recipes import FAMILIES, RECIPES
from elbos.theory.schedules import Cosine, Flow, Laplace, Normal, Schedule

_SAME_DENSITY = 0.03  # distance up to which log-densities count as equal, but for tables
_SAME_TABLE = 0.05  # that of a table: published densities are limits of many steps
_MAX_BEYOND = 1.0  # log-SNR by which a table may exceed the ends of a published schedule
_NUM_STEPS = 1000  # length of trainers' tables
_MIN_STEPS = 100  # a shorter table has not the noise levels of a recipe
_EXPLODING = "variance exploding"
_ROOTS = ("sqrt(ᾱ) and sqrt(1 - ᾱ)", "ᾱ and 1 - ᾱ in place of their square roots")
_EXCHANGED = ("sqrt(ᾱ)*x + sqrt(1 - ᾱ)*eps", "sqrt(ᾱ) and sqrt(1 - ᾱ) exchanged")
_ALPHAS = ("alphas_cumprod", "alphas in place of alphas_cumprod")
_TIDY = (  # edited formulas
    (r"sqrt\(\(1/snr\)\)", "(1/sqrt(snr))"),
    (r"^1/\(1/(sqrt\(snr\)|snr)\)$", r"\1"),
    (r"/\(1/snr\)$", "*snr"),
    (r"\(\(1/snr\)", "(1/snr"),
    (r"\*\*1(?![\d.])", ""),
)
_TO_DATA = ("1 - t", "noise to data")  # in the name of a time, which may be no time, as log-SNR
_MIN_COVERED = 0.98  # probability of a schedule within the noise levels of the loss


class Resemblance(NamedTuple):
    """A published loss that the audited loss equals or nearly equals.

    Attributes:
        part: "target", "process", "coefficient" or "noise levels".
        name: Name of the published loss.
        published: Published formula of the part.
        change: The mistake that leads to the audited formula, as a noun; "" if the formulas agree.
        formula: Audited formula of the coefficient or the noise levels.
    """

    part: str
    name: str
    published: str
    change: str
    formula: str = ""


class NearestRecipe(NamedTuple):
    """The published recipe that a loss equals, or is nearest to in kind."""

    name: str
    has_levels: bool  # the same noise levels as the loss
    has_coefficient: bool  # the same coefficient as the loss
    is_alike: bool  # shares the prediction type, the kind of noise levels or the weighting
    has_weighting: bool  # the same weighting as the loss, drawn from these noise levels or others
    coefficient: str | None = None  # formula of its weighting for the loss's prediction type
    sigma_data: float | None = None  # its, if that alone makes another weighting of the coefficient

    @property
    def is_equal(self) -> bool:
        return self.has_levels and self.has_coefficient


class Coefficient(NamedTuple):
    """Published formula for the coefficient of a squared error."""

    name: str
    prediction: str
    formula: str
    least: float = 0.0  # smallest plausible value of g


_PER_ERROR = {  # target -> factor from the coefficient for x to the target's
    "x": "",
    "eps": "/snr",
    "v": "/(snr + 1)",
    "flow": "*t**2",
    "edm": "/(snr + S)",
}
_FLOW = "the plain flow loss"
COEFFICIENTS = (
    Coefficient(_FLOW, "x", "1/t**2"),
    Coefficient(_FLOW, "eps", "1/(1 - t)**2"),
    Coefficient("P2", "eps", "1/(snr + 1)"),
    Coefficient("P2", "v", "snr/(snr + 1)**2"),
    Coefficient("debiased estimation", "eps", "1/sqrt(snr)"),
    Coefficient("debiased estimation", "v", "sqrt(snr)/(snr + 1)"),
    Coefficient("EDM", "edm", "1"),
    Coefficient("EDM", "x", "snr + 4"),
    Coefficient("soft Min-SNR", "edm", "snr/(snr + S)**2"),
    Coefficient("the plain eps-loss", "x", "snr"),
    Coefficient("the plain eps-loss", "v", "snr/(snr + 1)"),
    Coefficient("the plain eps-loss", "edm", "snr/(snr + S)"),
    Coefficient("the plain v-loss", "x", "snr + 1"),
    Coefficient("the plain v-loss", "eps", "(snr + 1)/snr"),
    Coefficient("the plain v-loss", "edm", "(snr + 1)/(snr + S)"),
    Coefficient("the plain x-loss", "eps", "1/snr"),
    Coefficient("the plain x-loss", "v", "1/(snr + 1)"),
    Coefficient("the plain x-loss", "flow", "t**2"),
    *(
        Coefficient(name, prediction, re.sub("^snr(/.+)/snr$", r"1\1", of_x + factor), least)
        for name, of_x, least in (
            ("Min-SNR", "min(snr, g)", 1.0),
            ("truncated SNR", "max(snr, 1)", 0.0),
            ("P2", "snr/(snr + 1)**g", 0.1),
            ("soft Min-SNR", "snr/(snr + g)", 0.5),
        )
        for prediction, factor in _PER_ERROR.items()
    ),
)
"""Published coefficients. The formulas of one name, for different prediction types, are equivalent.
S is 1/sigma_data**2 of an EDM network F, whose squared error is snr + S times that of its denoiser
D; t is the time of rectified flow, 1/(1 + sqrt(snr))."""

_SQUARE = "lambda(sigma) without the square of its divisor"
_FORGOTTEN = "no lambda(sigma), the weight of the denoiser's loss"
_SD3 = "SD3's w(t) = t/(1 - t), which is not the coefficient of this error"
EDITS = (  # coding mistakes in a formula: description, pattern, replacement
    ("t in place of its square", r"^1/t\*\*2", "1/t"),
    ("1 - t in place of its square", r"^1/\(1 - t\)\*\*2", "1/(1 - t)"),
    ("lambda(sigma), which is for the loss of the denoiser", r"^1$", "snr + S"),
    (_FORGOTTEN, r"^1$", "1/(snr + S)"),
    (_SQUARE, r"^1$", "1/sqrt(snr)"),
    (_SQUARE, r"^snr \+ 4$", "(snr + 4)/sqrt(snr)"),
    ("sigma_data in place of its square", r"^1$", "(snr + sqrt(S))/(snr + S)"),
    ("a sum in place of a product", r"^1$", "(1/snr + 1/S)/(1/sqrt(snr) + 1/sqrt(S))**2/(snr + S)"),
    ("max in place of min", r"\bmin\(", "max("),
    ("min in place of max", r"\bmax\(", "min("),
    ("the + 1 outside of the fraction", r"/\(snr \+ 1\)$", "/snr + 1"),
    ("snr + 1 in place of snr in the minimum, too", r"min\(snr,", "min(snr + 1,"),
    ("the root of the SNR in place of the SNR", r"\bsnr\b", "sqrt(snr)"),
    ("1/snr in place of snr", r"\bsnr\b", "(1/snr)"),
    ("2 in place of 1", r"snr \+ 1", "snr + 2"),
    ("sigma_data in place of its square", r"snr \+ 4", "snr + 2"),
    ("a sum in place of a product", r"^snr \+ 4$", "(1/snr + 1/4)/(1/sqrt(snr) + 1/2)**2"),
    ("no divisor", r"/(snr|\(snr \+ 1\))$", ""),
    ("the inverse of the formula", r"^1/\((.*)\)$|^1/(sqrt.*)$", r"\1\2"),
    ("a factor snr too many", r"^1/", "snr/"),
    ("a root of the divisor in place of sqrt(snr) above", r"^sqrt\(snr\)/(\(.*\))$", r"1/sqrt\1"),
)

_CHOICES = {"x": "1/snr", "edm": "min(snr + S, g)/(snr + S)"}
"""Unpublished coefficients that are no slips: sigma**2, and EDM's lambda(sigma) clamped."""

_TARGETS: tuple[tuple[str, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]], ...] = (
    ("the other sign", lambda a, b: (-a, -b)),
    ("the other sign of the data", lambda a, b: (-a, b)),
    ("data and noise exchanged", lambda a, b: (b, a)),
    ("alpha and sigma exchanged", lambda a, b: (-b, -a)),
)
"""Common coding mistakes in the coefficients of a target; each is the inverse of itself."""


TARGETS = {
    "eps": "eps",
    "x": "x",
    "v": "alpha eps - sigma x",
    "flow": "eps - x",
    "score": "-eps/sigma",
    "edm": "(x - c_skip z)/c_out",
}
"""Target of each prediction type, in the scale of its process."""

_SCHEDULES: tuple[tuple[str, type[Schedule], Callable[..., dict[str, float]]], ...] = (
    ("the mean with the other sign", Normal, lambda s: {"mean": -s.mean}),
    ("the mean with the other sign", Laplace, lambda s: {"mean": -s.mean}),
    (
        "mean and std as if P_mean and P_std were exchanged",
        Normal,
        lambda s: {"mean": -s.std, "std": abs(s.mean)},
    ),
    ("the shift squared, as if it were applied twice", Flow, lambda s: {"shift": s.shift**2}),
    ("the inverse of the shift", Flow, lambda s: {"shift": 1 / s.shift}),
    (
        "twice the mean, as if it, or the shift, were applied twice",
        Normal,
        lambda s: {"mean": 2 * s.mean},
    ),
    (
        "mean and std of ln sigma in place of those of log-SNR",
        Normal,
        lambda s: {"mean": -s.mean / 2, "std": s.std / 2},
    ),
    ("the shift with the other sign", Cosine, lambda s: {"shift": -s.shift}),
)
"""Common coding mistakes in a schedule: description, type, other parameters."""


class LossCurves:
    """Log-density, log-coefficient and log-weighting of an audited loss, beside published ones."""

    def __init__(self, audit: Any) -> None:
        self.audit = audit
        self.logsnr = audit.logsnr.numpy()
        curves = (audit.density, audit.coefficient, audit.weight)
        self.log_p, self.log_c, self.log_w = (curve.log().numpy() for curve in curves)
        self.p = np.exp(self.log_p - self.log_p.max())
        self.p /= self.p.sum()
        self.error = float(np.sqrt(self.p @ audit.weight_error.numpy() ** 2))  # of log_w
        self.process = audit.process or ""
        self.is_flow = "flow" in (audit.parameterization, *self.process.split())

    def fit(self, formula: str, least: float) -> tuple[float, float] | None:
        """Fit a formula: the distance and g, or None if it is far off, g is below `least`, or any
        larger g would do.
        """
        text = self.spelled(formula)
        d, g = fit_formula(text, self.logsnr, self.log_c, self.p)
        if d >= SAME or g < least:
            return None
        text, num = re.subn(r"\bg\b", f"{2 * g:g}", text)
        is_free = num > 0 and fit_formula(text, self.logsnr, self.log_c, self.p)[0] < d + MIN_GAIN
        return None if is_free else (d, g)

    def spelled(self, formula: str, g: float | None = None) -> str:
        """Return a formula with the number S and, if given, g."""
        s = (self.audit.sigma_data or 0.5) ** -2
        for name, value in {"1/sqrt(S)": s**-0.5, "sqrt(S)": s**0.5, "1/S": 1 / s, "S": s}.items():
            formula = formula.replace(name, f"{value:g}")
        if g is not None:
            formula = re.sub(r"\bg\b", f"{g:g}", formula)
        for pattern, text in _TIDY:
            formula = re.sub(pattern, text, formula)
        return formula

    def has_density(self, schedule: Schedule) -> bool:
        log_q = schedule.log_density(torch.from_numpy(self.logsnr)).numpy()
        return self.has_log_density(log_q, schedule.logsnr_min, schedule.logsnr_max)

    def has_log_density(self, log_q: Array, low: float, high: float) -> bool:
        is_used = np.isfinite(log_q) & (self.p > 1e-6 * self.p.max())
        is_used &= np.abs(self.logsnr - np.clip(self.logsnr, low, high)) < _MAX_BEYOND
        if (self.p * is_used).sum() < 0.99:  # some noise levels are beyond the ends of the schedule
            return False
        covered = scipy.integrate.trapezoid(np.exp(log_q), self.logsnr)
        if covered < _MIN_COVERED:  # or some of the schedule's are beyond these
            return False
        p = self.p[is_used] / self.p[is_used].sum()
        same = _SAME_TABLE if self.audit.density_kind == "table" else _SAME_DENSITY
        return spread((self.log_p - log_q)[is_used], p) < same

    def nearest_recipe(self) -> NearestRecipe:
        """Find the recipe with the same noise levels and weighting; else the nearest in weighting
        among those with, if possible, the same prediction type, and the same noise levels or a
        schedule of the same kind.
        """
        levels = torch.from_numpy(self.logsnr)
        used = self.p * (self.p > 1e-6 * self.p.max())  # a coefficient may be 0 in the tails
        denoisers = {"x", "edm"} if self.process.startswith(_EXPLODING) else set()
        schedule = self.audit.schedule and parse(Schedule, self.audit.schedule)
        is_many = (self.audit.num_steps or _MIN_STEPS) >= _MIN_STEPS
        matches = []
        for name, recipe in RECIPES.items():
            per_error = recipe.parameterization.eps_error_per_error(levels)
            log_k = (recipe.coefficient_at(levels).log() - per_error.log()).numpy()
            off = self.log_w - self.log_p - log_k
            has_levels = is_many and schedule == written(recipe.schedule)
            is_same = spread(off, used) < SAME
            log_q = recipe.schedule.log_density(levels).numpy()
            distance = spread(off if has_levels else off + self.log_p - log_q, used)
            kinds = {type(recipe.parameterization).__name__.lower(), self.audit.parameterization}
            kind = type(recipe.schedule).__name__ + "("
            has_kind = has_levels or (self.audit.schedule or "").startswith(kind)
            predicts_same = len(kinds) == 1 or kinds <= denoisers
            key = (
                not (has_levels and is_same),
                not predicts_same,
                not has_levels,
                not has_kind,
                float(f"{distance:.1e}"),  # rounded: of nearly equal recipes the first is taken
            )
            is_alike = predicts_same or has_kind or is_same
            has_weighting = distance < SAME + 2 * self.error
            match = NearestRecipe(name, has_levels, is_same, is_alike, has_weighting)
            matches.append((key, match, off))
        _, nearest, off = min(matches, key=itemgetter(0))
        formula = coefficient_name(self.logsnr, self.log_c - off, used)
        recipe = RECIPES[nearest.name]
        scale = getattr(recipe.parameterization, "sigma_data", None)
        off = self.log_c - recipe.coefficient_at(levels).log().numpy()
        is_scale = self.audit.sigma_data not in (None, scale) and spread(off, used) < SAME
        return nearest._replace(coefficient=formula, sigma_data=scale if is_scale else None)


def written(schedule: Schedule) -> Schedule:
    """Return a schedule with its parameters as an audit writes them, of four digits."""
    read: Schedule = parse(Schedule, code(schedule))
    return read


def resemblances(loss: LossCurves) -> list[Resemblance]:
    """Find published losses with the same target, process, coefficient or levels, up to one
    mistake.
    """
    targets = list[Resemblance]()
    if loss.audit.parameterization is None or loss.audit.parameterization_factor <= 0:
        for change, edit in _TARGETS:
            a, b = edit(loss.audit.a, loss.audit.b)
            target = prediction_of(loss.audit.logsnr, a, b, rtol=0.0)
            if target.name not in (None, "edm", "score") and target.factor > 0:
                name = str(target.name)
                targets.append(Resemblance("target", name, TARGETS[name], change))
                break
    if loss.audit.parameterization == "flow" and loss.audit.parameterization_factor > 0:
        runs_to_data = any(text in (loss.audit.time_name or "") for text in _TO_DATA)
        if loss.audit.time_sign > 0 and runs_to_data:
            targets.append(Resemblance("target", "flow", "x - eps", "the other sign", "eps - x"))
    meant = ("process", "the variance-preserving process", "alpha**2 + sigma**2 = 1")
    # A target of its own is that of an interpolant, which is no slip of another process.
    if loss.process.startswith(BUT_FOR) and (loss.audit.num_steps or loss.audit.parameterization):
        targets.append(Resemblance(*meant, loss.process.removeprefix(BUT_FOR)))
    elif loss.process == SUB_VP and loss.audit.num_steps:  # an SDE has no steps
        targets.append(Resemblance(*meant, "1 - ᾱ in place of its square root"))
    rest = [*_of_the_coefficient(loss), *_of_the_table(loss), *_of_the_levels(loss)]
    rest += [] if rest else _of_other_levels(loss)
    nearest = loss.audit.nearest_recipe

    def is_published(like: Resemblance) -> bool:  # by another formula, or divided by the density
        return nearest.is_equal or (like.part == "coefficient" and nearest.has_weighting)

    return targets + [like for like in rest if not (like.change and is_published(like))]


def _of_the_coefficient(loss: LossCurves) -> Iterator[Resemblance]:
    if (prediction := loss.audit.parameterization) is None:
        return
    if loss.fit("1", 0.0):
        edms = FAMILIES["EDM"].values() if loss.process.startswith(_EXPLODING) else ()
        if prediction == "x" and any(loss.has_density(edm.schedule) for edm in edms):
            lambda_ = "snr + 1/sigma_data**2"
            yield Resemblance("coefficient", "EDM", lambda_, _FORGOTTEN, "1")
        return
    if prediction in _CHOICES and loss.fit(_CHOICES[prediction], 0.0):
        return
    meant = [
        published
        for published in COEFFICIENTS
        if published.prediction == prediction and (loss.is_flow or published.name != _FLOW)
    ]
    # A sigmoid of log-SNR is a published weighting, whatever other formula equals it.
    is_sigmoid = any(loss.fit(formula, 0.0) for formula in ("1/(snr + g)", "snr/(snr + g)"))
    slips = [
        (re.sub(pattern, replacement, coefficient.formula), change, coefficient)
        for coefficient in meant
        for change, pattern, replacement in EDITS
        if re.search(pattern, coefficient.formula)
    ]
    other_targets = [
        (other, f"the weight for predicting {other.prediction}", coefficient)
        for coefficient in meant
        for other in COEFFICIENTS
        if coefficient.name == other.name
        and not is_sigmoid
        and coefficient != other
        and not coefficient.name.startswith("the plain")
    ]
    slips += [(other.formula, change, published) for other, change, published in other_targets]
    if prediction == "edm":  # the squared error of the denoiser is that of F over snr + S
        slips += [
            (f"{other.formula}/(snr + S)", f"{change}, before the denoiser's error", coefficient)
            for other, change, coefficient in other_targets
            if other.prediction in ("eps", "v")
        ]
    if prediction == "flow":
        slips.append(("1/sqrt(snr)", _SD3, Coefficient(_FLOW, "flow", "1")))
    for options in ([(item.formula, "", item) for item in meant], slips):
        fits = [loss.fit(formula, coefficient.least) for formula, _, coefficient in options]
        fitting = [(*fit, *option) for fit, option in zip(fits, options, strict=True) if fit]
        if fitting:
            _, g, formula, change, coefficient = min(
                fitting, key=lambda fit: fit[0] // MIN_GAIN + bool(re.search(r"\bg\b", fit[2]))
            )
            published, here = (loss.spelled(text, g) for text in (coefficient.formula, formula))
            yield Resemblance("coefficient", coefficient.name, published, change, here)
            return
    yield from _of_the_density(loss)


def _of_the_density(loss: LossCurves) -> Iterator[Resemblance]:
    """Compare the coefficient with the density of the levels, and with its inverse."""
    root = np.exp(loss.logsnr / 2)
    densities = {"log-SNR": loss.log_p}
    if loss.process.startswith(_EXPLODING):
        densities = {"ln sigma": loss.log_p, "sigma": loss.log_p + loss.logsnr / 2}
    elif loss.process == "rectified flow":  # t = 1/(1 + root)
        densities = {"t": loss.log_p + np.log((1 + root) ** 2 / root), **densities}
    for name, log_q in densities.items():
        if spread(log_q, loss.p) < NEAR:  # levels are drawn evenly
            return
        if spread(loss.log_c - log_q, loss.p) < _SAME_DENSITY:
            change = f"the density of {name} twice: drawn, and as a weight"
            plain = "a loss at drawn noise levels"
            yield Resemblance("coefficient", plain, "1", change, f"p({name})")
        elif name == "log-SNR" and loss.audit.verdict == "not monotone":  # nor is it even
            return
        elif spread(loss.log_c + log_q, loss.p) < _SAME_DENSITY:
            integral = f"an unweighted integral over {name}"
            yield Resemblance("coefficient", integral, f"1/p({name})", "", f"1/p({name})")


def _of_other_levels(loss: LossCurves) -> Iterator[Resemblance]:
    """Find a recipe with this coefficient for noise levels of another kind."""
    audit, levels = loss.audit, torch.from_numpy(loss.logsnr)
    if not (audit.parameterization == "flow" and audit.schedule) or loss.fit("1", 0.0):
        return
    kind, same = type(parse(Schedule, audit.schedule)), dict[str, type]()
    for name, recipe in FAMILIES["rectified flow"].items():
        log_k = recipe.coefficient_at(levels).log().numpy()
        if (
            isinstance(recipe.parameterization, FlowTarget)
            and spread(loss.log_c - log_k, loss.p) < SAME
        ):
            same[name] = type(recipe.schedule)
    if same and kind not in same.values():
        name = next(iter(same))
        published = code(RECIPES[name].schedule, has_defaults=True)
        yield Resemblance(
            "noise levels", name, published, "the weight of that recipe", audit.schedule
        )


def _of_the_table(loss: LossCurves) -> Iterator[Resemblance]:
    is_preserving = loss.process == "variance preserving"
    is_flow_path = loss.process == "rectified flow" and loss.audit.parameterization != "flow"
    if not (is_preserving or is_flow_path):
        return
    steps = np.arange(_NUM_STEPS) / _NUM_STEPS
    times = torch.linspace(1, 0, _NUM_STEPS + 1, dtype=torch.float64)
    for name in ("ddpm", "sd"):
        meant: Any = RECIPES[name].schedule
        num, betas = loss.audit.num_steps or _NUM_STEPS, (meant.beta_min, meant.beta_max)
        low, high = (beta * num / _NUM_STEPS for beta in betas)
        here = code(type(meant)(beta_min=low, beta_max=high))
        if num != _NUM_STEPS and here == loss.audit.schedule:
            change = f"the betas of {_NUM_STEPS:,} steps in a table of {num}"
            yield Resemblance("noise levels", name, code(meant), change, here)
            return
    for name in ("ddpm", "sd", "iddpm"):
        schedule = RECIPES[name].schedule
        if loss.has_density(schedule):
            return
        log_q = schedule.log_density(torch.from_numpy(-loss.logsnr)).numpy()
        if is_preserving and loss.has_log_density(
            log_q, -schedule.logsnr_max, -schedule.logsnr_min
        ):
            yield Resemblance("process", f"the recipe {name}", *_EXCHANGED)
            return
        logsnr = schedule.logsnr(times)
        log_alphas = -torch.nn.functional.logsigmoid(logsnr).diff()  # alphas of single steps
        levels = log_alphas - (-log_alphas.expm1()).log() if is_preserving else 2 * logsnr[:-1]
        ends = levels[0].item(), levels[-1].item()
        within = loss.logsnr.clip(*ends)
        log_q, _ = table_log_density(levels.numpy(), steps, 0 * steps, within)
        if loss.has_log_density(log_q, *ends):
            mistake = _ALPHAS if is_preserving else _ROOTS
            yield Resemblance("process", f"the recipe {name}", *mistake)
            return


def _of_the_levels(loss: LossCurves) -> Iterator[Resemblance]:
    flow = FAMILIES["rectified flow"]
    recipes = {name: r for name, r in RECIPES.items() if (name in flow) == loss.is_flow}
    is_published = any(loss.has_density(r.schedule) for r in recipes.values())
    if is_published or loss.audit.source != "measured":
        return
    for change, kind, parameters in _SCHEDULES:
        for name, recipe in recipes.items():
            if not isinstance(recipe.schedule, kind):
                continue
            try:
                edited = replace(recipe.schedule, **parameters(recipe.schedule))
            except ValueError:  # invalid parameters
                continue
            if edited != recipe.schedule and loss.has_density(edited):
                published, here = (
                    code(schedule, has_defaults=True) for schedule in (recipe.schedule, edited)
                )
                yield Resemblance("noise levels", name, published, change, here)
                return
