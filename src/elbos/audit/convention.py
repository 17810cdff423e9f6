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
formulas fits the samples, else interpolated between their noise levels. Log-SNR here is that of
$x$, also where that of the audit refers to scaled data.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from elbos.audit.arguments import Arguments, Slot
from elbos.audit.diagnostics import Encoded, InputPerturbation
from elbos.audit.measure import Samples
from elbos.base.arrays import Array
from elbos.base.conditions import Condition
from elbos.models.calls import ForeignNetwork, called, input_dtype, require_output
from elbos.theory.parameterizations import EDM, Parameterization, Score, V
from elbos.theory.process import align, alpha_sigma

_Formula = Callable[[Float[Array, " n"]], Float[Array, " n"]]

MAX_QUIET_ERROR = 0.02
_NUM_KNOTS = 4000
_MAX_ROUNDING = 1e-3  # of log-SNR, in float32, at the samples that are used
_MAX_SCATTER = 2e-3  # of a time: deviation of ranks from those of log-SNR, as a share
_MIN_TIMES = 8  # distinct values: of fewer, such as class labels, ties would look monotone
_MAX_ERROR = 2e-4  # of a formula: in log-SNR for a time, relative for a coefficient
_EPS = 4 * 6e-8  # rounding of an argument of the network, in float32
_END = 1e-4  # tolerance of log-SNR at the ends of the range, in float32


def _ones(logsnr: Float[Array, " n"]) -> Float[Array, " n"]:
    return np.ones_like(logsnr)


def _log_alpha(logsnr: Float[Array, " n"]) -> Float[Array, " n"]:
    return np.asarray(alpha_sigma(torch.from_numpy(logsnr))[0].log())


def _sigma_tilde(logsnr: Float[Array, " n"]) -> Float[Array, " n"]:
    return np.exp(-logsnr / 2)


def _flow_time(logsnr: Float[Array, " n"]) -> Float[Array, " n"]:
    return 1 / (1 + np.exp(logsnr / 2))


def _log_flow_alpha(logsnr: Float[Array, " n"]) -> Float[Array, " n"]:
    return -np.logaddexp(0, -logsnr / 2)


@dataclass(frozen=True)
class Curve:
    """A measured function of log-SNR.

    Attributes:
        f: The function.
        error: Its error: 0 for a formula; for an interpolation, the 99 % quantile of the errors at
            every other level, interpolated from the rest.
    """

    f: _Formula
    error: float = 0.0

    @classmethod
    def fitted(
        cls,
        logsnr: Float[Array, " k"],
        values: Float[Array, " k"],
        formulas: Sequence[_Formula],
        unit: Float[Array, " k"],
        rounding: Float[Array, " k"],
    ) -> "Curve":
        """Fit a function of log-SNR to measured values.

        The result is the first formula that equals the values up to a factor and a constant;
        otherwise an interpolation.

        Args:
            logsnr: Noise levels, increasing.
            values: The function at these levels.
            formulas: Candidates.
            unit: What errors are relative to.
            rounding: Rounding errors of the values.
        """
        admitted = _MAX_ERROR * unit + rounding
        for formula in formulas:
            basis = np.stack([formula(logsnr), _ones(logsnr)], 1) / admitted[:, None]
            (factor, constant), *_ = np.linalg.lstsq(basis, values / admitted, rcond=None)
            left = np.abs(factor * formula(logsnr) + constant - values)
            if (left < admitted).all():
                return cls(_affine(formula, factor, constant))
        coarse = PchipInterpolator(logsnr[::2], values[::2])
        inner = slice(1, len(logsnr) - 1, 2)
        error = np.abs(coarse(logsnr[inner]) - values[inner]) / unit[inner]
        return cls(PchipInterpolator(logsnr, values), float(np.quantile(error, 0.99)))


def _affine(formula: _Formula, factor: float, constant: float) -> _Formula:
    return lambda logsnr: factor * formula(logsnr) + constant


@dataclass(frozen=True)
class Convention:
    r"""Input scale, time input and regression target of a network as functions of log-SNR.

    Attributes:
        log_alpha: $\log\alpha'$, of the data in the input.
        a: Coefficient of the data in the target.
        b: Coefficient of the noise in the target.
        times: The arguments that are functions of log-SNR.
        constants: The other arguments that are not tensors, and tensors that are the same in all
            calls.
        conditions: The arguments that only `cond` can give.
        example: Arguments of a call of the loss.
        offset: $\mu$, added to the data.
        logsnr_min: The lowest log-SNR of the samples; $-\infty$ if all functions are formulas and
            the time is not a table's.
        logsnr_max: The highest log-SNR of the samples, or $\infty$.
    """

    log_alpha: Curve
    a: Curve
    b: Curve
    times: Mapping[Slot, Curve]
    constants: Mapping[Slot, Any]
    conditions: Sequence[Slot]
    example: Arguments
    offset: float
    logsnr_min: float = -math.inf
    logsnr_max: float = math.inf

    @property
    def error(self) -> float:
        """Largest interpolation error of the measured functions of log-SNR.

        0 if all functions are formulas. The error of a time is in log-SNR; that of a coefficient is
        relative.
        """
        return max(one.error for one in (self.log_alpha, self.a, self.b, *self.times.values()))

    @classmethod
    def from_samples(cls, samples: Samples, sigma_data: float | None) -> "Convention":
        """Determine the input scale, time input and target of a network from samples of its loss.

        Raises:
            ValueError: If the samples do not determine it; the message says why.
        """
        fatal = [one.text for one in samples.diagnostics if one.is_fatal]
        if fatal:
            raise ValueError(f"The loss determines no denoiser: {fatal[0]}")
        if any(isinstance(one, Encoded) for one in samples.diagnostics):
            raise ValueError(
                "The loss encodes or normalizes its data: probe the loss of the encoded data, "
                "which the denoiser takes."
            )
        if any(isinstance(one, InputPerturbation) for one in samples.diagnostics):
            raise ValueError(
                "The loss perturbs the input of its network: probe it without the perturbation."
            )
        if samples.example is None or samples.example.noisy is None:
            raise ValueError(
                "The network is not called with one tensor of the shape of the data: write a "
                "denoiser for it, a function (z, logsnr, cond) -> (x_hat, eps_hat)."
            )
        if samples.logsnr_error > 0:
            raise ValueError(
                "The noise of the loss is not among its random draws, so that its target is known "
                "roughly only: draw it by torch.randn."
            )
        logsnr = 2 * (samples.alpha / samples.sigma).log()
        kept = samples.logsnr.isfinite() & (samples.rounding < _MAX_ROUNDING)
        kept &= samples.coefficient != 0
        order = torch.argsort(logsnr[kept])
        scale = samples.process.scale

        def column(values: Tensor) -> Array:
            return values[kept][order].numpy()

        level = column(logsnr)
        inputs = {slot: column(values) for slot, values in samples.inputs.items()}
        is_constant = {slot: np.ptp(values) == 0 for slot, values in inputs.items()}
        times = [s for s, values in inputs.items() if not is_constant[s] and _is_time(values)]
        if not times:
            raise ValueError(
                "No argument of the network determines the noise level: the denoiser would not "
                "know what to pass."
            )
        knots = _knots(level, inputs[times[0]])

        at = level[knots]
        a, b = (column(one)[knots] for one in (scale * samples.a, samples.b))
        size, rounding = np.hypot(a, b), 2 * column(samples.rounding)[knots]
        shift = -2 * math.log(scale)  # to the log-SNR that the audit shows, of scaled data

        def scaled(formula: _Formula) -> _Formula:
            return lambda one: formula(one + shift)

        targets: list[Parameterization] = [V(), Score()]
        if sigma_data:
            targets.append(EDM(sigma_data=sigma_data))
        of_a, of_b = (
            [_ones, *(scaled(_coefficient(target, i)) for target in targets)] for i in (0, 1)
        )
        curves = {}
        for slot in times:
            values = inputs[slot][knots]
            slope = np.abs(np.gradient(values, at)).clip(1e-12)
            error = rounding * slope + _EPS * np.abs(values)
            formulas = [lambda one: one, _sigma_tilde, scaled(_flow_time)]
            curves[slot] = Curve.fitted(at, values, formulas, slope, error)
        log_alphas = [_ones, scaled(_log_alpha), scaled(_log_flow_alpha)]
        if sigma_data:
            variance = sigma_data**2
            log_alphas.append(scaled(lambda one: -np.log(variance + np.exp(-one)) / 2))
        others = {
            slot: value for slot, value in samples.example.others.items() if slot not in times
        }
        varying = dict.fromkeys(samples.example.varying)
        conditions = [
            slot
            for slot, value in others.items()
            if not is_constant.get(slot, False)
            and (_has_rows(value, samples.example.num) or slot in inputs | varying)
        ]
        log_alpha = column(samples.alpha.log())[knots]
        found = cls(
            log_alpha=Curve.fitted(at, log_alpha, log_alphas, _ones(at), rounding),
            a=Curve.fitted(at, a, of_a, size, rounding * size),
            b=Curve.fitted(at, b, of_b, size, rounding * size),
            times=curves,
            constants={slot: one for slot, one in others.items() if slot not in conditions},
            conditions=conditions,
            example=samples.example,
            offset=samples.data_offset,
        )
        is_table = len(knots) < len(level) / 2
        if found.error == 0 and not is_table:
            return found
        return replace(found, logsnr_min=float(at[0]), logsnr_max=float(at[-1]))


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


def _knots(logsnr: Float[Array, " n"], time: Float[Array, " n"]) -> NDArray[np.int64]:
    is_new = np.concatenate([[True], (np.diff(time) != 0) & (np.diff(logsnr) > 1e-9)])
    starts = np.flatnonzero(is_new)
    if len(starts) > _NUM_KNOTS:
        starts = starts[np.unique(np.linspace(0, len(starts) - 1, _NUM_KNOTS).astype(int))]
    return starts


def _shown(slot: Slot) -> str:
    return f"the positional argument {slot}" if isinstance(slot, int) else f"the argument {slot}"


def _has_rows(value: Any, num: int) -> bool:
    if isinstance(value, Mapping):
        return any(_has_rows(one, num) for one in value.values())
    if isinstance(value, list | tuple):
        return any(_has_rows(one, num) for one in value)
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == num


@dataclass(frozen=True)
class ConventionDenoiser:
    """A denoiser that calls a network in the same way as the training loss.

    Attributes:
        network: Called with the arguments that the loss gives it.
        convention: The convention of the loss.
        is_discrete: Whether times are rounded to whole numbers, for networks that look them up in a
            table. Default: fractional times, which networks embed by sines and cosines.
    """

    network: ForeignNetwork
    convention: Convention
    is_discrete: bool = False

    @property
    def logsnr_min(self) -> float:
        return self.convention.logsnr_min

    @property
    def logsnr_max(self) -> float:
        return self.convention.logsnr_max

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        r"""Estimate data and noise $(\hat x, \hat\epsilon)$ from noisy data `z`.

        Args:
            z: Noisy data of the variance-preserving process.
            logsnr: Log-SNR.
            cond: The arguments that the loss gives its network besides data and time: a dict by
                their names, or the value of the only one.

        Raises:
            ValueError: If `cond` lacks an argument, or a noise level is beyond those of the loss.
        """
        known = self.convention
        logsnr = logsnr.expand(len(z))
        self._require(logsnr)
        level = logsnr.detach().double().cpu().numpy()

        def at(values: Array) -> Tensor:
            return align(torch.from_numpy(np.asarray(values)).to(z.device), z)

        log_alpha = known.log_alpha.f(level)
        alpha, sigma = at(np.exp(log_alpha)), at(np.exp(log_alpha - level / 2))
        a, b = at(known.a.f(level)), at(known.b.f(level))
        vp_alpha, _ = alpha_sigma(at(level))
        z_in = (alpha / vp_alpha).to(z) * z + (alpha * known.offset).to(z)
        arguments = self._arguments(z_in, level, cond)
        num = sum(isinstance(slot, int) for slot in arguments)
        y = called(
            self.network,
            [arguments[i] for i in range(num)],
            {slot: value for slot, value in arguments.items() if isinstance(slot, str)},
        ).to(z.dtype)
        if y.shape[:1] == z.shape[:1] and y.shape[1] == 2 * z.shape[1]:  # with a variance
            y = y[:, : z.shape[1]]
        y = require_output(y, z, logsnr)
        det = a * sigma - b * alpha
        x_hat = (sigma / det).to(z) * y - (b / det).to(z) * z_in - known.offset
        eps_hat = (a / det).to(z) * z_in - (alpha / det).to(z) * y
        return x_hat, eps_hat

    def _require(self, logsnr: Float[Tensor, " b"]) -> None:
        low, high = torch.stack(torch.aminmax(logsnr)).tolist()
        if not (low >= self.logsnr_min - _END and high <= self.logsnr_max + _END):
            raise ValueError(
                f"log-SNR {high if high > self.logsnr_max else low:.4g} is outside of the noise "
                f"levels of the loss, {self.logsnr_min:.4g} to {self.logsnr_max:.4g}: give "
                "logsnr_min and logsnr_max within them."
            )

    def _given(self, cond: Condition) -> dict[Slot, Any]:
        if cond is None or isinstance(cond, Mapping):
            return dict(cond or {})
        known = self.convention
        free = [slot for slot, one in known.constants.items() if one is None]
        free += [slot for slot, one in known.constants.items() if _has_rows(one, known.example.num)]
        slots = known.conditions or free
        if len(slots) != 1:
            names = ", ".join(map(_shown, slots)) or "no argument besides data and time"
            raise ValueError(
                f"the loss gives its network {names}: give cond as a dict by name (or position)."
            )
        return {slots[0]: cond}

    def _arguments(
        self, z: Float[Tensor, "b *d"], level: Float[Array, " b"], cond: Condition
    ) -> dict[Slot, Any]:
        known, example = self.convention, self.convention.example
        dtype = input_dtype(self.network, z)
        assert example.noisy is not None
        found: dict[Slot, Any] = {example.noisy: z.to(dtype, copy=True)}
        for slot, curve in known.times.items():
            time, like = torch.from_numpy(np.asarray(curve.f(level))), example.others[slot]
            if self.is_discrete:
                time = time.round().long()
            elif like.is_floating_point() and dtype != torch.float64:
                time = time.to(like.dtype)
            else:
                time = time.to(dtype if dtype == torch.float64 else torch.float32)
            shape = like.shape[1:] if like.ndim else ()
            found[slot] = time.to(z.device).reshape(-1, *shape)
        for slot, value in known.constants.items():
            is_one_each = _has_rows(value, example.num) and isinstance(value, Tensor)
            found[slot] = value[:1].expand(len(z), *value.shape[1:]) if is_one_each else value
        given = self._given(cond)
        lacking = [_shown(slot) for slot in known.conditions if slot not in given]
        if lacking:
            raise ValueError(
                f"the loss gives its network {', '.join(lacking)}: give it as cond, or several in "
                "a dict by name (or position)."
            )
        return found | given
