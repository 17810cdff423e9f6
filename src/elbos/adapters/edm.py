r"""Denoisers from preconditioned EDM networks, which estimate clean data from $x +
\tilde\sigma\epsilon$.

$$\hat x = D(\tilde z; \tilde\sigma), \qquad \tilde z = x + \tilde\sigma\epsilon = z/\alpha, \qquad
  \tilde\sigma = e^{-\lambda/2}, \qquad \hat\epsilon = (\tilde z - \hat x)/\tilde\sigma.$$

The preconditioning $c_\mathrm{in}, c_\mathrm{skip}, c_\mathrm{out}, c_\mathrm{noise}$ is within
$D$: `EDMPrecond` of NVlabs' edm and edm2, k-diffusion's `Denoiser`. For the network within, which
returns $F$, see `parameterizations.EDM`.

References:
    Karras et al. (2022), https://arxiv.org/abs/2206.00364
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.conditions import Condition
from elbos.models.calls import ForeignNetwork, output, require_output
from elbos.theory.process import align, alpha_sigma


@dataclass(frozen=True)
class SigmaDenoiser:
    r"""Denoiser made of EDM's preconditioned network $D(\tilde z; \tilde\sigma)$.

    The noisy data $z$ are variance-preserving. Calls raise a ValueError if network, condition and
    data do not fit.

    Attributes:
        network: Called as `network(z_tilde, sigma_tilde)`, with `sigma_tilde` of shape `[b]`, and
            with a condition (such as class labels) as third argument, or a dict's entries as
            keywords. It returns $\hat x$.

    Examples:
        >>> wiener = denoiser(lambda z, sigma: z / (1 + sigma[:, None] ** 2))  # x ~ N(0, 1)
        >>> x_hat, eps_hat = wiener(torch.ones(1, 2), torch.tensor([0.0]))
        >>> x_hat, eps_hat
        (tensor([[0.7071, 0.7071]]), tensor([[0.7071, 0.7071]]))
    """

    network: ForeignNetwork
    logsnr_min: ClassVar[float] = -math.inf
    logsnr_max: ClassVar[float] = math.inf

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        logsnr = logsnr.expand(len(z)).to(z.device)
        alpha, _ = alpha_sigma(align(logsnr, z))
        z_tilde = z / alpha.to(z)
        x_hat = output(self.network, z_tilde, torch.exp(-logsnr / 2), cond=cond)
        x_hat = require_output(x_hat, z, logsnr)
        return x_hat, (z_tilde - x_hat) * torch.exp(align(logsnr, z) / 2).to(z)


denoiser = SigmaDenoiser
