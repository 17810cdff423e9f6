"""The variational bound of every image, estimated from some noise levels of its own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.checks import require_positive
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

    @property
    def bits_per_dim(self) -> float:
        """The mean of the bound over the images, in bits per dimension."""
        return self.total.mean().item() / math.log(2)

    @property
    def standard_error(self) -> float:
        """The standard error of `bits_per_dim`, over images and noise; of two images or more."""
        return self.total.std().item() / math.sqrt(len(self.total)) / math.log(2)

    @classmethod
    def cat(cls, bounds: Sequence["Bound"]) -> "Bound":
        """The bounds of the images of several batches."""
        return cls(
            *(
                torch.cat([getattr(bound, term) for bound in bounds])
                for term in ("decoder", "diffusion", "prior")
            )
        )


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
    are independent given the model, so the standard error follows from their scatter.

    Args:
        denoiser: Estimates the noise.
        x: Data in [-1, 1]; discrete data have the values $2k/(K-1) - 1$. All is computed in
            float32, or in float64 for float64 data.
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
        ValueError: If discrete data have other values, `num_times` is not positive, or the denoiser
            returns no pair of estimates.

    Examples:
        Of many images, batch by batch:

        >>> from elbos import oracles, schedules
        >>> one = torch.ones(1)
        >>> denoiser = oracles.GaussianMixture(one, torch.zeros(1, 2), one)
        >>> x, _ = denoiser.sample(1000)
        >>> schedule = schedules.Linear(logsnr_min=-10.0, logsnr_max=13.3)
        >>> bound = Bound.cat(
        ...     [
        ...         variational_bound(denoiser, some, schedule, num_levels=None)
        ...         for some in x.split(250)
        ...     ]
        ... )
        >>> abs(bound.bits_per_dim - 2.047) < 4 * bound.standard_error  # the entropy of N(0, 1)
        True
    """
    require_positive(num_times=num_times)
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
