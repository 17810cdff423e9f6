"""Weightings that wrap another weighting."""

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.theory.extrema import rising_intervals
from elbos.theory.weightings.weighting import WeightFunction, Weighting


@dataclass(frozen=True)
class Monotone(Weighting):
    r"""Least monotone majorant of a weighting, $w(\lambda) = \sup_{\mu \ge \lambda}
    w_\mathrm{inner}(\mu)$.

    The running maximum from the right: the smallest weighting that never rises and is nowhere below
    `inner`, hence the nearest likelihood objective that loses nothing. `Monotone(EDM())` is the
    paper's EDM-monotonic.

    The maxima are found once, on $[-50, 50]$, and to about 1e-7 (`extrema.rising_intervals`); the
    supremum is then exact, not read off a grid. The first call finds them: make it before
    `torch.compile` with `fullgraph=True`.

    Args:
        inner: The weighting, or any callable from log-SNR to weight.

    Raises:
        ValueError: At its first use, if `inner` is not finite on $[-50, 50]$.

    Examples:
        >>> from elbos.theory.weightings import IDDPM
        >>> Monotone(IDDPM())(torch.tensor([-9.0, 0.0]))
        tensor([1., 1.])

    References:
        Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
    """

    inner: WeightFunction

    @cached_property
    def _peaks(self) -> list[tuple[float, float]]:
        """Log-SNRs at which the original weighting has a local maximum.

        Each has the largest weight at or above that log-SNR.
        """
        ends = [end for _, end in rising_intervals(self.inner, -50.0, 50.0, num_points=20_001)]
        w = self.inner(torch.tensor(ends, dtype=torch.float64))
        return list(zip(ends, w.flip(0).cummax(0).values.flip(0).tolist(), strict=True))

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        w = self.inner(logsnr)
        for peak, height in self._peaks:
            w = torch.where(logsnr <= peak, w.clamp(min=height), w)
        return w


@dataclass(frozen=True)
class Shifted(Weighting):
    r"""Weighting shifted along the log-SNR axis, $w(\lambda) = w_\mathrm{inner}(\lambda - 2s)$.

    For $d \times d$ images, $s = \ln(64/d)$ carries a weighting chosen at $64 \times 64$ over.

    Args:
        inner: The weighting, or any callable from log-SNR to weight.
        shift: $s$.

    References:
        Hoogeboom et al. (2023), https://arxiv.org/abs/2301.11093
    """

    inner: WeightFunction
    shift: float

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.inner(logsnr - 2 * self.shift)
