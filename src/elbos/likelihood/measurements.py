r"""Losses measured at many noise levels of many images, from which any integral over noise levels
follows.

The bound, a weighted loss under any weighting, the loss at a noise level and the ELBO at every one
are all integrals $\int h(\lambda)\,\mathbb E\,\ell\,d\lambda$ of the same loss
$\ell = \tfrac12\|\hat\epsilon - \epsilon\|^2$. Measured at levels drawn from any density $p$, each
image gives an unbiased estimate of each of them, and what makes the estimate precise is the same
for all:

$$\int h\,g\,d\lambda
  + \frac1m \sum_{k=1}^m h(\lambda_k)\,\frac{\ell_k - g(\lambda_k)}{p(\lambda_k)}.$$

- **A control variate** $g$, the loss curve of a first pass on other noise, takes out of the
  estimate that $\ell$ differs between noise levels.
- **A density of minimal variance**: what remains is the scatter of $\ell$ at one level, over images
  and noise, and is least for $p \propto$ its standard deviation (Neyman's allocation).
- **Stratified levels, shared over images** (`stratified_times`): the $nm$ times are a lattice, of
  which each image gets $m$ that are evenly spread themselves.

Rounds repeat this with independent randomness, so that the scatter between the rounds of an image,
which is the measurement's, and the scatter between images are both known (`Estimate`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adaptive import Adaptive
from elbos.conditions import Condition
from elbos.denoiser import Denoise
from elbos.likelihood.terms import eps_loss
from elbos.schedules import Schedule

NUM_BINS = 48  # of the first pass: half a unit of log-SNR, on which loss curves are straight
NUM_CELLS = 1000 * NUM_BINS  # of integrals over the control variate, whose h may jump anywhere


def stratified_times(
    num: int, num_times: int, generator: torch.Generator | None = None
) -> Float[Tensor, "n m"]:
    r"""Times for $n$ images, shared out at random: $t_{ik} = (\tfrac{\pi(i) + u}{n} + k) / m$.

    Each is uniform on [0, 1]. All of them together are $nm$ equally spaced points, and those of one
    image $m$ equally spaced points.

    Args:
        num: Images, $n$.
        num_times: Times per image, $m$.
        generator: Source of the offset $u$ and of the permutation $\pi$.

    Returns:
        float64 times, `[n, m]`.

    Examples:
        >>> stratified_times(2, 3, torch.Generator().manual_seed(0)).flatten().sort()[0].diff() * 6
        tensor([1.0000, 1.0000, 1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """
    u = torch.rand((), dtype=torch.float64, generator=generator)
    offset = (torch.randperm(num, generator=generator) + u) / num
    return (offset[:, None] + torch.arange(num_times)) / num_times


@torch.no_grad()
def losses_at(
    denoiser: Denoise,
    x: Float[Tensor, "b *d"],
    logsnr: Float[Tensor, "b m"],
    *,
    cond: Condition = None,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "b m"]:
    """The loss of each image at levels of its own, with fresh noise; one evaluation each.

    Args:
        denoiser: Estimates the noise.
        x: Data.
        logsnr: Noise levels, in float64 on the CPU as a schedule gives them.
        cond: What the denoiser is conditioned on.
        generator: Source of the noise, on the CPU.

    Returns:
        Nats per dimension, without a gradient.

    Raises:
        ValueError: If the denoiser returns no pair of estimates.
    """
    return torch.stack(
        [eps_loss(denoiser, x, level.to(x), cond=cond, generator=generator) for level in logsnr.T],
        dim=1,
    )


@dataclass(frozen=True)
class Estimate:
    r"""A mean over images, and how well it is known.

    Args:
        mean: The estimate.
        standard_error: As an estimate of the mean over all images there could be: it counts that
            these are a sample, and the noise and noise levels.
        measurement_error: As an estimate of the mean over these images: noise and noise levels
            alone. NaN from a single round.
    """

    mean: float
    standard_error: float
    measurement_error: float

    @classmethod
    def from_rounds(cls, values: Float[Tensor, "n r"]) -> "Estimate":
        """The mean over the estimates of each image in each round; at least two images."""
        num_images, num_rounds = values.shape
        within = values.var(1).mean() / num_rounds if num_rounds > 1 else torch.tensor(math.nan)
        per_image = values.mean(1)
        return cls(
            mean=per_image.mean().item(),
            standard_error=math.sqrt(per_image.var().item() / num_images),
            measurement_error=math.sqrt(within.item() / num_images),
        )

    @property
    def sampling_error(self) -> float:
        """The standard error that remains if these images are measured without error."""
        return math.sqrt(max(self.standard_error**2 - self.measurement_error**2, 0.0))


@dataclass(frozen=True)
class Curve:
    r"""A loss curve, linear between nodes that are evenly spaced from end to end.

    Args:
        logsnr: Nodes, from $\lambda_\min$ to $\lambda_\max$.
        loss: $\tfrac12\mathbb E\|\hat\epsilon - \epsilon\|^2$ there; nats per dimension.
    """

    logsnr: Float[Tensor, " k"]
    loss: Float[Tensor, " k"]

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        width = self.logsnr[1] - self.logsnr[0]
        place = ((logsnr - self.logsnr[0]) / width).clamp(0, len(self.logsnr) - 1)
        below = place.long().clamp(max=len(self.logsnr) - 2)
        return torch.lerp(self.loss[below], self.loss[below + 1], place - below)

    def integral(self, h: Callable[[Tensor], Tensor]) -> float:
        r"""$\int h\,g\,d\lambda$ by the midpoint rule: where $h$ jumps, to half a cell."""
        edges = torch.linspace(0, 1, NUM_CELLS + 1, dtype=torch.float64)
        edges = self.logsnr[0] + (self.logsnr[-1] - self.logsnr[0]) * edges
        middle = (edges[1:] + edges[:-1]) / 2
        return ((h(middle) * self(middle)).mean() * (edges[-1] - edges[0])).item()


@dataclass(frozen=True)
class Measurements:
    r"""The losses of $n$ images in $r$ independent rounds, at $m$ noise levels in each.

    Args:
        schedule: What the levels were drawn from; its density is $p$.
        logsnr: The levels, float64.
        loss: $\ell$ at them, nats per dimension, float64.
        control: $g$, known before these losses were; zero for none.
    """

    schedule: Schedule
    logsnr: Float[Tensor, "n r m"]
    loss: Float[Tensor, "n r m"]
    control: Curve | None = None

    @cached_property
    def _residual(self) -> Float[Tensor, "n r m"]:
        known = 0.0 if self.control is None else self.control(self.logsnr)
        return (self.loss - known) * torch.exp(-self.schedule.log_density(self.logsnr))

    def integral(self, h: Callable[[Tensor], Tensor]) -> Float[Tensor, "n r"]:
        r"""$\int h\,\ell\,d\lambda$ of each image, as each round estimates it.

        Args:
            h: A function of log-SNR: one for the diffusion term of the bound, a weighting for its
                loss, a step for the ELBO at a noise level.
        """
        known = 0.0 if self.control is None else self.control.integral(h)
        return known + (h(self.logsnr) * self._residual).mean(2)

    def elbo(self, logsnr: float, prior: Float[Tensor, " n"]) -> Float[Tensor, "n r"]:
        r"""$L(\lambda)$ of each image, the loss of the ELBO of its noisy data: $\int\ell$ from
        $\lambda_\min$ up to $\lambda$, and the prior's.
        """
        return prior[:, None] + self.integral(lambda level: (level < logsnr).double())

    def curve(self, logsnr: float, width: float) -> Float[Tensor, "n r"]:
        r"""The loss of each image, averaged over the levels within `width` / 2 of `logsnr`."""
        return self.integral(lambda level: ((level - logsnr).abs() < width / 2) / width)


def fit(pilot: Measurements) -> tuple[Adaptive, Curve]:
    r"""The density and the control variate that make further measurements precise.

    The control variate is the pilot's loss by least squares, linear between the edges of bins; the
    density follows, bin by bin, the standard deviation of the loss around it.

    Args:
        pilot: Measurements with independent noise, at levels that cover the range evenly.
    """
    low, high = pilot.schedule.logsnr_min, pilot.schedule.logsnr_max
    nodes = torch.linspace(low, high, NUM_BINS + 1, dtype=torch.float64)
    logsnr, loss = pilot.logsnr.flatten(), pilot.loss.flatten()
    place = (logsnr - low) / (high - low) * NUM_BINS
    hats = (1 - (place[:, None] - torch.arange(NUM_BINS + 1)).abs()).clamp(min=0)
    solution = torch.linalg.lstsq(hats, loss[:, None], driver="gelsd").solution
    control = Curve(nodes, solution[:, 0])
    bins, ones = place.long().clamp(max=NUM_BINS - 1), torch.ones_like(loss)
    count, square = torch.zeros(2, NUM_BINS, dtype=torch.float64)
    count.index_add_(0, bins, ones)
    square.index_add_(0, bins, (loss - control(logsnr)).square())
    schedule = Adaptive(logsnr_min=low, logsnr_max=high, num_bins=NUM_BINS)
    is_measured = (count > 0).double()
    schedule.load_state_dict({"total": (square / count.clamp(min=1)).sqrt(), "count": is_measured})
    return schedule, control
