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
from torch.nn.functional import softplus

from elbos.checks import require_positive
from elbos.weightings.weighting import Weighting

_FIRST, _LAST = 0.85**0.5, 12.0**0.5  # the roots of beta


def _density(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    root: Tensor = (_FIRST**3 + 3 * (_LAST - _FIRST) * softplus(-logsnr)) ** (1 / 3)
    return torch.sigmoid(-logsnr) / root**2


@dataclass(frozen=True, kw_only=True)
class StableDiffusion(Weighting):
    r"""Noise prediction, $w = p$. Rises for $\lambda < -0.45$.

    References:
        Rombach et al. (2022), https://arxiv.org/abs/2112.10752
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _density(logsnr)


@dataclass(frozen=True, kw_only=True)
class StableDiffusionV(Weighting):
    r"""Velocity prediction, $w = p\,(1 + e^{-\lambda})$. Monotone.

    References:
        Salimans & Ho (2022), https://arxiv.org/abs/2202.00512
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _density(logsnr) * (1 + torch.exp(-logsnr))


@dataclass(frozen=True, kw_only=True)
class StableDiffusionMinSNR(Weighting):
    r"""Min-SNR-$\gamma$, $w = p\,\min(1, \gamma e^{-\lambda})$, whatever is predicted.

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
    r"""Debiased estimation, noise prediction over the root of the SNR, $w = p\,e^{-\lambda/2}$.
    Monotone.

    References:
        Yu et al. (2023), https://arxiv.org/abs/2310.08442
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return _density(logsnr) * torch.exp(-logsnr / 2)
