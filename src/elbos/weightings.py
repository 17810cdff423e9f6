r"""Weightings $w(\lambda)$ of the diffusion loss.

$$L_w(x) = \tfrac12 \int_{\lambda_\min}^{\lambda_\max} w(\lambda)\,
  \mathbb E\|\hat\epsilon - \epsilon\|^2\, d\lambda.$$

The weighting alone says what is optimized. If it never increases with $\lambda$, $L_w$ is a
maximum-likelihood objective: the ELBO of data with Gaussian noise added, at noise levels
distributed with density $-w'$. Constant factors do not matter and are dropped. `recipes` derives
each of these from what a published method samples, predicts and multiplies its loss with; here are
the closed forms.

A new weighting is a frozen dataclass with one method, or any callable from log-SNR to weight. A
configuration holds neither: `tabulated` makes numbers of it, with which a run is trained.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

import abc
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.checks import require_positive
from elbos.extrema import rising_intervals
from elbos.schedules import DDPM as DDPMSchedule

WeightFunction = Callable[[Tensor], Tensor]


def sech_half(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    r"""$\mathrm{sech}(\lambda/2)$, through `logsigmoid`, since `1 / cosh` overflows."""
    return 2 * torch.exp((logsigmoid(logsnr) + logsigmoid(-logsnr)) / 2)


class Weighting(abc.ABC):
    r"""A weight $w(\lambda) \ge 0$ for every noise level."""

    @abc.abstractmethod
    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""$w(\lambda)$, in the shape and dtype of `logsnr`."""


@dataclass(frozen=True, kw_only=True)
class ELBO(Weighting):
    r"""The evidence lower bound itself, $w = 1$: maximum likelihood of clean data.

    References:
        Kingma et al. (2021), https://arxiv.org/abs/2107.00630
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.ones_like(logsnr)


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Weighting):
    r"""The sigmoid weighting.

    $$w(\lambda) = \mathrm{sigmoid}(k - \lambda).$$

    Monotone for every $k$: the loss is a mixture of ELBOs of noisy data, with noise level
    $\lambda \sim \mathrm{Logistic}(k, 1)$. Larger $k$ moves weight to cleaner data.

    Attributes:
        k: Log-SNR at which the weight is one half. Default: the paper's choice for 64x64 images.

    Examples:
        >>> Sigmoid(k=2.0)(torch.tensor([2.0]))
        tensor([0.5000])

    References:
        Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
    """

    k: float = 2.0

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.sigmoid(self.k - logsnr)


@dataclass(frozen=True, kw_only=True)
class Exponential(Weighting):
    r"""$w = e^{-r\lambda}$: with $r = 1/2$ the v-loss on the cosine schedule, and flow matching
    with uniform times.

    Monotone; its mixture of noise levels is $\lambda - \lambda_\min \sim \mathrm{Exponential}(r)$,
    so it moves with $\lambda_\min$ although the loss hardly does.

    Attributes:
        rate: $r$. Default: that of the v-loss and of flow matching.

    References:
        Salimans & Ho (2022), https://arxiv.org/abs/2202.00512; Lipman et al. (2023),
        https://arxiv.org/abs/2210.02747
    """

    rate: float = 0.5

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.exp(-self.rate * logsnr)


@dataclass(frozen=True, kw_only=True)
class IDDPM(Weighting):
    r"""The plain noise-prediction loss on the cosine schedule, $w = \mathrm{sech}(\lambda/2)$.
    Rises for $\lambda<0$.

    References:
        Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return sech_half(logsnr)


@dataclass(frozen=True, kw_only=True)
class DDPM(Weighting):
    r"""The plain noise-prediction loss on the linear-$\beta$ schedule.

    $$w(\lambda) = \frac{\mathrm{sigmoid}(-\lambda)}{\sqrt{\beta_0^2 + 2(\beta_1 - \beta_0)\,
      \mathrm{softplus}(-\lambda)}}.$$

    Rises for $\lambda < -0.922$ with the default $\beta$.

    Attributes:
        beta_min: $\beta_0$. Default: DDPM's.
        beta_max: $\beta_1$. Default: DDPM's.

    References:
        Ho et al. (2020), https://arxiv.org/abs/2006.11239
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        DDPMSchedule(beta_min=self.beta_min, beta_max=self.beta_max)  # raises if they are none

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        integral = -logsigmoid(logsnr)
        return torch.sigmoid(-logsnr) / torch.sqrt(
            self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral
        )


def _normal(logsnr: Float[Tensor, "*b"], mean: float, std: float) -> Float[Tensor, "*b"]:
    return torch.exp(-(((logsnr - mean) / std) ** 2) / 2) / (std * math.sqrt(2 * math.pi))


def _edm(
    logsnr: Float[Tensor, "*b"], mean: float, std: float, sigma_data: float
) -> Float[Tensor, "*b"]:
    return _normal(logsnr, mean, std) * (torch.exp(-logsnr) + sigma_data**2)


@dataclass(frozen=True, kw_only=True)
class EDM(Weighting):
    r"""EDM's loss, $w = \mathcal N(\lambda; m, s^2)\,(e^{-\lambda} + \sigma_d^2)$.

    With the defaults it rises for $\lambda < -3.308$. `Monotone(EDM())` is the paper's
    EDM-monotonic.

    Attributes:
        mean: $m$. Default: EDM's, $-2P_\mathrm{mean}$.
        std: $s$. Default: EDM's, $2P_\mathrm{std}$.
        sigma_data: $\sigma_d$. Default: EDM's.

    References:
        Karras et al. (2022), https://arxiv.org/abs/2206.00364
    """

    mean: float = 2.4
    std: float = 2.4
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        require_positive(std=self.std, sigma_data=self.sigma_data)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _edm(logsnr, self.mean, self.std, self.sigma_data)


@dataclass(frozen=True, kw_only=True)
class EDM2(Weighting):
    r"""EDM2's loss before its learned factor $1/e^u$: EDM's formula with other moments.

    With the defaults it rises for $\lambda < -3.16$; with ImageNet-64's (1.6, 3.2), for
    $\lambda < -8.64$.

    Attributes:
        mean: $m$. Default: EDM2's for latents, $P_\mathrm{mean} = -0.4$.
        std: $s$. Default: EDM2's for latents, $P_\mathrm{std} = 1.0$.
        sigma_data: $\sigma_d$. Default: EDM2's.

    References:
        Karras et al. (2024), https://arxiv.org/abs/2312.02696
    """

    mean: float = 0.8
    std: float = 2.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        require_positive(std=self.std, sigma_data=self.sigma_data)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _edm(logsnr, self.mean, self.std, self.sigma_data)


@dataclass(frozen=True, kw_only=True)
class P2(Weighting):
    r"""P2 weighting on the cosine schedule,
    $w = \mathrm{sech}(\lambda/2) / (1 + e^\lambda)^\gamma$.

    Rises for $\lambda < -\ln 3$ with $\gamma = 1$, for $\lambda < -\ln 2$ with $\gamma = 1/2$.

    Attributes:
        gamma: $\gamma \ge 0$. Default: the stronger of the two settings of the paper.

    References:
        Choi et al. (2022), https://arxiv.org/abs/2204.00227
    """

    gamma: float = 1.0

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ValueError(f"gamma is {self.gamma}: give a number from 0.")

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return sech_half(logsnr) * torch.exp(self.gamma * logsigmoid(-logsnr))


@dataclass(frozen=True, kw_only=True)
class MinSNR(Weighting):
    r"""Min-SNR-$\gamma$ on the cosine schedule,
    $w = \mathrm{sech}(\lambda/2)\min(1, \gamma e^{-\lambda})$.

    Rises for $\lambda < \min(0, \ln\gamma)$.

    Attributes:
        gamma: $\gamma > 0$, the SNR above which the weight is cut. Default: the paper's.

    References:
        Hang et al. (2023), https://arxiv.org/abs/2303.09556
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        require_positive(gamma=self.gamma)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return sech_half(logsnr) * torch.exp((math.log(self.gamma) - logsnr).clamp(max=0.0))


@dataclass(frozen=True, kw_only=True)
class SoftMinSNR(Weighting):
    r"""Soft Min-SNR on the cosine schedule,
    $w = \mathrm{sech}(\lambda/2)\,\mathrm{sigmoid}(\ln\gamma - \lambda)$.

    Rises for $\lambda < -0.526$ with the default. A sigmoid weighting whose factor $-d\lambda/dt$
    was forgotten, on the cosine schedule with noise prediction, is this one with $\gamma = e^k$.

    Attributes:
        gamma: $\gamma > 0$. Default: the paper's.

    References:
        Crowson et al. (2024), https://arxiv.org/abs/2401.11605
    """

    gamma: float = 4.0

    def __post_init__(self) -> None:
        require_positive(gamma=self.gamma)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return sech_half(logsnr) * torch.sigmoid(math.log(self.gamma) - logsnr)


@dataclass(frozen=True, kw_only=True)
class TruncatedSNR(Weighting):
    r"""Truncated SNR on the cosine schedule, $w = \mathrm{sech}(\lambda/2)\max(1, e^{-\lambda})$.
    Monotone.

    References:
        Salimans & Ho (2022), https://arxiv.org/abs/2202.00512
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return sech_half(logsnr) * torch.exp((-logsnr).clamp(min=0.0))


@dataclass(frozen=True, kw_only=True)
class InDI(Weighting):
    r"""Inversion by direct iteration, data prediction on the flow path,
    $w = e^{-\lambda}\,\mathrm{sech}^2(\lambda/4)$.

    Monotone.

    References:
        Delbracio & Milanfar (2023), https://arxiv.org/abs/2303.11435
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.exp(-logsnr) * sech_half(logsnr / 2) ** 2


@dataclass(frozen=True, kw_only=True)
class LogitNormalFlow(Weighting):
    r"""Flow matching with logit-normal times (Stable Diffusion 3).

    $$w(\lambda) = \mathcal N(\lambda; -2m, 4s^2)\,(1 + e^{-\lambda/2})^2.$$

    With the defaults it rises for $\lambda < -3.376$.

    Attributes:
        mean: $m$, of $\mathrm{logit}(t)$. Default: the paper's best.
        std: $s$, of $\mathrm{logit}(t)$. Default: the paper's best.

    References:
        Esser et al. (2024), https://arxiv.org/abs/2403.03206
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        require_positive(std=self.std)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _normal(logsnr, -2 * self.mean, 2 * self.std) * (1 + torch.exp(-logsnr / 2)) ** 2


@dataclass(frozen=True, kw_only=True)
class CosMap(Weighting):
    r"""Flow matching with the cosine schedule's times,
    $w = \mathrm{sech}(\lambda/2)(1 + e^{-\lambda/2})^2$. Monotone.

    References:
        Esser et al. (2024), https://arxiv.org/abs/2403.03206
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return sech_half(logsnr) * (1 + torch.exp(-logsnr / 2)) ** 2


@dataclass(frozen=True)
class ShiftedFlow(Weighting):
    r"""Flow matching with a time shift $s$.

    $$w(\lambda) = e^{-\lambda/2}\left(\frac{1 + e^{-\lambda/2}}{1 + e^{-\lambda/2}/s}\right)^2.$$

    Monotone if and only if $s \ge 1/9$.

    Attributes:
        shift: $s > 0$. Default: the paper's for 1024x1024 images.

    References:
        Esser et al. (2024), https://arxiv.org/abs/2403.03206
    """

    shift: float = 3.0

    def __post_init__(self) -> None:
        require_positive(shift=self.shift)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        sigma_tilde = torch.exp(-logsnr / 2)
        return sigma_tilde * ((1 + sigma_tilde) / (1 + sigma_tilde / self.shift)) ** 2


@dataclass(frozen=True, kw_only=True)
class Laplace(Weighting):
    r"""Velocity prediction with Laplace-distributed log-SNR,
    $w = e^{-|\lambda - m|/b}(1 + e^{-\lambda})$.

    With the defaults it rises for $\lambda < 0$.

    Attributes:
        mean: $m$. Default: the paper's.
        scale: $b > 0$. Default: the paper's.

    References:
        Hang & Gu (2024), https://arxiv.org/abs/2407.03297
    """

    mean: float = 0.0
    scale: float = 0.5

    def __post_init__(self) -> None:
        require_positive(scale=self.scale)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.exp(-(logsnr - self.mean).abs() / self.scale) * (1 + torch.exp(-logsnr))


@dataclass(frozen=True)
class Monotone(Weighting):
    r"""The least monotone majorant of a weighting,
    $w(\lambda) = \sup_{\mu \ge \lambda} w_\mathrm{inner}(\mu)$.

    The running maximum from the right: the smallest weighting that never rises and is nowhere below
    `inner`, hence the nearest likelihood objective that loses nothing. `Monotone(EDM())` is the
    paper's EDM-monotonic.

    The maxima are found once, on $[-50, 50]$, and to about 1e-7 (`extrema.rising_intervals`); the
    supremum is then exact, not read off a grid. The first call finds them: make it before
    `torch.compile` with `fullgraph=True`.

    Args:
        inner: The weighting, or any callable from log-SNR to weight.

    Raises:
        ValueError: At its first use, if `inner` is not finite on $[-50, 50]$.

    Examples:
        >>> Monotone(IDDPM())(torch.tensor([-9.0, 0.0]))
        tensor([1., 1.])

    References:
        Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
    """

    inner: WeightFunction

    @cached_property
    def _peaks(self) -> list[tuple[float, float]]:
        """The local maxima, increasing in log-SNR, and the largest weight from each of them on."""
        ends = [end for _, end in rising_intervals(self.inner, -50.0, 50.0, num_points=20_001)]
        w = self.inner(torch.tensor(ends, dtype=torch.float64))
        return list(zip(ends, w.flip(0).cummax(0).values.flip(0).tolist(), strict=True))

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        w = self.inner(logsnr)
        for peak, height in self._peaks:
            w = torch.where(logsnr <= peak, w.clamp(min=height), w)
        return w


@dataclass(frozen=True)
class Shifted(Weighting):
    r"""A weighting moved along the log-SNR axis, $w(\lambda) = w_\mathrm{inner}(\lambda - 2s)$.

    For $d \times d$ images, $s = \ln(64/d)$ carries a weighting chosen at $64 \times 64$ over.

    Args:
        inner: The weighting, or any callable from log-SNR to weight.
        shift: $s$.

    References:
        Hoogeboom et al. (2023), https://arxiv.org/abs/2301.11093
    """

    inner: WeightFunction
    shift: float

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.inner(logsnr - 2 * self.shift)


WEIGHTINGS: tuple[type[Weighting], ...] = (
    ELBO,
    Sigmoid,
    Exponential,
    IDDPM,
    DDPM,
    EDM,
    EDM2,
    P2,
    MinSNR,
    SoftMinSNR,
    TruncatedSNR,
    InDI,
    LogitNormalFlow,
    CosMap,
    ShiftedFlow,
    Laplace,
)
"""Every closed form. A new one joins the command line, the run files and the tests by a line here;
its fields need defaults.
"""

WRAPPERS: tuple[type[Weighting], ...] = (Monotone, Shifted)
"""The weightings that are made from another one."""
