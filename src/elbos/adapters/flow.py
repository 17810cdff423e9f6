r"""Networks of flow matching: the velocity on the straight path between data and noise.

With $\tau = \mathrm{sigmoid}(-\lambda/2)$, the share of noise,

$$z_\tau = (1 - \tau)\,x + \tau\,\epsilon = \frac{z}{\alpha + \sigma}, \qquad
  \frac{dz_\tau}{d\tau} = \epsilon - x.$$

Papers differ in the direction of time. Data at $t = 0$ (rectified flow as in Stable Diffusion 3):
$t = \tau$, $v = \epsilon - x$. Data at $t = 1$ (Lipman et al., SiT, TorchCFM): $t = 1 - \tau$,
$v = x - \epsilon$. Either way the network returns $dz/dt$ in its own time.

References:
    Lipman et al. (2023), https://arxiv.org/abs/2210.02747; Liu et al. (2023),
    https://arxiv.org/abs/2209.03003
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.calls import ForeignNetwork, output, require_output
from elbos.checks import require_positive
from elbos.conditions import Condition
from elbos.parameterizations import Flow
from elbos.process import align, alpha_sigma


@dataclass(frozen=True, kw_only=True)
class VelocityDenoiser:
    r"""A network $v(z_t, t)$ as a denoiser of $z$.

    Attributes:
        network: Called as `network(z_t, time_scale * t)`, with $t$ of shape `[b]`.
        data_at: The time $t$ of the data, 0 or 1; the noise is at the other.
        time_scale: What $t$ is multiplied with.
        logsnr_min: $-\infty$: a network of $t$ is defined at every noise level.
        logsnr_max: $\infty$.

    Raises:
        ValueError: If `data_at` is not 0 or 1, or `time_scale` is not above 0.
    """

    network: ForeignNetwork
    data_at: Literal[0, 1]
    time_scale: float = 1.0
    logsnr_min: ClassVar[float] = -math.inf
    logsnr_max: ClassVar[float] = math.inf

    def __post_init__(self) -> None:
        require_positive(time_scale=self.time_scale)
        if self.data_at not in (0, 1):
            raise ValueError(f"data_at is {self.data_at!r}: give the time of the data, 0 or 1.")

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        logsnr = logsnr.expand(len(z)).to(z.device)
        alpha, sigma = alpha_sigma(align(logsnr, z))
        sign = -1 if self.data_at else 1
        time = self.time_scale * torch.sigmoid(-sign * logsnr / 2)
        velocity = output(self.network, z / (alpha + sigma).to(z), time, cond=cond)
        return Flow().split(sign * require_output(velocity, z, logsnr), z, logsnr)


def denoiser(
    network: ForeignNetwork, *, data_at: Literal[0, 1], time_scale: float = 1.0
) -> VelocityDenoiser:
    r"""A network of velocities $v(z_t, t) = dz_t/dt$ as a denoiser.

    Args:
        network: Called as `network(z_t, time_scale * t)`, with class labels or whatever else the
            condition is as a third argument, or with a dict's entries as keywords.
        data_at: The time of the data: 0 if $z_t = (1 - t) x + t \epsilon$, 1 if
            $z_t = t x + (1 - t) \epsilon$. No default: taking one for the other is an error that
            nothing but the loss shows.
        time_scale: What $t \in [0, 1]$ is multiplied with, such as 1000. Default: nothing.

    Returns:
        The denoiser; when called, it raises a ValueError if the network does not take the
        condition, or returns another shape than that of the data, NaN or infinity.

    Raises:
        ValueError: If `data_at` is not 0 or 1, or `time_scale` is not above 0.

    Examples:
        >>> still = denoiser(lambda z, t: torch.zeros_like(z), data_at=0)  # x ~ N(0, 1), t = 1/2
        >>> x_hat, eps_hat = still(torch.ones(1, 2), torch.tensor([0.0]))
        >>> x_hat, eps_hat
        (tensor([[0.7071, 0.7071]]), tensor([[0.7071, 0.7071]]))
    """
    return VelocityDenoiser(network=network, data_at=data_at, time_scale=time_scale)
