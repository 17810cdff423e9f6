r"""Denoiser for any network, built from the input scale, time and target measured in its training
loss.

A loss calls its network with $z' = \alpha' (x + \mu) + \sigma'\epsilon$, a time and conditions, and
regresses $y = a\,(x + \mu) + b\,\epsilon$. An audit measures $\alpha', \sigma', a, b$ and the time
at every noise level. With $\lambda = \log(\alpha'^2/\sigma'^2)$, the variance-preserving pair
$(\alpha, \sigma)$ at $\lambda$, and $z = \alpha x + \sigma\epsilon$,

$$z' = \frac{\alpha'}{\alpha}\,z + \alpha'\mu, \qquad
  \hat x = \frac{\sigma' \hat y - b z'}{a\sigma' - b\alpha'} - \mu, \qquad
  \hat\epsilon = \frac{a z' - \alpha' \hat y}{a\sigma' - b\alpha'}.$$

$\log\alpha'$, $a$, $b$ and the time are functions of $\lambda$: a formula where one of the usual
formulas fits the samples, else interpolated between their noise levels. A table's time is linear
in log-SNR between its steps, which are all that the network was trained on. Log-SNR here is that
of $x$, also where that of the audit refers to scaled data.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.calls.arguments import Arguments, Slot, has_rows
from elbos.audit.diagnostics import Encoded, InputPerturbation, NoiseUnseen
from elbos.audit.probing.measure import Samples
from elbos.base.arrays import Array
from elbos.theory.parameterizations import EDM, Parameterization, Score, V

_Formula = Callable[[Float[Array, " n"]], Float[Array, " n"]]

MAX_QUIET_ERROR = 0.02
_NUM_KNOTS = 4000
_MAX_ROUNDING = 1e-3  # rounding of log-SNR in float32 at the samples that are used
_MAX_SCATTER = 2e-3  # deviation of a time's ranks from those of log-SNR, as a share
_MIN_TIMES = 8  # distinct values: of fewer, such as class labels, ties would look monotone
_MAX_ERROR = 2e-4  # error of a formula: in log-SNR for a time, relative for a coefficient
_MAX_SHIFT = 100  # and least 1/100
_MAX_LEFT_OUT = 0.02  # share of a cosine's times that a loss may leave out
_MIN_RANGE = 5  # log-SNR that a formula has to fit to be used beyond the samples
_EPS = 4 * 6e-8  # rounding of an argument of the network, in float32


_TIMES: list[_Formula] = [  # ln(sigma/alpha), sigma/alpha, times of rectified flow, of the cosine
    lambda logsnr: -logsnr / 2,
    lambda logsnr: np.exp(-logsnr / 2),
    lambda logsnr: scipy.special.expit(-logsnr / 2),
    lambda logsnr: np.arctan(np.exp(-logsnr / 2)) * 2 / math.pi,
]
_LOG_ALPHAS: list[_Formula] = [  # variance exploding, variance preserving, rectified flow
    np.ones_like,
    lambda logsnr: scipy.special.log_expit(logsnr) / 2,
    lambda logsnr: scipy.special.log_expit(logsnr / 2),
]


@dataclass(frozen=True)
class Curve:
    f: _Formula
    number: int = -1  # number of the formula; -1 for an interpolation
    factor: float = 1.0
    constant: float = 0.0
    error: float = 0.0  # 99 % quantile at every other level, interpolated from the rest

    def __call__(self, logsnr: Float[Array, " n"]) -> Float[Array, " n"]:
        return self.factor * self.f(logsnr) + self.constant

    @classmethod
    def fitted(
        cls,
        logsnr: Float[Array, " k"],
        values: Float[Array, " k"],
        formulas: Iterable[_Formula],
        unit: Float[Array, " k"],
        rounding: Float[Array, " k"],
    ) -> "Curve":
        """Fit the first formula that equals the values up to a factor and a constant, in errors
        relative to `unit` and beyond the rounding; otherwise an interpolation.
        """
        admitted = _MAX_ERROR * unit + rounding
        for i, formula in enumerate(formulas):
            basis = np.stack([formula(logsnr), np.ones_like(logsnr)], 1) / admitted[:, None]
            (factor, constant), *_ = np.linalg.lstsq(basis, values / admitted, rcond=None)
            left = np.abs(factor * formula(logsnr) + constant - values)
            if (left < admitted).all():
                return cls(formula, i, factor, constant)
        interpolate = scipy.interpolate.PchipInterpolator
        coarse = interpolate(logsnr[::2], values[::2])
        inner = slice(1, len(logsnr) - 1, 2)
        error = np.abs(coarse(logsnr[inner]) - values[inner]) / unit[inner]
        return cls(interpolate(logsnr, values), error=float(np.quantile(error, 0.99)))


@dataclass(frozen=True, kw_only=True, repr=False)
class Convention(Parameterization):
    r"""Input scale, time input and regression target of a network as functions of log-SNR.

    The ends of log-SNR are those of the samples; infinite if all functions are formulas, the time
    is not a table's, and the samples span a wide range.
    """

    log_alpha: Curve  # log of the coefficient of the data in the input
    a: Curve  # coefficient of the data in the target
    b: Curve  # coefficient of the noise in the target
    times: Mapping[Slot, Curve]  # the arguments that are functions of log-SNR
    constants: Mapping[Slot, Any]  # arguments that are the same in all calls, or are no tensors
    conditions: Sequence[Slot]  # the arguments that only `cond` can give
    example: Arguments  # arguments of one call of the network
    offset: float  # added to the data
    time_name: str  # what the network is given for the noise level
    logsnr_min: float = -math.inf
    logsnr_max: float = math.inf

    @property
    def error(self) -> float:
        """Largest interpolation error: of a time in log-SNR, of a coefficient relative; 0 for
        formulas.
        """
        return max(curve.error for curve in (self.log_alpha, self.a, self.b, *self.times.values()))

    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        level = logsnr.detach().double().cpu().numpy()
        a, b = (torch.from_numpy(curve(level)) for curve in (self.a, self.b))
        return a.to(logsnr), b.to(logsnr)

    def __repr__(self) -> str:
        ends = f"{self.logsnr_min:.4g} to {self.logsnr_max:.4g}"
        return f"Convention(time: {self.time_name}; log-SNR: {ends}; error: {self.error:.2g})"

    @classmethod
    def from_samples(cls, samples: Samples, sigma_data: float | None) -> "Convention":
        """Determine the input scale, time input and target of a network from samples of its loss.

        Raises:
            ValueError: If the samples do not determine it; the message says why.
        """
        fatal = [item.text for item in samples.diagnostics if item.is_fatal]
        if fatal:
            raise ValueError(f"The loss determines no denoiser: {fatal[0]}")
        kinds = {type(item) for item in samples.diagnostics}
        if Encoded in kinds:
            raise ValueError("The loss encodes or normalizes its data: probe it on encoded data.")
        if InputPerturbation in kinds:
            raise ValueError("The loss perturbs the input of its network: probe it without that.")
        if samples.example is None or samples.example.noisy is None:
            raise ValueError(
                "The network is not called with one tensor of the shape of the data: write the "
                "function (z, logsnr, cond) -> (x_hat, eps_hat)."
            )
        if NoiseUnseen in kinds:
            raise ValueError(
                "The noise of the loss is not among its random draws: draw it by torch.randn."
            )
        logsnr = 2 * (samples.alpha / samples.sigma).log()
        is_used = samples.logsnr.isfinite() & (samples.rounding < _MAX_ROUNDING)
        is_used &= samples.coefficient != 0
        order = torch.argsort(logsnr[is_used])
        scale = samples.process.scale

        def column(values: Tensor) -> Array:
            return values[is_used][order].numpy()

        level = column(logsnr)
        inputs = {slot: column(values) for slot, values in samples.inputs.items()}
        is_constant = {slot: np.ptp(values) == 0 for slot, values in inputs.items()}
        times = [s for s, values in inputs.items() if not is_constant[s] and _is_time(values)]
        if not times:
            raise ValueError("No argument of the network determines the noise level.")
        is_new = (np.diff(inputs[times[0]]) != 0) & (np.diff(level) > 1e-9)
        knots = np.flatnonzero(np.concatenate([[True], is_new]))  # first sample at each level
        is_table = len(knots) < len(level) / 2
        if len(knots) > _NUM_KNOTS:
            knots = knots[np.unique(np.linspace(0, len(knots) - 1, _NUM_KNOTS).astype(int))]

        at = level[knots]
        a, b = (column(item)[knots] for item in (scale * samples.a, samples.b))
        size, rounding = np.hypot(a, b), 2 * column(samples.rounding)[knots]
        shift = -2 * math.log(scale)  # the audit shows the log-SNR of scaled data

        def scaled(formula: _Formula) -> _Formula:
            return lambda item: formula(item + shift)

        targets: list[Parameterization] = [V(), Score()]
        targets += [EDM(sigma_data=sigma_data)] if sigma_data else []
        of_a: list[_Formula] = [np.ones_like, *(scaled(_coefficient(y, 0)) for y in targets)]
        of_b: list[_Formula] = [np.ones_like, *(scaled(_coefficient(y, 1)) for y in targets)]
        curves, names = {}, []
        for slot in times:
            values = inputs[slot][knots]
            steps = np.diff(values) / max(np.abs(np.diff(values)).min(), 1e-12)
            if is_table and np.abs(steps - steps.round()).max() < 1e-3:
                # A table's time is linear between its steps, as in `elbos.adapters.diffusers`.
                time_at: Any = partial(np.interp, xp=at, fp=values)
                curves[slot] = Curve(time_at)
                ends = "noise to data" if values[0] < values[-1] else "data to noise"
                every = samples.inputs[slot]  # includes pure noise and clean data
                names.append(f"steps {every.min():g} to {every.max():g} of a table, {ends}")
                continue
            slope = np.abs(np.gradient(values, at)).clip(1e-12)
            error = rounding * slope + _EPS * np.abs(values)
            curves[slot] = Curve.fitted(at, values, map(scaled, _TIMES), slope, error)
            error += _MAX_ERROR * slope
            names.append(_time_name(curves[slot], at + shift, values, error))
        log_alphas = [*map(scaled, _LOG_ALPHAS)]
        if sigma_data:
            variance = sigma_data**2
            log_alphas.append(scaled(lambda item: -np.log(variance + np.exp(-item)) / 2))
        constants = {
            slot: value for slot, value in samples.example.rest.items() if slot not in times
        }
        varying = dict.fromkeys(samples.example.varying)
        conditions = [
            slot
            for slot, value in constants.items()
            if not is_constant.get(slot, False)
            and (has_rows(value, samples.example.num) or slot in inputs | varying)
        ]
        log_alpha = column(samples.alpha.log())[knots]
        convention = cls(
            log_alpha=Curve.fitted(at, log_alpha, log_alphas, np.ones_like(at), rounding),
            a=Curve.fitted(at, a, of_a, size, rounding * size),
            b=Curve.fitted(at, b, of_b, size, rounding * size),
            times=curves,
            constants={slot: item for slot, item in constants.items() if slot not in conditions},
            conditions=conditions,
            example=samples.example,
            offset=samples.data_offset,
            time_name=" and ".join(names),
        )
        if convention.error == 0 and not is_table and np.ptp(at) > _MIN_RANGE:
            return convention
        return replace(convention, logsnr_min=float(at[0]), logsnr_max=float(at[-1]))


def _time_name(
    curve: Curve,
    logsnr: Float[Array, " k"],
    values: Float[Array, " k"],
    admitted: Float[Array, " k"],
) -> str:
    i, factor, constant = curve.number, curve.factor, curve.constant
    if i == 3:  # the cosine's time, of which trainers leave out the end
        unit, start = (1000.0 if abs(factor) > 500 else 1.0), (0.0 if factor > 0 else 1.0)
        if max(abs(abs(factor) - unit), abs(constant - start * unit)) < _MAX_LEFT_OUT * unit:
            name = "u" if factor > 0 else "(1 - u)"
            return f"{_multiple(unit, name)}, where alpha = cos(pi u/2)"
    elif i >= 0:
        name = ("ln(sigma)", "sigma", "t")[i]  # sigma of alpha = 1
        if i == 0 and factor < 0:
            name, factor = "log-SNR", -factor / 2
        if i == 2 and abs(constant + factor) < 1e-3 * abs(factor):  # time from noise to data
            name, factor, constant = "(1 - t)", -factor, 0.0
        is_shifted = abs(constant) > 1e-3 * np.ptp(values)
        return _multiple(factor, name) + (f" {constant:+.3g}" if is_shifted else "")
    # A time u before its shift: t = s u/(1 + (s - 1) u), so that v = k u is linear in t and t v.
    expit = scipy.special.expit
    for name, t in (("t", expit(-logsnr / 2)), ("1 - t", expit(logsnr / 2))):
        (first, second), *_ = np.linalg.lstsq(np.stack([t, t * values], 1), values, rcond=None)
        off = np.abs(first * t / (1 - second * t) - values) / admitted
        s = 1 / (1 - second)
        if 1 / _MAX_SHIFT < s < _MAX_SHIFT and np.quantile(off, 0.99) < 3:
            if abs(s - 1) < 1e-3:
                return _multiple(first * s, name if name == "t" else f"({name})")
            shift = f"{s:.4g}u/(1 {'+' if s > 1 else '-'} {abs(s - 1):.4g}u)".replace(" 1u", " u")
            return f"{_multiple(first * s, 'u')}, where {name} = {shift}"
    return " to ".join(f"{values[i]:.3g} at log-SNR {logsnr[i]:.1f}" for i in (0, -1))


def _multiple(factor: float, name: str) -> str:
    factor = float(f"{factor:.4g}")
    if factor == 1:
        return name[1:-1] if name[0] == "(" else name
    sign, inverse = "-" * (factor < 0), abs(1 / factor)
    if inverse == round(inverse):
        return f"{sign}{name}" + (f"/{inverse:g}" if inverse > 1 else "")
    return f"{factor:g} {name}"


def _coefficient(target: Parameterization, i: int) -> _Formula:
    def formula(logsnr: Float[Array, " n"]) -> Float[Array, " n"]:
        return np.asarray(target.coefficients(torch.from_numpy(logsnr))[i])

    return formula


def _is_time(values: Float[Array, " n"]) -> bool:
    ranks = np.argsort(np.argsort(values, kind="stable")) / len(values)
    place = np.arange(len(values)) / len(values)
    num_distinct = len(np.unique(values))
    off = min(np.median(np.abs(ranks - place)), np.median(np.abs(ranks[::-1] - place)))
    return bool(num_distinct >= _MIN_TIMES and off < _MAX_SCATTER + 1 / num_distinct)
