r"""The Gaussian diffusion process, in one coordinate.

$$z_\lambda = \alpha x + \sigma \epsilon, \qquad \epsilon \sim \mathcal N(0, I), \qquad
  \lambda = \log(\alpha^2 / \sigma^2).$$

The process is variance preserving, $\alpha^2 = \mathrm{sigmoid}(\lambda)$ and
$\sigma^2 = \mathrm{sigmoid}(-\lambda)$. Every other Gaussian process is this one in another scale
and is translated at the edge: variance exploding $\tilde z = z / \alpha$ with
$\tilde\sigma = e^{-\lambda/2}$, rectified flow $z' = z\,\alpha'/\alpha$ with
$\alpha' = 1/(1 + e^{-\lambda/2})$, $\sigma' = 1 - \alpha'$.

Going from a noisy level $t$ to a cleaner level $s$, with $c = 1 - e^{\lambda_t - \lambda_s}$,

$$q(z_s \mid z_t, x) = \mathcal N\!\left(\frac{\alpha_s}{\alpha_t}(1 - c)\, z_t + \alpha_s c\, x,\;
  \sigma_s^2 c\, I\right).$$

See docs/theory.md, section 1.

References:
    Kingma et al. (2021), Variational Diffusion Models, https://arxiv.org/abs/2107.00630
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid


def alpha_sigma(logsnr: Float[Tensor, "*b"]) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
    r"""Return the signal and noise scales at given log-SNRs.

    They are $\alpha^2 = \mathrm{sigmoid}(\lambda)$ and $\sigma^2 = \mathrm{sigmoid}(-\lambda)$.
    Computed through `logsigmoid`: at $\lambda = 40$ in float32 `sqrt(1 - alpha**2)` is 0, this is
    2.06e-9. At $\lambda = \infty$, clean data, the pair is $(1, 0)$.

    Args:
        logsnr: Log-SNR $\lambda$, any shape.

    Returns:
        $(\alpha, \sigma)$, in the shape and dtype of `logsnr`.

    Examples:
        >>> alpha_sigma(torch.tensor(40.0))
        (tensor(1.), tensor(2.0612e-09))
    """
    return torch.exp(0.5 * logsigmoid(logsnr)), torch.exp(0.5 * logsigmoid(-logsnr))


def align(value: Float[Tensor, "*b"], x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Reshape per-sample values `[b]` so that they broadcast against data `[b, ...]`.

    Without it a batch of `b` images of width `b` broadcasts along the width, silently.

    Raises:
        ValueError: If `value` is neither one number per sample nor one for all of them.
    """
    if value.shape not in ((), (1,), x.shape[:1]):
        raise ValueError(
            f"log-SNR of shape {tuple(value.shape)} for data of shape {tuple(x.shape)}: "
            "give one per sample, [b]."
        )
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def diffuse(
    x: Float[Tensor, "b *d"], eps: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"]
) -> Float[Tensor, "b *d"]:
    r"""Compute noisy data $z = \alpha x + \sigma \epsilon$.

    Args:
        x: Data.
        eps: Standard normal noise.
        logsnr: Log-SNR $\lambda$, one per sample, on any device and in any precision.

    Returns:
        In the dtype and on the device of `x`.

    Raises:
        ValueError: If noise or log-SNR have shapes that would broadcast.

    Examples:
        >>> diffuse(torch.ones(1, 2), torch.zeros(1, 2), torch.tensor([0.0]))
        tensor([[0.7071, 0.7071]])
    """
    if eps.shape != x.shape:
        raise ValueError(
            f"data of shape {tuple(x.shape)} with noise of shape {tuple(eps.shape)}: give noise "
            "like the data."
        )
    alpha, sigma = alpha_sigma(align(logsnr, x))
    return alpha.to(x) * x + sigma.to(x) * eps


def posterior(
    x: Float[Tensor, "b *d"],
    z: Float[Tensor, "b *d"],
    logsnr: Float[Tensor, "#b"],
    logsnr_next: Float[Tensor, "#b"],
) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "..."]]:
    r"""Return mean and variance of the posterior $q(z_s \mid z_t, x)$.

    Here $\lambda_s$ = `logsnr_next` $\ge \lambda_t$ = `logsnr`. Exact at $\lambda_s = \infty$,
    where it is a point mass at `x`.

    Args:
        x: Data, or an estimate of it.
        z: Noisy data $z_t$.
        logsnr: $\lambda_t$, one per sample.
        logsnr_next: $\lambda_s$, one per sample.

    Returns:
        The mean, shaped like `z`, and the variance, one value per sample.
    """
    logsnr, logsnr_next = align(logsnr, z), align(logsnr_next, z)
    alpha, _ = alpha_sigma(logsnr)
    alpha_next, sigma_next = alpha_sigma(logsnr_next)
    c = -torch.expm1(logsnr - logsnr_next)
    mean = alpha_next / alpha * torch.exp(logsnr - logsnr_next) * z + alpha_next * c * x
    return mean, sigma_next**2 * c
