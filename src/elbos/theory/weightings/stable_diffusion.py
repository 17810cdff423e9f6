r"""Closed forms on Stable Diffusion's scaled-linear schedule, in the limit of many steps.

$$p(\lambda) = \frac{\mathrm{sigmoid}(-\lambda)}{\beta}, \qquad
  \beta^{3/2} = \beta_0^{3/2} + 3\left(\sqrt{\beta_1} - \sqrt{\beta_0}\right)
  \mathrm{softplus}(-\lambda), \quad \beta_0 = .85,\; \beta_1 = 12.$$

References:
    Rombach et al. (2022), https://arxiv.org/abs/2112.10752
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from elbos.base.checks import require_positive
from elbos.theory.weightings.weighting import Weighting

_FIRST, _LAST = 0.85**0.5, 12.0**0.5  # the roots of beta
_INTEGRAL = (_FIRST**2 + _FIRST * _LAST + _LAST**2) / 3  # integral of beta


def _density(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    root: Tensor = (_FIRST**3 + 3 * (_LAST - _FIRST) * softplus(-logsnr)) ** (1 / 3)
    return torch.sigmoid(-logsnr) / root**2


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(Weighting):
    r"""Weighting of noise prediction on Stable Diffusion's schedule, $w = p(\lambda)$.

    Increases for $\lambda < -0.45$.

    References:
        Rombach et al. (2022), https://arxiv.org/abs/2112.10752
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _density(logsnr)


@dataclass(frozen=True, kw_only=True)
class StableDiffusionV(Weighting):
    r"""Weighting of velocity prediction on Stable Diffusion's schedule, $w = p\,(1 +
    e^{-\lambda})$.

    Monotone.

    References:
        Salimans & Ho (2022), https://arxiv.org/abs/2202.00512
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _density(logsnr) * (1 + torch.exp(-logsnr))


@dataclass(frozen=True, kw_only=True)
class ZeroTerminalV(Weighting):
    r"""Weighting of velocity prediction on a zero-terminal-SNR schedule.

    The schedule is Stable Diffusion's with the SNR divided by $s$.

    $$w = \frac{p(\lambda_0)\,(1 - \alpha_1)\,\sigma^2}{\alpha\,\alpha_0\,\sigma_0^2}, \qquad
      \alpha_0 = \alpha_1 + (1 - \alpha_1)\,\alpha, \quad
      e^{\lambda_0} = s\,\frac{\alpha_0^2}{\sigma_0^2}, \quad \alpha^2 + \sigma^2 = 1,$$

    with $\alpha_1$ the last $\alpha_0$ of the schedule. Monotone.

    Attributes:
        snr_shift: $s > 0$. Default: 1, CogVideoX 5B's; 3 is CogVideoX 2B's.

    References:
        Yang et al. (2024), https://arxiv.org/abs/2408.06072; Lin et al. (2023),
        https://arxiv.org/abs/2305.08891
    """

    snr_shift: float = 1.0

    def __post_init__(self) -> None:
        require_positive(snr_shift=self.snr_shift)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        rest = 1 - (1 + self.snr_shift * math.expm1(_INTEGRAL)) ** -0.5  # 1 - alpha_1
        alpha = torch.sigmoid(logsnr).sqrt()
        noise = -rest * torch.expm1(logsigmoid(logsnr) / 2)  # 1 - alpha_0
        variance = noise * (2 - noise)
        before = torch.log(self.snr_shift * (1 - noise) ** 2 / variance)
        speed: Tensor = rest * torch.sigmoid(-logsnr) / (alpha * (1 - noise) * variance)
        return _density(before) * speed


@dataclass(frozen=True, kw_only=True)
class StableDiffusionMinSNR(Weighting):
    r"""Min-SNR-$\gamma$ weighting on Stable Diffusion's schedule, $w = p\,\min(1, \gamma
    e^{-\lambda})$.

    The prediction type does not matter.

    Rises for $\lambda < -0.45$ with the default.

    Attributes:
        gamma: $\gamma > 0$, the SNR above which the weight is cut. Default: the paper's.

    References:
        Hang et al. (2023), https://arxiv.org/abs/2303.09556
    """

    gamma: float = 5.0

    def __post_init__(self) -> None:
        require_positive(gamma=self.gamma)

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _density(logsnr) * torch.exp((math.log(self.gamma) - logsnr).clamp(max=0.0))


@dataclass(frozen=True, kw_only=True)
class StableDiffusionDebiased(Weighting):
    r"""Weighting of debiased estimation on Stable Diffusion's schedule, $w = p\,e^{-\lambda/2}$.

    It is that of noise prediction over the root of the SNR. Monotone.

    References:
        Yu et al. (2023), https://arxiv.org/abs/2310.08442
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _density(logsnr) * torch.exp(-logsnr / 2)
