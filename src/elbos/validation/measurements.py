r"""Losses of many samples at many noise levels, from which integrals over noise levels are
estimated.

The bound, a weighted loss under any weighting, the loss at a noise level and the ELBO at every one
are all integrals $\int h(\lambda)\,\mathbb E\,\ell\,d\lambda$ of the same loss $\ell =
\tfrac12\|\hat\epsilon - \epsilon\|^2$. Measured at levels drawn from any density $p$, each sample
gives an unbiased estimate of each integral, and the same techniques make all of these estimates
precise:

$$\int h\,g\,d\lambda
  + \frac1m \sum_{k=1}^m h(\lambda_k)\,\frac{\ell_k - g(\lambda_k)}{p(\lambda_k)}.$$

- **A control variate** $g$, the loss curve of a first pass on other noise, takes out of the
  estimate that $\ell$ differs between noise levels.
- **A density of minimal variance**: what remains is the scatter of $\ell$ at one level, over
  samples and noise, and is least for $p \propto$ its standard deviation (Neyman's allocation).
- **Stratified levels, shared over samples** (`draws`).

Rounds repeat this with independent randomness, so that the scatter of the measurement and the
scatter between samples are both known (`Estimate`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from elbos.base.numbers import count
from elbos.theory.adaptive import Adaptive
from elbos.theory.schedules import Schedule
from elbos.validation.estimate import Estimate

NUM_BINS = 48  # bins of the pilot: loss curves are nearly linear on half a unit of log-SNR
NUM_CELLS = 1000 * NUM_BINS  # cells of integrals over the control variate: h may jump anywhere
MIN_PILOT_TIMES = 32  # noise levels per sample
MIN_LOSSES_PER_BIN = 25  # least number for a usable variance in a bin
MIN_PILOT_SAMPLES = math.ceil(MIN_LOSSES_PER_BIN * NUM_BINS / MIN_PILOT_TIMES)
MIN_TUNING_SAMPLES = 8  # fewer may miss a component of the data: 5 double the error on a mixture


@dataclass(frozen=True)
class ControlVariate:
    r"""Approximate loss curve used as a control variate.

    Attributes:
        logsnr: Nodes, from $\lambda_\min$ to $\lambda_\max$.
        loss: $\ell$ of a validation there; nats per dimension and unit of log-SNR.
    """

    logsnr: Float[Tensor, " k"]
    loss: Float[Tensor, " k"]

    def __repr__(self) -> str:
        ends = f"log-SNR {self.logsnr[0]:g} to {self.logsnr[-1]:g}"
        return f"ControlVariate({len(self.logsnr)} nodes, {ends})"

    def __call__(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        width = self.logsnr[1] - self.logsnr[0]
        place = ((logsnr - self.logsnr[0]) / width).clamp(0, len(self.logsnr) - 1)
        below = place.long().clamp(max=len(self.logsnr) - 2)
        return torch.lerp(self.loss[below], self.loss[below + 1], place - below)

    def integral(self, h: Callable[[Tensor], Tensor]) -> float:
        r"""Compute the integral $\int h\,g\,d\lambda$ of a function $h$ times the control variate
        $g$.

        At a jump of $h$, the rule is exact to half a cell.
        """
        edges = torch.linspace(0, 1, NUM_CELLS + 1, dtype=torch.float64)
        edges = self.logsnr[0] + (self.logsnr[-1] - self.logsnr[0]) * edges
        middle = (edges[1:] + edges[:-1]) / 2
        return ((h(middle) * self(middle)).mean() * (edges[-1] - edges[0])).item()


@dataclass(frozen=True)
class Measurements:
    r"""Measured losses of samples at random noise levels, in independent rounds.

    Attributes:
        schedule: Distribution of the noise levels, with density $p$.
        logsnr: The levels, float64.
        loss: $\ell$ at them, nats per dimension and unit of log-SNR, float64.
        control: The control variate $g$, fitted on other losses; None means zero.
        is_lattice: Whether the levels of all samples together form a lattice; False for a subset of
            samples.
    """

    schedule: Schedule
    logsnr: Float[Tensor, "n r m"]
    loss: Float[Tensor, "n r m"]
    control: ControlVariate | None = None
    is_lattice: bool = True

    def __len__(self) -> int:
        return len(self.loss)

    def __repr__(self) -> str:
        num, num_rounds, num_times = self.loss.shape
        rounds = count(num_rounds, "rounds")
        return f"Measurements({num} samples, {rounds} of {num_times} noise levels)"

    @cached_property
    def order(self) -> Int64[Tensor, " n"]:
        """Permutation that sorts the samples by noise level."""
        return self.logsnr[:, 0, 0].argsort()

    @cached_property
    def _residual(self) -> Float[Tensor, "n r m"]:
        predicted = 0.0 if self.control is None else self.control(self.logsnr)
        return (self.loss - predicted) * torch.exp(-self.schedule.log_density(self.logsnr))

    def integral(self, h: Callable[[Tensor], Tensor]) -> Float[Tensor, "n r"]:
        r"""Estimate the integral $\int h\,\ell\,d\lambda$ of the loss $\ell$ weighted by $h$.

        Args:
            h: A function of log-SNR: constant one for the diffusion term of the bound, a weighting
                for the weighted loss, a step function for the ELBO at a noise level.
        """
        predicted = 0.0 if self.control is None else self.control.integral(h)
        return predicted + (h(self.logsnr) * self._residual).mean(2)

    def elbo(self, logsnr: float, prior: Float[Tensor, " n"]) -> Float[Tensor, "n r"]:
        r"""Estimate the negative ELBO of each sample noised to log-SNR $\lambda$: the prior loss
        plus $\int\ell$ from $\lambda_\min$ to $\lambda$.
        """
        return prior[:, None] + self.integral(lambda level: (level < logsnr).double())

    def curve(self, logsnr: float, width: float) -> Float[Tensor, "n r"]:
        """Estimate the loss of each sample in an interval of log-SNR around `logsnr`."""
        return self.integral(lambda level: ((level - logsnr).abs() < width / 2) / width)

    def estimate(self, values: Float[Tensor, "n r"]) -> Estimate:
        """Estimate the sample mean of measured values and its errors."""
        return Estimate.from_rounds(values[self.order], is_lattice=self.is_lattice)


def num_pilot_times(num_samples: int) -> int:
    """Return the noise levels per sample of a pilot, for at least 25 losses in each bin."""
    return max(MIN_PILOT_TIMES, math.ceil(MIN_LOSSES_PER_BIN * NUM_BINS / num_samples))


def fit(pilot: Measurements) -> tuple[Adaptive, ControlVariate]:
    """Fit a density of noise levels and a control variate to a pilot measurement.

    The pilot has separate noise, at levels that cover the range evenly. The control variate is its
    loss by least squares, linear between the edges of bins; the density follows, bin by bin, the
    standard deviation of the loss around it.
    """
    low, high = pilot.schedule.logsnr_min, pilot.schedule.logsnr_max
    nodes = torch.linspace(low, high, NUM_BINS + 1, dtype=torch.float64)
    logsnr, loss = pilot.logsnr.flatten(), pilot.loss.flatten()
    place = (logsnr - low) / (high - low) * NUM_BINS
    hats = (1 - (place[:, None] - torch.arange(NUM_BINS + 1)).abs()).clamp(min=0)
    solution = torch.linalg.lstsq(hats, loss[:, None], driver="gelsd").solution
    control = ControlVariate(nodes, solution[:, 0])
    bins, ones = place.long().clamp(max=NUM_BINS - 1), torch.ones_like(loss)
    count, square = torch.zeros(2, NUM_BINS, dtype=torch.float64)
    count.index_add_(0, bins, ones)
    square.index_add_(0, bins, (loss - control(logsnr)).square())
    schedule = Adaptive(logsnr_min=low, logsnr_max=high, num_bins=NUM_BINS)
    is_measured = (count > 0).double()
    schedule.load_state_dict({"total": (square / count.clamp(min=1)).sqrt(), "count": is_measured})
    return schedule, control
