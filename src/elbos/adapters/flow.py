r"""Denoisers from flow-matching networks, which predict the velocity on straight paths.

With $\tau = \mathrm{sigmoid}(-\lambda/2)$, the share of noise,

$$z_\tau = (1 - \tau)\,x + \tau\,\epsilon = \frac{z}{\alpha + \sigma}, \qquad
  \frac{dz_\tau}{d\tau} = \epsilon - x.$$

Papers differ in the direction of time. Data at $t = 0$ (rectified flow as in Stable Diffusion 3):
$t = \tau$, $v = \epsilon - x$. Data at $t = 1$ (Lipman et al., SiT, TorchCFM): $t = 1 - \tau$,
$v = x - \epsilon$. Either way the network returns $dz/dt$ in its own time.

Optimal-transport paths keep noise $s = \sigma_\min$ on the data, $z_\tau = (1 - \tau)\,x +
\tau' \epsilon$ with $\tau' = s + (1 - s)\tau$. With the velocity $u = dz_\tau/d\tau =
(1 - s)\,\epsilon - x$,

$$\hat\epsilon = z_\tau + (1 - \tau)\,\hat u, \qquad \hat x = (1 - s)\,\hat\epsilon - \hat u.$$

References:
    Lipman et al. (2023), https://arxiv.org/abs/2210.02747; Liu et al. (2023),
    https://arxiv.org/abs/2209.03003
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import require_positive
from elbos.base.codec import decode
from elbos.base.conditions import Condition
from elbos.models.calls import ForeignNetwork, output, require_logsnr, require_output
from elbos.theory.parameterizations import Flow
from elbos.theory.process import align, alpha_sigma


@dataclass(frozen=True)
class VelocityDenoiser:
    r"""Denoiser made of a flow-matching network, which predicts $v = dz_t/dt$.

    The noisy data $z$ are variance-preserving. Not for noise coupled to the data, as by minibatch
    optimal transport: a bound on such a model is not tight, and its likelihood is
    `likelihood.flow_likelihood`.

    Attributes:
        network: Called as `network(z_t, time_scale * t)`, with $t$ of shape `[b]`, and with a
            condition (such as class labels) as third argument, or a dict's entries as keywords.
        data_at: The time of the data: 0 if $z_t = (1 - t) x + t \epsilon$, 1 if
            $z_t = t x + (1 - t) \epsilon$. No default: taking one for the other is an error that
            nothing but the loss shows.
        time_scale: The factor of $t \in [0, 1]$ in the network's time input, such as 1000. Default:
            1.
        sigma_min: $s$ of optimal-transport paths, $z_t = t x + (1 - (1 - s) t) \epsilon$. Default:
            0, as in Meta's `CondOTProbPath`.

    Raises:
        ValueError: If `data_at` is not 0 or 1, `time_scale` is not above 0, or `sigma_min` not from
            0 to below 1; in calls, if network, condition and data do not fit.

    Examples:
        >>> still = denoiser(lambda z, t: torch.zeros_like(z), data_at=0)  # x ~ N(0, 1), t = 1/2
        >>> x_hat, eps_hat = still(torch.ones(1, 2), torch.tensor([0.0]))
        >>> x_hat, eps_hat
        (tensor([[0.7071, 0.7071]]), tensor([[0.7071, 0.7071]]))
    """

    network: ForeignNetwork
    _: KW_ONLY
    data_at: Literal[0, 1]
    time_scale: float = 1.0
    sigma_min: float = 0.0
    logsnr_min: ClassVar[float] = -math.inf
    parameterization: ClassVar[Flow] = Flow()  # up to the sign, and for `sigma_min` of 0

    @property
    def logsnr_max(self) -> float:
        r"""Highest log-SNR of the path: $-2\ln s$ if noise of size $s$ is left, else infinity."""
        return -2 * math.log(self.sigma_min) if self.sigma_min else math.inf

    def __post_init__(self) -> None:
        require_positive(time_scale=self.time_scale)
        if self.data_at not in (0, 1):
            raise ValueError(f"data_at is {self.data_at!r}: give the time of the data, 0 or 1.")
        decode(float, self.sigma_min, "sigma_min")
        if not 0 <= self.sigma_min < 1:
            raise ValueError(f"sigma_min is {self.sigma_min}: give a number from 0 to below 1.")

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        logsnr = logsnr.expand(len(z)).to(z.device)
        of = f"the noise levels of sigma_min={self.sigma_min:g}"
        require_logsnr(logsnr, self.logsnr_min, self.logsnr_max, of)
        alpha, _ = alpha_sigma(align(logsnr, z))
        slope, sigma_tilde = 1 - self.sigma_min, torch.exp(-logsnr / 2)
        share = 1 / (slope + sigma_tilde)  # the data's, 1 - tau: sigma_tilde = tau' / (1 - tau)
        z_tau = z * (align(share, z) / alpha).to(z)
        sign = -1 if self.data_at else 1
        time = share if self.data_at else share * (sigma_tilde - self.sigma_min)
        velocity = output(self.network, z_tau, self.time_scale * time, cond=cond)
        u = sign * require_output(velocity, z, logsnr)
        eps_hat = z_tau + align(share, z).to(z) * u
        return slope * eps_hat - u, eps_hat


denoiser = VelocityDenoiser
