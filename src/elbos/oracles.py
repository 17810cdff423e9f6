r"""Data for which everything is known: mixtures of isotropic Gaussians, with their exact denoiser.

For $x \sim \sum_k \pi_k\,\mathcal N(\mu_k, s_k^2 I)$, noisy data are again a mixture,
$z_\lambda \sim \sum_k \pi_k\,\mathcal N(\alpha\mu_k, \tau_k^2 I)$ with
$\tau_k^2 = \alpha^2 s_k^2 + \sigma^2$, so that

$$\mathbb E[x \mid z] = \sum_k r_k(z)\,\frac{\alpha s_k^2 z + \sigma^2\mu_k}{\tau_k^2}, \qquad
  \mathbb E[\epsilon \mid z] = \sum_k r_k(z)\,\frac{\sigma\,(z - \alpha\mu_k)}{\tau_k^2},$$

with $r_k$ the posterior probability of component $k$. $s_k = 0$ is allowed: a mixture of points is
any discrete distribution, quantized data among them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elbos.process import align, alpha_sigma


@dataclass(frozen=True)
class GaussianMixture:
    r"""A mixture of isotropic Gaussians; called, it is the exact denoiser of its data.

    Args:
        weights: $\pi_k$, summing to one.
        means: $\mu_k$.
        stds: $s_k \ge 0$.
    """

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    stds: Float[Tensor, " k"]

    def sample(
        self, num: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "num d"], Int[Tensor, " num"]]:
        """Draw data, and the component that each came from."""
        component = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        eps = torch.randn(num, self.means.shape[1], dtype=self.means.dtype, generator=generator)
        return self.means[component] + self.stds[component, None] * eps, component

    def log_prob(
        self,
        x: Float[Tensor, "b d"],
        logsnr: float = math.inf,
        component: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b"]:
        r"""$\log q(z_\lambda)$ in nats, summed over dimensions; of clean data by default.

        Given `component`, the density of each point under its component alone.
        """
        level = torch.full((1,), logsnr, dtype=x.dtype, device=x.device)
        log_joint = self._log_joint(x, level)
        if component is None:
            return log_joint.logsumexp(-1)
        return (log_joint - self.weights.log()).gather(1, component[:, None])[:, 0]

    def _log_joint(
        self, z: Float[Tensor, "b d"], logsnr: Float[Tensor, "#b"]
    ) -> Float[Tensor, "b k"]:
        alpha, sigma = alpha_sigma(logsnr[:, None])
        variance = alpha**2 * self.stds**2 + sigma**2
        distance = (z[:, None] - alpha[..., None] * self.means).square().sum(-1)
        dims = self.means.shape[1]
        return (
            self.weights.log()
            - distance / (2 * variance)
            - dims / 2 * torch.log(2 * torch.pi * variance)
        )

    def __call__(
        self,
        z: Float[Tensor, "b d"],
        logsnr: Float[Tensor, "#b"],
        cond: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        r"""$\mathbb E[x \mid z]$ and $\mathbb E[\epsilon \mid z]$, given component `cond`."""
        log_joint = self._log_joint(z, logsnr)
        if cond is not None:
            is_ruled_out = (cond[:, None] >= 0) & (
                cond[:, None] != torch.arange(len(self.weights), device=cond.device)
            )
            log_joint = log_joint.masked_fill(is_ruled_out, -math.inf)
        alpha, sigma = alpha_sigma(align(logsnr, z)[..., None])
        r = log_joint.softmax(-1)[..., None]
        variances = self.stds[:, None] ** 2
        tau = alpha**2 * variances + sigma**2
        residual = z[:, None] - alpha * self.means
        x_hat = (r * (self.means + alpha * variances / tau * residual)).sum(1)
        return x_hat, (r * sigma / tau * residual).sum(1)
