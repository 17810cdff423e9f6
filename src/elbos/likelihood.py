r"""Likelihood: the loss at every noise level, and bits per dimension.

$$-\log p(x) \le
  \underbrace{\mathbb E[-\log p(x \mid z_{\lambda_\max})]}_\text{decoder}
  + \underbrace{\tfrac12\int_{\lambda_\min}^{\lambda_\max}
    \mathbb E\|\hat\epsilon - \epsilon\|^2 d\lambda}_\text{diffusion}
  + \underbrace{\mathrm{KL}(q(z_{\lambda_\min} \mid x)\,\|\,\mathcal N(0, I))}_\text{prior}.$$

Discrete data with $K$ levels are decoded by
$p(x \mid z) = \prod_i \mathrm{softmax}_k\, {-\tfrac12} e^{\lambda_\max}(z_i/\alpha - l_k)^2$:
no dequantization, and a true bound on the discrete log-likelihood. Continuous data are decoded by
$\mathcal N(x; z/\alpha, e^{-\lambda_\max} I)$, a bound on the density.

Everything is per image and in nats per dimension; bits per dimension are that over $\ln 2$.

References:
    Kingma et al. (2021), https://arxiv.org/abs/2107.00630
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.denoiser import Denoise
from elbos.process import diffuse
from elbos.schedules import Schedule

DECODER_CHUNK = 2**24  # numbers held at once by the discrete decoder


def eps_loss(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    logsnr: Float[Tensor, " b"],
    *,
    cond: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " b"]:
    r"""The loss at given noise levels, $\tfrac12\|\hat\epsilon - \epsilon\|^2$ with fresh noise;
    nats per dimension.

    Args:
        denoiser: Estimates the noise.
        x: Data.
        logsnr: One level per sample.
        cond: What the denoiser is conditioned on.
        generator: Source of the noise, on the CPU.
    """
    eps = torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)
    _, eps_hat = denoiser(diffuse(x, eps, logsnr), logsnr, cond)
    return 0.5 * (eps_hat - eps).square().flatten(1).mean(1)


def prior_loss(x: Float[Tensor, "b *d"], logsnr_min: float) -> Float[Tensor, " b"]:
    r"""$\mathrm{KL}(q(z_{\lambda_\min} \mid x)\,\|\,\mathcal N(0, I))$, nats per dimension.

    $\tfrac12(\alpha^2 x^2 + \sigma^2 - 1 - \ln\sigma^2)$, and $\sigma^2 = 1 - \alpha^2$.
    """
    level = torch.tensor(logsnr_min, dtype=torch.float64)
    log_variance = logsigmoid(-level).item()
    return 0.5 * (torch.sigmoid(level).item() * (x.square() - 1) - log_variance).flatten(1).mean(1)


def decoder_loss(
    x: Float[Tensor, "b *d"],
    logsnr_max: float,
    num_levels: int | None,
    *,
    generator: torch.Generator | None = None,
) -> Float[Tensor, " b"]:
    r"""$-\log p(x \mid z_{\lambda_\max})$ for one draw of $z$, nats per dimension.

    Args:
        x: Data; discrete data at the levels $2k/(K-1) - 1$.
        logsnr_max: $\lambda_\max$. For discrete data it has to resolve the levels: VDM uses 13.3
            for 256.
        num_levels: $K$, or None for continuous data.
        generator: Source of the noise, on the CPU.
    """
    eps = torch.randn(x.shape, dtype=x.dtype, generator=generator).to(x.device)
    if num_levels is None:
        return 0.5 * (eps.square() - logsnr_max + math.log(2 * math.pi)).flatten(1).mean(1)
    z_over_alpha = x + math.exp(-logsnr_max / 2) * eps
    truth = ((x + 1) / 2 * (num_levels - 1)).round().long()
    levels = torch.linspace(-1, 1, num_levels, dtype=x.dtype, device=x.device)
    num_rows = max(1, DECODER_CHUNK // (x[0].numel() * num_levels))  # all levels of all pixels
    losses = []
    for i in range(0, len(x), num_rows):
        z, k = z_over_alpha[i : i + num_rows, ..., None], truth[i : i + num_rows, ..., None]
        logits = -0.5 * math.exp(logsnr_max) * (z - levels).square()
        log_p = logits.log_softmax(-1).gather(-1, k)[..., 0]
        losses.append(-log_p.flatten(1).mean(1))
    return torch.cat(losses)


@dataclass(frozen=True)
class Bound:
    """The variational bound of each image, in its three terms; nats per dimension.

    Args:
        decoder: Loss of the decoder.
        diffusion: Integral of the loss over noise levels, estimated.
        prior: KL divergence from the prior.
    """

    decoder: Float[Tensor, " b"]
    diffusion: Float[Tensor, " b"]
    prior: Float[Tensor, " b"]

    @property
    def total(self) -> Float[Tensor, " b"]:
        """The bound on the negative log-likelihood."""
        return self.decoder + self.diffusion + self.prior


def variational_bound(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    schedule: Schedule,
    *,
    num_levels: int | None,
    num_times: int = 8,
    cond: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Bound:
    r"""An unbiased estimate of each image's variational bound.

    The integral over noise levels is estimated at `num_times` levels per image, stratified in the
    schedule's time with an offset of the image's own: $t_{ij} = \mathrm{mod}(u_i + j/m, 1)$. Images
    are independent given the model, so the standard deviation of `total` over $\sqrt n$ is the
    standard error of its mean, over images and noise.

    Args:
        denoiser: Estimates the noise.
        x: Data in [-1, 1].
        schedule: Its ends are $\lambda_\min$ and $\lambda_\max$; its density changes the variance
            alone.
        num_levels: $K$ of discrete data, or None.
        num_times: Network evaluations per image. Default: 8.
        cond: What the denoiser is conditioned on.
        generator: Source of the randomness, on the CPU.
    """
    offsets = torch.rand(len(x), dtype=torch.float64, generator=generator)
    diffusion = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    for j in range(num_times):
        logsnr = schedule.logsnr((offsets + j / num_times) % 1.0)
        loss = eps_loss(denoiser, x, logsnr.to(x), cond=cond, generator=generator)
        diffusion += loss / schedule.density(logsnr).to(x) / num_times
    return Bound(
        decoder=decoder_loss(x, schedule.logsnr_max, num_levels, generator=generator),
        diffusion=diffusion,
        prior=prior_loss(x, schedule.logsnr_min),
    )


@dataclass(frozen=True)
class LossCurve:
    r"""The loss at every noise level, $\tfrac12\mathbb E\|\hat\epsilon - \epsilon\|^2$; nats/dim.

    Comparable over schedules, weightings and parameterizations, since none of them enters.

    Args:
        logsnr: Noise levels, increasing.
        loss: Mean over images.
        standard_error: Of that mean, over images and noise.
    """

    logsnr: Float[Tensor, " n"]
    loss: Float[Tensor, " n"]
    standard_error: Float[Tensor, " n"]

    @classmethod
    def of(cls, logsnr: Float[Tensor, " n"], losses: Float[Tensor, "n b"]) -> "LossCurve":
        """The curve of measured losses, of every image at every level; at least two images."""
        return cls(logsnr, losses.mean(1), losses.std(1) / math.sqrt(losses.shape[1]))


def losses_by_level(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    logsnr: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n b"]:
    """The loss of every image at every one of some noise levels, one evaluation each.

    Args:
        denoiser: Estimates the noise.
        x: Data.
        logsnr: Noise levels.
        cond: What the denoiser is conditioned on.
        generator: Source of the noise, on the CPU.
    """
    return torch.stack(
        [
            eps_loss(denoiser, x, level.to(x).expand(len(x)), cond=cond, generator=generator)
            for level in logsnr
        ]
    )


def loss_curve(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    logsnr: Float[Tensor, " n"],
    *,
    cond: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> LossCurve:
    """The loss by noise level of one batch of images; see `losses_by_level` for the arguments."""
    losses = losses_by_level(denoiser, x, logsnr, cond=cond, generator=generator)
    return LossCurve.of(logsnr, losses)
