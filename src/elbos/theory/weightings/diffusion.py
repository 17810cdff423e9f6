"""Closed forms of diffusion models and of EDM."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.base.checks import require_positive
from elbos.theory.weightings.weighting import Weighting, normal, sech_half


@dataclass(frozen=True, kw_only=True)
class ELBO(Weighting):
    r"""The ELBO weighting, $w = 1$.

    It is maximum likelihood of clean data.

    References:
        Kingma et al. (2021), https://arxiv.org/abs/2107.00630
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.ones_like(logsnr)


@dataclass(frozen=True, kw_only=True)
class Sigmoid(Weighting):
    r"""The sigmoid weighting of ELBOs.

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
    r"""Exponential weighting, $w = e^{-r\lambda}$.

    By default it is the weighting of the v-loss on the cosine schedule, and of flow matching with
    uniform times.

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
    r"""Weighting of noise prediction on the cosine schedule, $w = \mathrm{sech}(\lambda/2)$.

    Increases for $\lambda<0$.

    References:
        Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672
    """

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return sech_half(logsnr)


@dataclass(frozen=True, kw_only=True)
class EDM(Weighting):
    r"""EDM's weighting, $w = \mathcal N(\lambda; m, s^2)\,(e^{-\lambda} + \sigma_d^2)$.

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
        w = normal(logsnr, self.mean, self.std)
        return w * (torch.exp(-logsnr) + self.sigma_data**2)


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
    r"""Min-SNR-$\gamma$ weighting on the cosine schedule, $w = \mathrm{sech}(\lambda/2)\min(1,
    \gamma e^{-\lambda})$.

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
