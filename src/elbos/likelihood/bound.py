"""The variational bound of every image, estimated from some noise levels of its own."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.conditions import Condition
from elbos.denoiser import Denoise
from elbos.likelihood.terms import at_least_single, decoder_loss, eps_loss, prior_loss
from elbos.schedules import Schedule


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


@torch.no_grad()
def variational_bound(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    schedule: Schedule,
    *,
    num_levels: int | None,
    num_times: int = 8,
    cond: Condition = None,
    generator: torch.Generator | None = None,
) -> Bound:
    r"""An unbiased estimate of each image's variational bound.

    The integral over noise levels is estimated at `num_times` levels per image, stratified in the
    schedule's time with an offset of the image's own: $t_{ij} = \mathrm{mod}(u_i + j/m, 1)$. Images
    are independent given the model, so the standard deviation of `total` over $\sqrt n$ is the
    standard error of its mean, over images and noise.

    Args:
        denoiser: Estimates the noise.
        x: Data in [-1, 1]; discrete data at the levels $2k/(K-1) - 1$. All is computed in float32,
            or in float64 for float64 data.
        schedule: Its ends are $\lambda_\min$ and $\lambda_\max$; its density changes the variance
            alone.
        num_levels: $K$ of discrete data, or None.
        num_times: Network evaluations per image. Default: 8.
        cond: What the denoiser is conditioned on.
        generator: Source of the randomness, on the CPU.

    Returns:
        The three terms, `[b]` each, without gradients. A denoiser that needs gradients inside takes
        them under `torch.enable_grad()`.

    Raises:
        ValueError: If discrete data are not at the levels, or the denoiser returns no pair of
            estimates.
    """
    x = at_least_single(x)
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
