"""Interface of samplers, and the grid of noise levels that they follow."""

import abc
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import Typed, require_single, typed
from elbos.base.conditions import Condition
from elbos.theory.denoiser import Clipping, Denoise, clipping_of, estimate
from elbos.theory.process import align, alpha_sigma
from elbos.theory.schedules import Schedule

Estimate = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
r"""Function from $z$ and log-SNR to $(\hat x, \hat\epsilon)$, at a fixed condition."""

Noise = Callable[[], Tensor]
"""Standard normal noise like $z$, drawn anew by each call."""


class Sampler(Typed, abc.ABC):
    """Base class of samplers that transform noise into data.

    A sampler's settings are dataclass fields.
    """

    @torch.no_grad()
    @typed
    def __call__(
        self,
        denoiser: Denoise,
        z: Float[Tensor, "b *d"],
        logsnrs: Float[Tensor, " n"],
        cond: Condition = None,
        generator: torch.Generator | None = None,
        *,
        clip: float | None = None,
    ) -> Float[Tensor, "b *d"]:
        r"""Transform noise into samples by repeated calls of a denoiser.

        The log-SNRs of the calls increase.

        Args:
            denoiser: Estimates data and noise.
            z: Noisy data at the first level, in float32 or float64.
            logsnrs: Noise levels, increasing, `[n + 1]` for n steps: `grid` makes them.
            cond: The condition, in any form that the denoiser accepts.
            generator: Source of the noise that is added, on the CPU. Default: torch's global one.
            clip: $\hat x$ is clamped to [-clip, clip], and $\hat\epsilon$ follows from it and $z$.
                Default: the clipping of the scheduler for a denoiser from diffusers; none for
                others.

        Returns:
            `z` at the last level, in the dtype of `z`, without a gradient; a sample of data where
            that level is $\infty$. A denoiser that needs gradients, for guidance, has to compute
            them under `torch.enable_grad()`.

        Raises:
            ValueError: If `z` is in half precision, in which neighbouring levels are equal, the
                levels are not increasing from a finite first level, or the denoiser does not return
                a pair of estimates.
        """
        require_single(z=z)
        is_grid = len(logsnrs) > 1 and logsnrs[0] > -math.inf and (logsnrs.diff() > 0).all()
        if not is_grid:
            raise ValueError(
                f"logsnrs is {logsnrs.tolist()}: give two or more log-SNRs that increase, from "
                "noise, at a finite one, to data."
            )

        def noise() -> Tensor:
            return torch.randn(z.shape, dtype=z.dtype, generator=generator).to(z.device)

        def clipped(z: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
            x_hat, eps_hat = estimate(denoiser, z, logsnr, cond)
            if clipping is None:
                return x_hat, eps_hat
            x_hat = clipping(x_hat)
            alpha, sigma = alpha_sigma(align(logsnr, z))
            return x_hat, (z - alpha * x_hat) / sigma

        clipping = clipping_of(denoiser) if clip is None else Clipping(limit=clip)
        return self._sample(clipped, z, logsnrs.to(z).unsqueeze(1), noise)

    @abc.abstractmethod
    def _sample(
        self,
        estimate: Estimate,
        z: Float[Tensor, "b *d"],
        levels: Float[Tensor, "n 1"],
        noise: Noise,
    ) -> Float[Tensor, "b *d"]:
        """Run the sampling algorithm from the first to the last noise level."""

    def num_evaluations(self, num_steps: int) -> int:
        """Return the number of denoiser calls (NFE) for a grid of `num_steps` steps."""
        return num_steps


@typed
def grid(schedule: Schedule, num_steps: int) -> Float[Tensor, " n_plus_1"]:
    r"""Return the noise levels at evenly spaced times of a noise schedule.

    They run from $\lambda_\min$ to $\lambda_\max$, followed by $\infty$ (clean data). With
    `schedules.EDMSampling()` it is EDM's grid.

    Args:
        schedule: Schedule whose time is divided evenly.
        num_steps: Number of steps, at least 2.

    Returns:
        float64 log-SNRs, `[num_steps + 1]`.

    Examples:
        >>> from elbos import schedules
        >>> grid(schedules.Linear(logsnr_min=-10.0, logsnr_max=10.0), 3)
        tensor([-10.,   0.,  10.,  inf], dtype=torch.float64)
    """
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}: give at least 2.")
    t = torch.linspace(1, 0, num_steps, dtype=torch.float64)
    return torch.cat([schedule.logsnr(t), torch.tensor([math.inf], dtype=torch.float64)])
