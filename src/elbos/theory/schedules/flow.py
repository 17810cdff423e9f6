r"""Closed forms in the times of rectified flow, $z = (1 - \tau)x + \tau\epsilon$.

$$\lambda = 2\ln\frac{1 - \tau}{\tau}, \qquad \tau = \mathrm{sigmoid}(-\lambda/2), \qquad
  p(\lambda) = \pi(\tau)\,\tfrac12\tau(1 - \tau)$$

where $\pi$ is the density of $\tau$. Logit-normal times are `Normal.logit_normal`.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.base.checks import require_positive
from elbos.theory.schedules.inverse import invert
from elbos.theory.schedules.schedule import Schedule

_NODES, _WEIGHTS = map(torch.from_numpy, np.polynomial.legendre.leggauss(8))  # quadrature
_REACH, _STEP = 100.0, 0.125  # range and step of the log-SNR grid on which Beta is integrated


def _log_speed(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""Return $\ln|d\tau/d\lambda| = \ln\tfrac12\tau(1 - \tau)$ for the flow time $\tau$."""
    return logsigmoid(logsnr / 2) + logsigmoid(-logsnr / 2) - math.log(2)


@dataclass(frozen=True, kw_only=True)
class Flow(Schedule):
    r"""Uniform times on the rectified-flow path, $\lambda = 2\ln\frac{1-t}{t} - 2\ln s$.

    Attributes:
        shift: Time shift $s > 0$, $t' = st/(1 + (s-1)t)$; above 1 it moves mass to noise. Default
            1: no shift.

    References:
        Lipman et al. (2023), https://arxiv.org/abs/2210.02747; shift: Esser et al. (2024),
        https://arxiv.org/abs/2403.03206
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        require_positive(shift=self.shift)
        super().__post_init__()

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -2 * torch.logit(t) - 2 * math.log(self.shift)

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.sigmoid(-logsnr / 2 - math.log(self.shift))

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _log_speed(logsnr + 2 * math.log(self.shift))


@dataclass(frozen=True, kw_only=True)
class Beta(Schedule):
    r"""Beta-distributed times on the rectified-flow path, $\tau \sim \mathrm{Beta}(a, b)$.

    $$p(\lambda) = \frac{\tau^a (1 - \tau)^b}{2\,\mathrm B(a, b)}.$$

    The velocity loss then has $w \propto \tau^a(1 - \tau)^{b - 2}$, monotone if and only if
    $b \le 2$. The distribution function is integrated by Gauss and Legendre's rule, to 1e-13.

    Attributes:
        a: $a > 0$; larger moves mass to noise. Default: that of pi0.
        b: $b > 0$; larger moves mass to data. Default: that of pi0.

    References:
        Black et al. (2024), https://arxiv.org/abs/2410.24164
    """

    a: float = 1.5
    b: float = 1.0

    def __post_init__(self) -> None:
        require_positive(a=self.a, b=self.b)
        super().__post_init__()

    @cached_property
    def _knots(self) -> Float[Tensor, " knots"]:
        num = round(2 * _REACH / _STEP) + 1
        return torch.linspace(_REACH, -_REACH, num, dtype=torch.float64)

    @cached_property
    def _times(self) -> Float[Tensor, " knots"]:
        first = self._log_density(self._knots[:1]).exp() * 2 / self.a  # the tail is exponential
        pieces = self._integral(self._knots[1:], self._knots[:-1])
        return torch.cat([first, first + pieces.cumsum(0)]).clamp(max=1.0)

    def _integral(self, low: Float[Tensor, "*b"], high: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        half = (high - low)[..., None] / 2
        p = self._log_density(low[..., None] + half * (_NODES.to(low) + 1)).exp()
        return (half * _WEIGHTS.to(low) * p).sum(-1)

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        times, knots = self._times.to(t), self._knots.to(t)
        i = torch.searchsorted(times, t.contiguous()).clamp(1, len(times) - 1)
        start, high = times[i - 1], knots[i - 1]

        def minus_time(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
            return -start - self._integral(logsnr, high)

        def density(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
            return self._log_density(logsnr).exp()

        return invert(minus_time, density, -t, knots[i], high, 12)

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        logsnr = logsnr.clamp(-_REACH, _REACH)
        i = ((_REACH - logsnr.detach()) / _STEP).long().clamp(0, len(self._knots) - 2)
        return self._times.to(logsnr)[i] + self._integral(logsnr, self._knots.to(logsnr)[i])

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        log_total = math.lgamma(self.a) + math.lgamma(self.b) - math.lgamma(self.a + self.b)
        shape = self.a * logsigmoid(-logsnr / 2) + self.b * logsigmoid(logsnr / 2)
        return shape - log_total - math.log(2)


@dataclass(frozen=True, kw_only=True)
class Mode(Schedule):
    r"""Stable Diffusion 3's mode sampling on the rectified-flow path.

    The times are heavy-tailed:

    $$\tau = t - s\,(\sin^2(\pi t/2) - t), \qquad
      \pi(\tau) = \frac1{1 + s - \tfrac{\pi s}2\sin\pi t}.$$

    Attributes:
        scale: $s$ in $[-1, 2/(\pi - 2))$, below 1.752; above 0 most times are near the middle, more
            and more of them. Default: the paper's best.

    References:
        Esser et al. (2024), https://arxiv.org/abs/2403.03206
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        if not -1 <= self.scale < 2 / (math.pi - 2):
            raise ValueError(f"scale is {self.scale}: give a number from -1, below 1.752.")
        super().__post_init__()

    def _flow_time(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return t - self.scale * (torch.sin(torch.pi / 2 * t) ** 2 - t)

    def _slope(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return 1 + self.scale - torch.pi / 2 * self.scale * torch.sin(torch.pi * t)

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -2 * torch.logit(self._flow_time(t))

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        tau = torch.sigmoid(-logsnr / 2)
        zero, ones = torch.zeros_like(tau), torch.ones_like(tau)
        return invert(self._flow_time, self._slope, tau, zero, ones, 24)

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _log_speed(logsnr) - self._slope(self._time(logsnr)).log()


@dataclass(frozen=True, kw_only=True)
class UShape(Schedule):
    r"""U-shaped density of times on the rectified-flow path, $\pi(\tau) \propto e^{a\tau} + e^{a(1
    - \tau)}$.

    $$t = \tfrac12 + \frac{\sinh a(\tau - \frac12)}{2\sinh\frac a2}.$$

    Attributes:
        rate: $a > 0$; larger moves mass to both ends. Default: the paper's.

    References:
        Lee et al. (2024), https://arxiv.org/abs/2405.20320
    """

    rate: float = 4.0

    def __post_init__(self) -> None:
        require_positive(rate=self.rate)
        super().__post_init__()

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        tau = 0.5 + torch.asinh((2 * t - 1) * math.sinh(self.rate / 2)) / self.rate
        return -2 * torch.logit(tau)

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        tau = torch.sigmoid(-logsnr / 2)  # the difference of sinh loses digits where it is small
        rise = torch.expm1(self.rate * tau) - math.exp(self.rate) * torch.expm1(-self.rate * tau)
        return rise / (2 * math.expm1(self.rate))

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        u = self.rate * (torch.sigmoid(-logsnr / 2) - 0.5)
        height = math.log(self.rate / (2 * math.sinh(self.rate / 2)))
        return torch.log(torch.cosh(u)) + height + _log_speed(logsnr)
