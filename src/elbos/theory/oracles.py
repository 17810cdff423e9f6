r"""Data distributions with a known exact denoiser: mixtures of isotropic Gaussians, and finite sets
of images.

For $x \sim \sum_k \pi_k\,\mathcal N(\mu_k, s_k^2 I)$, noisy data are again a mixture,
$z_\lambda \sim \sum_k \pi_k\,\mathcal N(\alpha\mu_k, \tau_k^2 I)$ with
$\tau_k^2 = \alpha^2 s_k^2 + \sigma^2$, so that

$$\mathbb E[x \mid z] = \sum_k r_k(z)\,\frac{\alpha s_k^2 z + \sigma^2\mu_k}{\tau_k^2}, \qquad
  \mathbb E[\epsilon \mid z] = \sum_k r_k(z)\,\frac{\sigma\,(z - \alpha\mu_k)}{\tau_k^2},$$

with $r_k$ the posterior probability of component $k$. $s_k = 0$ is allowed: a mixture of points is
any discrete distribution, quantized data among them.

A finite set of $n$ images is such a mixture, too, $\mu_k = x_k$ and $s_k = 0$, but may be large:
`FiniteSet` reads it in chunks.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int, Shaped
from torch import Tensor

from elbos.base.checks import Typed
from elbos.theory.process import align, alpha_sigma

CHUNK = 2**22  # numbers of a finite set held in float64 at once, 32 MB


@dataclass(frozen=True)
class GaussianMixture(Typed):
    r"""Mixture of isotropic Gaussians and its exact denoiser.

    When called, it is the denoiser of data drawn from the mixture.

    Args:
        weights: $\pi_k$, summing to one.
        means: $\mu_k$.
        stds: $s_k \ge 0$.

    Raises:
        ValueError: If weights or standard deviations are no such numbers, or their number is not
            that of the means.
    """

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    stds: Float[Tensor, " k"]

    def __post_init__(self) -> None:
        num = self.means.shape[:1]
        if self.means.ndim != 2 or self.weights.shape != num or self.stds.shape != num:
            shapes = [tuple(t.shape) for t in (self.weights, self.means, self.stds)]
            raise ValueError(
                f"weights, means and stds have shapes {shapes}: give [k], [k, d] and [k]."
            )
        total = float(self.weights.sum())
        if not (self.weights >= 0).all() or abs(total - 1) > 1e-4:
            raise ValueError(
                f"the weights have minimum {self.weights.min():g} and sum {total:g}: give "
                "probabilities, weights / weights.sum()."
            )
        if not (self.stds >= 0).all():
            raise ValueError(f"the smallest of stds is {self.stds.min():g}: give 0 or more.")

    def sample(
        self, num: int, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "num d"], Int[Tensor, " num"]]:
        """Draw samples and their component indices from the Gaussian mixture."""
        component = torch.multinomial(self.weights, num, replacement=True, generator=generator)
        eps = torch.randn(num, self.means.shape[1], dtype=self.means.dtype, generator=generator)
        return self.means[component] + self.stds[component, None] * eps, component

    def log_prob(
        self,
        x: Float[Tensor, "b d"],
        logsnr: float = math.inf,
        component: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b"]:
        r"""Return the log-density $\log q(z_\lambda)$ of noisy data.

        It is in nats, summed over dimensions, and by default that of clean data. Given `component`,
        the density of each point under its component alone.
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
        """Return the posterior means of data and noise.

        They are those of component `cond`, or of the whole mixture if `cond` is negative.
        """
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


@dataclass(frozen=True)
class FiniteSet(Typed):
    r"""Uniform distribution over finitely many points and its exact denoiser.

    When called, it is the denoiser:

    $$\mathbb E[x \mid z] = \sum_j p_j(z)\, x_j, \qquad
      p_j(z) = \mathrm{softmax}_j\left(-\frac{\|z - \alpha x_j\|^2}{2\sigma^2}\right).$$

    This is the denoiser that has memorized the set. The softmax runs over chunks, so that memory
    stays bounded whatever the size of the set, and in float64: in float32 the logits of images of
    28x28 pixels are wrong by 1 at a log-SNR of 10. 64 noisy images against 60,000 take about a
    second on a core.

    Args:
        x: The points, `[n, ...]`: floating-point numbers, or pixel values in `0..num_levels-1`,
            which stay integers in memory. On any device.
        num_levels: $K$, the number of pixel values; value $k$ represents $2k/(K-1) - 1$. None for
            floating-point numbers.
        labels: Class label of each point, or None.

    Raises:
        ValueError: If there are no points, integers without `num_levels`, or labels of another
            number; when called, if `cond` holds a class without points.

    Examples:
        Two points on a line, seen through much noise:

        >>> data = FiniteSet(torch.tensor([[-1.0], [1.0]]))
        >>> x_hat, eps_hat = data(torch.tensor([[0.1]]), torch.tensor([0.0]))
        >>> x_hat  # tanh of alpha z / sigma^2
        tensor([[0.1405]])
    """

    x: Shaped[Tensor, "n *d"]
    num_levels: int | None = None
    labels: Int[Tensor, " n"] | None = None

    def __post_init__(self) -> None:
        if self.x.ndim < 2 or self.x.numel() == 0:
            raise ValueError(
                f"x has shape {tuple(self.x.shape)}: give one point or more, [n, ...]."
            )
        if self.x.is_floating_point() == (self.num_levels is not None):
            raise ValueError(
                f"x is {self.x.dtype} and num_levels is {self.num_levels}: give pixel values with "
                "their number, or floating-point numbers in [-1, 1] without."
            )
        if self.labels is not None and self.labels.shape != self.x.shape[:1]:
            raise ValueError(
                f"labels have shape {tuple(self.labels.shape)} for {len(self.x)} points: give one "
                f"for each, [{len(self.x)}]."
            )

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_dims(self) -> int:
        return self.x[0].numel()

    def points(self, rows: slice | Int[Tensor, " b"]) -> Float64[Tensor, "b d"]:
        """Return selected data points scaled to [-1, 1].

        They are in float64.
        """
        x = self.x[rows].flatten(1).double()
        return x if self.num_levels is None else x.mul_(2 / (self.num_levels - 1)).sub_(1)

    def chunks(self, num_rows: int) -> Iterator[slice]:
        return (slice(i, i + num_rows) for i in range(0, len(self), num_rows))

    @torch.no_grad()
    def __call__(
        self,
        z: Float[Tensor, "b *d"],
        logsnr: Float[Tensor, "#b"],
        cond: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        """Return the posterior means of data and noise.

        A non-negative `cond` restricts the points to those of this class.
        """
        flat = z.flatten(1).double()
        alpha, sigma = alpha_sigma(align(logsnr.double(), flat))
        peak = torch.full_like(flat[:, :1], torch.finfo(flat.dtype).min)
        total, mean = torch.zeros_like(peak), torch.zeros_like(flat)
        for rows in self.chunks(max(1, CHUNK // self.num_dims)):
            x = self.points(rows).to(z.device)
            logit = alpha * (flat @ x.mT) - alpha**2 / 2 * x.square().sum(1)
            logit = self._given(cond, rows, logit / sigma**2)
            higher = torch.maximum(peak, logit.amax(1, keepdim=True))
            old, p = (peak - higher).exp(), (logit - higher).exp()
            total, mean = old * total + p.sum(1, keepdim=True), old * mean + p @ x
            peak = higher
        if (total == 0).any():
            raise ValueError("cond holds a class of which the set has no point.")
        x_hat = mean / total
        eps_hat = (flat - alpha * x_hat) / sigma
        return x_hat.to(z).view_as(z), eps_hat.to(z).view_as(z)

    def _given(
        self, cond: Int[Tensor, " b"] | None, rows: slice, logit: Float64[Tensor, "b c"]
    ) -> Float64[Tensor, "b c"]:
        if cond is None:
            return logit
        if self.labels is None:
            raise ValueError("cond is given, but the set has no labels.")
        is_other = cond[:, None] != self.labels[rows].to(cond.device)
        return logit.masked_fill((cond[:, None] >= 0) & is_other, -math.inf)
