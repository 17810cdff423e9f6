r"""Closed forms of rectified flow, $z = (1 - \tau)x + \tau\epsilon$.

The velocity loss at times with density $\pi(\tau)$, times a coefficient $c(\tau)$, has

$$w(\lambda) \propto \pi(\tau)\,c(\tau)\,\frac{\tau}{1 - \tau}, \qquad
  \tau = \mathrm{sigmoid}(-\lambda/2),$$

which is monotone if and only if it nowhere falls with $\tau$.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import require_positive
from elbos.theory.schedules import Mode
from elbos.theory.weightings.weighting import Weighting, normal, sech_half


@dataclass(frozen=True, kw_only=True)
class InDI(Weighting):
    r"""Weighting of InDI, $w = e^{-\lambda}\,\mathrm{sech}^2(\lambda/4)$.

    InDI is inversion by direct iteration. Its weighting is that of data prediction on the flow
    path. Monotone.

    References:
        Delbracio & Milanfar (2023), https://arxiv.org/abs/2303.11435
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.exp(-logsnr) * sech_half(logsnr / 2) ** 2


@dataclass(frozen=True, kw_only=True)
class LogitNormalFlow(Weighting):
    r"""Weighting of flow matching with logit-normal times (Stable Diffusion 3).

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
        return normal(logsnr, -2 * self.mean, 2 * self.std) * (1 + torch.exp(-logsnr / 2)) ** 2


@dataclass(frozen=True, kw_only=True)
class CosMap(Weighting):
    r"""Weighting of flow matching with the cosine schedule's times, $w = \mathrm{sech}(\lambda/2)(1
    + e^{-\lambda/2})^2$.

    Monotone.

    References:
        Esser et al. (2024), https://arxiv.org/abs/2403.03206
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return sech_half(logsnr) * (1 + torch.exp(-logsnr / 2)) ** 2


@dataclass(frozen=True)
class ShiftedFlow(Weighting):
    r"""Weighting of flow matching with a time shift $s$.

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
class NormalMixtureFlow(Weighting):
    r"""Weighting of flow matching for log-SNRs drawn from a normal mixture.

    $$w(\lambda) = \sum_i \pi_i\,\mathcal N(\lambda; m_i, s_i^2)\,(1 + e^{-\lambda/2})^2.$$

    With the defaults it rises for $\lambda < -9.8$, and on $[3.09, 5.29]$ by a factor of 4.3.

    Attributes:
        means: $m_i$. Default: Flux' shift at $1024^2$, style-friendly times and nearly clean data,
            as set by trainers.
        stds: $s_i > 0$.
        shares: $\pi_i > 0$.
    """

    means: tuple[float, ...] = (-2.3, -6.0, 5.36)
    stds: tuple[float, ...] = (2.0, 2.0, 1.0)
    shares: tuple[float, ...] = (0.79, 0.11, 0.1)

    def __post_init__(self) -> None:
        if not len(self.means) == len(self.stds) == len(self.shares) > 0:
            raise ValueError(
                f"{len(self.means)} means, {len(self.stds)} stds and {len(self.shares)} shares: "
                "give as many of each."
            )
        for std, share in zip(self.stds, self.shares, strict=True):
            require_positive(std=std, share=share)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        parts = zip(self.means, self.stds, self.shares, strict=True)
        p = torch.stack([share * normal(logsnr, mean, std) for mean, std, share in parts]).sum(0)
        return p * (1 + torch.exp(-logsnr / 2)) ** 2


@dataclass(frozen=True, kw_only=True)
class BetaFlow(Weighting):
    r"""Weighting of flow matching with Beta-distributed times.

    $$w(\lambda) = \tau^a (1 - \tau)^{b - 2}.$$

    Monotone if and only if $a \ge 0$ and $b \le 2$. Times that are mapped to $[\tau_0, 1]$ have
    $((\tau - \tau_0)/(1 - \tau_0))^{a - 1}$ for $\tau^{a - 1}$.

    Attributes:
        a: $a$; not above 0 where a coefficient $\tau^{a'}$ makes it so. Default: that of pi0.
        b: $b$. Default: that of pi0.
        time_min: $\tau_0$ in [0, 1). Default: 0.

    References:
        Black et al. (2024), https://arxiv.org/abs/2410.24164
    """

    a: float = 1.5
    b: float = 1.0
    time_min: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.time_min < 1:
            raise ValueError(f"time_min is {self.time_min}: give a number from 0, below 1.")

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        noise, signal = torch.sigmoid(-logsnr / 2), torch.sigmoid(logsnr / 2)
        drawn = ((noise - self.time_min) / (1 - self.time_min)).clamp(min=0)
        return drawn ** (self.a - 1) * noise * signal ** (self.b - 2)


@dataclass(frozen=True, kw_only=True)
class ModeFlow(Weighting):
    r"""Weighting of flow matching with Stable Diffusion 3's mode sampling.

    $$w(\lambda) = \frac{\tau}{1 - \tau}\,\frac1{1 + s - \tfrac{\pi s}2\sin\pi t}, \qquad
      \tau = t - s\,(\sin^2(\pi t/2) - t).$$

    Monotone with the default; with $s = 1.29$ it rises on $[-1.31, -0.03]$ by a factor of 2.1, with
    $s = 1.75$ on $[-1.19, 0]$ by 650.

    Attributes:
        scale: $s$ in $[-1, 1.752)$. Default: .81, as set by trainers.

    References:
        Esser et al. (2024), https://arxiv.org/abs/2403.03206
    """

    scale: float = 0.81

    def __post_init__(self) -> None:
        Mode(scale=self.scale)  # raises unless the scale is valid

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        p = torch.exp(Mode(scale=self.scale).log_density(logsnr))
        return p * (1 + torch.exp(-logsnr / 2)) ** 2


@dataclass(frozen=True, kw_only=True)
class UShapeFlow(Weighting):
    r"""Weighting of flow matching with a U-shaped density of times.

    The density is $e^{a\tau} + e^{a(1 - \tau)}$.

    $$w(\lambda) = \frac{\tau}{1 - \tau}\cosh a(\tau - \tfrac12).$$

    Monotone with the default, not with $a = 6$.

    Attributes:
        rate: $a > 0$. Default: the paper's.

    References:
        Lee et al. (2024), https://arxiv.org/abs/2405.20320
    """

    rate: float = 4.0

    def __post_init__(self) -> None:
        require_positive(rate=self.rate)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        u = self.rate * (torch.sigmoid(-logsnr / 2) - 0.5)
        return torch.exp(-logsnr / 2) * torch.cosh(u)


@dataclass(frozen=True, kw_only=True)
class BellFlow(Weighting):
    r"""Weighting of flow matching with a bell-shaped loss coefficient.

    The coefficient is $e^{-2(\tau - 1/2)^2} - e^{-1/2}$; times are uniform or shifted.

    $$w(\lambda) \propto \left(e^{2\tau(1 - \tau)} - 1\right)
      e^{-\lambda/2}\left(\frac{1 + e^{-\lambda/2}}{1 + e^{-\lambda/2}/s}\right)^2.$$

    Monotone. The bell is that of public trainers, a coefficient and not a density.

    Attributes:
        shift: Time shift $s > 0$ of the table that is drawn from. Default 1: none.
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        require_positive(shift=self.shift)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        noise, signal = torch.sigmoid(-logsnr / 2), torch.sigmoid(logsnr / 2)
        return torch.expm1(2 * noise * signal) * ShiftedFlow(shift=self.shift)(logsnr)


@dataclass(frozen=True, kw_only=True)
class JiT(Weighting):
    r"""Weighting of data prediction with the velocity loss (JiT).

    Times are logit-normal, and $z = tx + (1 - t)s\epsilon$.

    $$w(\lambda) = \mathcal N(\lambda; 2m - 2\ln s, 4\varsigma^2)\,
      \frac{e^{-\lambda}}{\max(1 - t, c)^2}, \qquad t = \mathrm{sigmoid}(\lambda/2 + \ln s).$$

    Mind that $t$ is the share of data. Rises for $\lambda < -3.83$ with the default, for
    $\lambda < -5.2$ with $s = 2$.

    Attributes:
        mean: $m$, of $\mathrm{logit}(t)$. Default: the paper's.
        std: $\varsigma > 0$, of $\mathrm{logit}(t)$. Default: the paper's.
        noise_scale: $s > 0$. Default: that of 256x256 images; at 512x512 it is 2.
        clamp: $c \ge 0$, the least $1 - t$ that is divided by. Default: the paper's.

    References:
        Li & He (2025), https://arxiv.org/abs/2511.13720
    """

    mean: float = -0.8
    std: float = 0.8
    noise_scale: float = 1.0
    clamp: float = 0.05

    def __post_init__(self) -> None:
        require_positive(std=self.std, noise_scale=self.noise_scale)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        log_scale = math.log(self.noise_scale)
        p = normal(logsnr, 2 * self.mean - 2 * log_scale, 2 * self.std)
        noise = torch.sigmoid(-logsnr / 2 - log_scale).clamp(min=self.clamp)
        return p * torch.exp(-logsnr) / noise**2
