r"""Names for the prediction type, the coefficient and the weighting of a measured loss.

Weightings matter only up to a constant factor. The distance of two weightings is the standard
deviation of the log of their ratio over the training noise levels (`Audit.distance`). A named
weighting with a parameter is compared at its published values and, if no published weighting
matches, at a fitted value.

If a loss is no likelihood objective, the nearest likelihood objective is the loss times
$\mathrm{Monotone}(w) / w$, the least factor that makes the weighting monotone.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.density.curves import spread
from elbos.audit.density.families import fit_family
from elbos.base.arrays import Array
from elbos.base.codec import parse
from elbos.theory import schedules, weightings
from elbos.theory.extrema import rising_intervals
from elbos.theory.formulas import evaluate
from elbos.theory.names import code
from elbos.theory.parameterizations import EDM, Eps, Flow, Parameterization, Score, V, X
from elbos.theory.recipes import FAMILIES, RECIPES
from elbos.theory.schedules import Cosine, Normal, StableDiffusion
from elbos.theory.weightings import Implied, Monotone, Weighting

MIN_GAIN = 0.005  # reduction of the distance that justifies one more parameter
SAME = 0.02  # distance up to which two curves count as equal
NEAR = 0.2  # distance beyond which a named weighting is not near
_NAMES = {Eps: "eps", X: "x", V: "v", Score: "score", Flow: "flow", EDM: "edm"}
_AT_BOUND = 0.02  # relative distance at which a fitted parameter counts as at its bound
_MAX_DIFFERENCE = 0.05  # between the log-factors of the named and the measured weighting
_MAX_LOG_FACTOR = 24.0  # larger only where the weight is almost 0
_MAX_LINE_ERROR = 5e-4  # error of the log-factor by linear interpolation


class Nearest(NamedTuple):
    """A known weighting and its distance from the audited weighting."""

    name: str  # Python code of the weighting, or the name of its recipe
    distance: float


class _Candidate(NamedTuple):
    distance: float
    name: str
    log_v: Array  # log of the weighting on the grid
    least: float  # smallest distance from other candidates


class Prediction(NamedTuple):
    """Prediction type and target scale of a network."""

    name: str | None  # eps, x, v, score, flow or edm; None for any other target
    factor: float = 1.0  # target divided by the named target; -1: opposite sign
    sigma_data: float | None = None  # only for EDM's target

    @classmethod
    def from_target(cls, y: Parameterization, factor: float = 1.0) -> "Prediction":
        return cls(_NAMES.get(type(y)), factor, y.sigma_data if isinstance(y, EDM) else None)


def prediction_of(
    logsnr: Float[Tensor, " n"], a: Float[Tensor, " n"], b: Float[Tensor, " n"], *, rtol: float
) -> Prediction:
    r"""Find the prediction type whose target is proportional to $a x + b\epsilon$ within `rtol`, if
    any.
    """
    zero, ratio = torch.zeros_like(logsnr), torch.exp(logsnr / 2)
    targets: list[Parameterization] = [Eps(), X(), V(), Flow(), Score()]
    candidates = [(Prediction.from_target(y), *y.coefficients(logsnr)) for y in targets]
    score = Prediction.from_target(Score())
    candidates += [(score, zero, -ratio), (score, zero, -(1 + ratio))]  # VE's, rectified flow's
    variance = (-b / ratio / a).median()
    if 0 < variance < math.inf:
        edm = EDM(sigma_data=float(f"{variance.sqrt().item():.4g}"))
        candidates.append((Prediction.from_target(edm), *edm.coefficients(logsnr)))
    for prediction, a_name, b_name in candidates:
        norm2 = a_name**2 + b_name**2
        factor = ((a * a_name + b * b_name) / norm2).median()
        error = torch.hypot(a - factor * a_name, b - factor * b_name)
        if torch.quantile(error / (factor.abs() * norm2.sqrt()), 0.9) < 5e-3 + 3 * rtol:
            rounded = float(f"{factor.item():.3g}")
            if abs(abs(rounded) - 1) < 0.2 * rtol:
                rounded = math.copysign(1.0, rounded)
            if prediction.name == "v" and rounded == -1:  # -v is EDM's target with sigma_data = 1
                return Prediction.from_target(EDM(sigma_data=1.0))
            return prediction._replace(factor=rounded)
    return Prediction(None)


_FAMILIES: list[tuple[Callable[..., Weighting], Any, Any]] = [
    # a weighting of given parameters, their first values, and their bounds
    (lambda k: weightings.Sigmoid(k=k), ((-2.0,), (2.0,)), ((-12, 12),)),
    (lambda rate: weightings.Exponential(rate=rate), ((0.5,),), ((-3, 3),)),
    (
        lambda m, s: weightings.EDM(mean=m, std=s),
        ((2.4, 2.4), (-2.4, 2.4), (0.8, 2.0)),
        ((-12, 12), (0.2, 6)),
    ),
    (lambda g: weightings.P2(gamma=g), ((1.0,),), ((0.05, 4),)),
    (lambda g: weightings.MinSNR(gamma=g), ((1.0,), (5.0,), (20.0,)), ((0.05, 500),)),
    (
        lambda g: Implied(Cosine(), Eps(), f"1/(snr + {g!r})"),  # soft Min-SNR
        ((1.0,), (4.0,), (20.0,)),
        ((0.05, 500),),
    ),
    (
        lambda m, s: Implied(Normal.logit_normal(mean=m, std=s), Flow()),
        ((0.0, 1.0), (1.0, 1.0), (-1.0, 1.0)),
        ((-6, 6), (0.1, 3)),
    ),
    (
        lambda g: Implied(StableDiffusion(), Eps(), f"min(snr, {g!r})/snr"),
        ((2.0,),),
        ((0.05, 500),),
    ),
    (lambda s: Implied(schedules.Flow(shift=s), Flow()), ((1 / 3,), (3.0,)), ((0.02, 50),)),
    (
        lambda m, b: Implied(schedules.Laplace(mean=m, scale=b), V()),
        tuple((m, b) for m in (-5.0, -2.0, 0.0, 2.0, 5.0) for b in (0.5, 2.0)),
        ((-8, 8), (0.1, 5)),
    ),
]


@functools.cache
def _published() -> dict[str, Weighting]:
    """Return the weighting of each recipe by its code if a closed form has it, else by its name.

    Of recipes with equal weightings the first counts.
    """
    edms = [
        weightings.EDM(mean=p.mean, std=p.std, sigma_data=y.sigma_data)
        for p, y in ((r.schedule, r.parameterization) for r in FAMILIES["EDM"].values())
        if isinstance(p, Normal) and isinstance(y, EDM)
    ]
    closed_forms = [
        *(weightings.ELBO(), weightings.Sigmoid(k=0.0), weightings.Sigmoid(k=2.0)),
        *(weightings.Exponential(), weightings.IDDPM(), weightings.P2(gamma=0.5), weightings.P2()),
        *(weightings.MinSNR(), *edms, Monotone(weightings.EDM())),
    ]
    grid = torch.linspace(-15, 15, 301, dtype=torch.float64)
    published: dict[str, Weighting] = {code(w): w for w in closed_forms}
    curves = [w(grid).log() for w in published.values()]
    for name, recipe in RECIPES.items():
        curve = recipe.weighting(grid).log()
        off = torch.stack(curves) - curve
        if ((off - off[:, :1]).nan_to_num().abs().amax(1) > 1e-6).all():
            published[name] = recipe.weighting
            curves.append(curve)
    return published


def nearest_weightings(
    logsnr: Float[Array, " g"], log_w: Float[Array, " g"], p: Float[Array, " g"]
) -> list[Nearest]:
    """Return known weightings by distance, without fitted ones that equal a published one."""
    is_used = p > 1e-6 * p.max()
    logsnr, log_w, p = logsnr[is_used], log_w[is_used], p[is_used] / p[is_used].sum()
    levels = torch.from_numpy(logsnr)

    def curve(weighting: Weighting) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(weighting(levels).numpy()))

    def distance_of(weighting: Weighting) -> float:
        return spread(log_w - curve(weighting), p)

    def candidates(weightings: Mapping[str, Weighting], least: float) -> list[_Candidate]:
        curves = ((name, curve(w)) for name, w in weightings.items())
        matches = [_Candidate(spread(log_w - log_v, p), n, log_v, least) for n, log_v in curves]
        return sorted(matches, key=attrgetter("distance"))

    matches, fitted = candidates(_published(), MIN_GAIN), dict[str, Weighting]()
    for build, starts, bounds in _FAMILIES if matches[0].distance > MIN_GAIN else ():
        start = min(starts, key=lambda theta: distance_of(build(*theta)))
        theta = fit_family(build, start, distance_of, bounds=bounds, max_calls=150)
        is_at_bound = any(
            abs(value - bound) < _AT_BOUND * abs(bound)
            for value, ends in zip(theta, bounds, strict=True)
            for bound in ends
        )
        if not is_at_bound:
            rounded = build(*(float(f"{value:.3g}") for value in theta))
            fitted[code(rounded)] = rounded
    matches += candidates(fitted, SAME)
    named: list[_Candidate] = []
    for candidate in matches:  # keep one name per curve, published names first
        # Curves at different distances are at least the difference apart.
        alike = (v.log_v for v in named if abs(candidate.distance - v.distance) <= candidate.least)
        if math.isfinite(candidate.distance) and all(
            spread(candidate.log_v - v, p) > candidate.least for v in alike
        ):
            named.append(candidate)
    named.sort(key=attrgetter("distance"))
    return [Nearest(candidate.name, candidate.distance) for candidate in named]


TIME = ", t = 1/(1 + sqrt(snr))"  # follows formulas in the time of rectified flow
_FORMULAS = (  # in snr, t and a parameter g; the first that fits is the name
    *("1", "snr", "1/snr", "sqrt(snr)", "1/sqrt(snr)", "snr + 1", "1/(snr + 1)"),
    *("snr/(snr + 1)", "(snr + 1)/snr", "snr**2", "min(snr, g)", "max(snr, g)", "min(snr, g)/snr"),
    *("max(snr, g)/snr", "min(snr, g)/(snr + 1)", "max(snr, g)/(snr + 1)", "min(snr, g)/snr + 1"),
    *("min(snr + 1, g)/(snr + 1)", "min(sqrt(snr), g)/sqrt(snr)", "min(sqrt(snr), g)"),
    *("min(1/snr, g)", "snr + g", "t**2", "1/t**2", "(1 - t)**2", "1/(1 - t)**2", "t", "1/t"),
    *("(1 - t)", "1/(1 - t)", "1/(snr + g)", "snr/(snr + g)", "1/max(t, g)", "1/max(t, g)**2"),
    *("t*(1 - t)", "1/(1 - 2*t + 2*t**2)"),
    "exp(-2*(t - 1/2)**2) - exp(-1/2)",
)


def _log_value(formula: str, snr: Array, g: float | Float[Array, "m 1"] = 1.0) -> Array:
    root = np.sqrt(snr)
    functions = {"min": np.minimum, "max": np.maximum, "sqrt": np.sqrt, "exp": np.exp}
    names = {**functions, "snr": snr, "g": g, "t": 1 / (1 + root), "1 - t": root / (1 + root)}
    with np.errstate(divide="ignore", over="ignore"):  # some formulas are 0 at extreme SNR
        return np.asarray(np.log(evaluate(formula, names) * np.ones_like(snr)))


def coefficient_name(
    logsnr: Float[Array, " g"], log_c: Float[Array, " g"], p: Float[Array, " g"]
) -> str | None:
    """Find a known formula for a loss coefficient as a function of SNR."""
    best: tuple[float, str] = (SAME, "")
    for formula in _FORMULAS:
        d, g = fit_formula(formula, logsnr, log_c, p)
        if d < best[0] - (MIN_GAIN if best[1] else 0):
            best = d, re.sub(r"\bg\b", f"{g:g}", formula)
    return best[1] + (TIME if re.search(r"\bt\b", best[1]) else "") or None


def fit_formula(
    formula: str, logsnr: Float[Array, " g"], log_c: Float[Array, " g"], p: Float[Array, " g"]
) -> tuple[float, float]:
    """Fit the parameter g of a formula in the SNR; return the distance, infinite for a 0, and g."""
    is_used = p > 1e-6 * p.max()
    snr, log_c, p = np.exp(logsnr[is_used]), log_c[is_used], p[is_used] / p[is_used].sum()
    if not np.isfinite(log_c).all():
        return math.inf, 1.0

    def distance_at(g: float) -> float:
        return spread(log_c - _log_value(formula, snr, g), p)

    if not re.search(r"\bg\b", formula):
        return distance_at(1.0), 1.0
    starts = np.arange(-4, 7, 0.1)  # initial values of log g
    with np.errstate(invalid="ignore"):  # some powers exceed float64
        difference = log_c - _log_value(formula, snr, np.exp(starts)[:, None])
        distances = (difference - (difference @ p)[:, None]) ** 2 @ p
    start = starts[int(np.nan_to_num(distances, nan=math.inf).argmin())]
    minimum = scipy.optimize.minimize_scalar(
        lambda log_g: distance_at(math.exp(log_g)),
        bounds=(start - 0.1, start + 0.1),
        method="bounded",
    )
    g = float(f"{math.exp(minimum.x):.3g}")
    return distance_at(g), g


# --- the nearest likelihood objective ------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MonotoneFactor:
    """Factor on the loss that makes the weighting monotone."""

    name: str | None  # Python code of the loss's weighting
    end: float  # log-SNR above which the factor is 1
    at: Float[Array, " k"]  # log-SNRs between which `log_factor` is linear, if there is no name
    log_factor: Float[Array, " k"]

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        if self.name is not None:
            w: Weighting = parse(Weighting, self.name)
            return Monotone(w)(logsnr) / w(logsnr)
        at, log_factor = logsnr.new_tensor(self.at), logsnr.new_tensor(self.log_factor)
        i = torch.searchsorted(at, logsnr.contiguous()).clamp(1, len(at) - 1)
        share = ((logsnr - at[i - 1]) / (at[i] - at[i - 1])).clamp(0, 1)
        return torch.exp(log_factor[i - 1] + share * (log_factor[i] - log_factor[i - 1]))

    @property
    def code(self) -> str:
        """Python code that computes the loss factor from log-SNR."""
        if self.name is not None:
            w: Weighting = parse(Weighting, self.name)
            name = code(w, has_defaults=True, has_modules=True)
            modules = sorted({"weightings", *re.findall(r"(\w+)\.[A-Z]", name)})
            return _NAMED_CODE.format(modules=", ".join(modules), name=name)
        return _TABLE_CODE.format(
            at=", ".join(f"{value:.3f}" for value in self.at),
            log_factor=", ".join(f"{value:.4f}" for value in self.log_factor),
        )


def monotone_weight(
    logsnr: Float[Tensor, " g"], weight: Float[Tensor, " g"], rising: list[tuple[float, float]]
) -> Float[Tensor, " g"]:
    """Compute the smallest curve nowhere below the weighting that does not increase on `rising`."""
    lifted = weight
    for start, end in rising:
        first, after = torch.searchsorted(logsnr, logsnr.new_tensor([start, end]))
        top = weight[first : after + 1].max()  # the maximum may lie between grid points
        lifted = torch.where(logsnr <= end, lifted.clamp(min=top), lifted)
    return lifted


def find_factor(
    logsnr: Float[Tensor, " g"],
    weight: Float[Tensor, " g"],
    weight_error: Float[Tensor, " g"],
    rising: list[tuple[float, float]],
    nearest: Nearest,
) -> MonotoneFactor | None:
    """Find the factor that makes a weighting monotone; None if it is 1 everywhere or infinite
    somewhere.
    """
    log_factor = (monotone_weight(logsnr, weight, rising) / weight).log()
    if not rising or log_factor.max() > _MAX_LOG_FACTOR:
        return None
    end = rising[-1][1]
    if nearest.distance < SAME:
        w: Weighting = parse(Weighting, nearest.name)
        rises = rising_intervals(w, logsnr[0].item(), logsnr[-1].item())
        off = ((Monotone(w)(logsnr) / w(logsnr)).log() - log_factor).abs()
        if rises and (off < _MAX_DIFFERENCE + 3 * weight_error).all():
            return MonotoneFactor(nearest.name, max(end, rises[-1][1]), np.empty(0), np.empty(0))
    is_needed = logsnr < end
    at = np.append(logsnr[is_needed].numpy(), end)
    values = np.append(log_factor[is_needed].numpy(), 0.0)
    corners = _corners(at, values)
    return MonotoneFactor(None, end, at[corners], values[corners])


def _corners(x: Array, y: Array) -> list[int]:
    first, last = 0, len(x) - 1
    distance = np.abs(y - np.interp(x, x[[first, last]], y[[first, last]]))
    middle = int(distance.argmax())
    if distance[middle] < _MAX_LINE_ERROR:
        return [first, last]
    rest = _corners(x[middle:], y[middle:])
    return [*_corners(x[: middle + 1], y[: middle + 1])[:-1], *(middle + i for i in rest)]


_NAMED_CODE = """\
from elbos import {modules}

w = {name}
monotone = weightings.Monotone(w)

def monotone_factor(logsnr):  # [batch], log(alpha**2 / sigma**2)
    return monotone(logsnr) / w(logsnr)

# loss per sample: loss = loss * monotone_factor(logsnr)
"""
_TABLE_CODE = """\
import torch

def monotone_factor(logsnr):  # [batch], log(alpha**2 / sigma**2)
    at = logsnr.new_tensor([{at}])
    log_factor = logsnr.new_tensor([{log_factor}])
    i = torch.searchsorted(at, logsnr.contiguous()).clamp(1, len(at) - 1)
    share = ((logsnr - at[i - 1]) / (at[i] - at[i - 1])).clamp(0, 1)
    return torch.exp(log_factor[i - 1] + share * (log_factor[i] - log_factor[i - 1]))

# loss per sample: loss = loss * monotone_factor(logsnr)
"""
