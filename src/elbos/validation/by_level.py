r"""Training loss by noise level, from the training batches alone: no additional network
evaluations.

Every training computes the error of its network at random noise levels. As

$$\ell(\lambda) = \tfrac12\,\mathbb E\|\hat\epsilon - \epsilon\|^2$$

nats per dimension and unit of log-SNR, it depends on no weighting, schedule or prediction type:
trainings that differ in those are compared by it, and so are training and validation.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import require_floating, require_one_loss_each, typed
from elbos.base.codec import decode, encode
from elbos.base.processes import require_processes
from elbos.theory.schedules import Schedule
from elbos.validation.measurements import Measurements
from elbos.validation.result import Validation

WIDTH = 2.0  # log-SNR; bins at its multiples are the same for every schedule
MIN_LEVELS = 10  # fewest in a bin of a validation: fewer, and its estimate says little
ROUNDING = 1e-6  # relative, of levels: float32 has ends a little beyond those of float64


@dataclass(frozen=True, kw_only=True)
class BinnedLoss:
    r"""Mean unweighted loss $\ell = \tfrac12\|\hat\epsilon - \epsilon\|^2$ in bins of log-SNR.

    Attributes:
        edges: $k + 1$ rising log-SNRs.
        nats_per_dim: The means; None in a bin without samples.
        standard_error: Standard errors of the means, as if all samples were independent; None below
            two samples.
        num_samples: Samples in each bin.
    """

    edges: tuple[float, ...]
    nats_per_dim: tuple[float | None, ...]
    standard_error: tuple[float | None, ...]
    num_samples: tuple[int, ...]

    @classmethod
    def from_sums(cls, edges: Sequence[float], sums: Float[Tensor, "3 k"]) -> "BinnedLoss":
        """Make the means from each bin's number, sum and sum of squares of the losses."""
        means: list[float | None] = []
        errors: list[float | None] = []
        for num, total, square in sums.T.tolist():
            mean = total / num if num else None
            scatter = max(square - total * (mean or 0.0), 0.0)
            means.append(mean)
            errors.append(math.sqrt(scatter / (num - 1) / num) if num > 1 else None)
        return cls(
            edges=tuple(edges),
            nats_per_dim=tuple(means),
            standard_error=tuple(errors),
            num_samples=tuple(map(int, sums[0].tolist())),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the mean losses in bins of log-SNR as JSON values."""
        return dict(encode(self, has_types=False))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "BinnedLoss":
        loss: BinnedLoss = decode(cls, dict(data))
        return loss


@typed
def scalars(result: Validation | BinnedLoss, *, name: str | None = None) -> dict[str, float]:
    """Convert a validation or training loss to named numbers, for any experiment tracker.

    They suit, for example, `accelerator.log(scalars(result), step=step)` or Lightning's `log_dict`.
    A validation gives its bound and standard error, both in bits per dimension; both results give
    the mean loss in each bin of log-SNR, nats per dimension.

    The bins of a validation are those of `LossByLevel(schedule)`, so that a tracker lays training
    and validation over each other. In training, a bin's mean is over the levels that it draws; in a
    validation, over all alike. A bin in which a validation has fewer than 10 levels is left out.

    Args:
        result: A validation, or the loss by noise level.
        name: Prefix of all names. Default: "validation", for a `BinnedLoss` "train".

    Examples:
        >>> loss_by_level = LossByLevel([-5.0, 0.0, 5.0])
        >>> loss_by_level.update(torch.tensor([-1.0, 1.0]), torch.tensor([0.25, 0.5]))
        >>> scalars(loss_by_level.result())["train/loss_by_level/logsnr_0_to_5"]
        0.5
    """
    numbers = {}
    if isinstance(result, BinnedLoss):
        name, edges, values = name or "train", result.edges, result.nats_per_dim
    else:
        name, bits = name or "validation", result.bits
        numbers[f"{name}/bits_per_dim"] = bits.mean
        if math.isfinite(bits.standard_error):  # infinite or NaN for a single sample
            numbers[f"{name}/standard_error"] = bits.standard_error
        edges = _even_edges(result.measurements.schedule)
        values = tuple(_mean(result.measurements, *ends) for ends in pairwise(edges))
    for (low, high), value in zip(pairwise(edges), values, strict=True):
        if value is not None:
            numbers[f"{name}/loss_by_level/logsnr_{low:g}_to_{high:g}"] = value
    return numbers


def _even_edges(schedule: Schedule) -> tuple[float, ...]:
    """Return the multiples of a bin's width around a schedule's levels."""
    low = math.floor(schedule.logsnr_min / WIDTH + ROUNDING)
    high = math.ceil(schedule.logsnr_max / WIDTH - ROUNDING)
    return tuple(WIDTH * i for i in range(low, max(high, low + 1) + 1))


def _mean(measurements: Measurements, low: float, high: float) -> float | None:
    """Return the mean loss in a bin, as far as the levels go; None if they are few."""
    schedule, levels = measurements.schedule, measurements.logsnr
    low, high = max(low, schedule.logsnr_min), min(high, schedule.logsnr_max)
    if ((levels >= low) & (levels < high)).sum() < MIN_LEVELS:
        return None
    return measurements.estimate(measurements.curve((low + high) / 2, high - low)).mean


class LossByLevel:
    r"""Running mean of the unweighted training loss in bins of log-SNR.

    An update is a few small operations on the device of the losses, without synchronization.
    Results are deterministic: the same batches give the same bits.

    The losses of a batch, $\ell = \tfrac12\|\hat\epsilon - \epsilon\|^2$ per dimension, follow from
    what a training loop has:

    | it has | losses |
    |---|---|
    | output and target | `parameterizations.V().eps_loss(v_hat, v, logsnr)`, so for every type |
    | the loss of an `Objective` | `loss / objective.w_over_p(logsnr).to(loss)` |

    and so do log-SNRs: `alphas_cumprod[step].logit()` from a table of steps, `-2 * sigma.log()`
    from EDM's noise, `schedules.Flow().logsnr(t)` from times of rectified flow (1 is noise).

    Args:
        levels: A schedule, for bins 2 wide at even log-SNRs, the same for every schedule; or the
            bin edges, increasing log-SNRs.

    Examples:
        >>> from elbos import parameterizations, schedules
        >>> schedule, v = schedules.Cosine(), parameterizations.V()
        >>> loss_by_level = LossByLevel(schedule)
        >>> for x in torch.randn(10, 200, 3):  # a training loop: here of a network that returns x
        ...     eps, logsnr = torch.randn_like(x), schedule.sample(len(x))
        ...     loss_by_level.update(logsnr, v.eps_loss(x, v.target(x, eps, logsnr), logsnr))
        >>> sum(loss_by_level.result().num_samples)
        2000
        >>> loss_by_level.reset()  # after each line of the log
    """

    def __init__(self, levels: Schedule | Sequence[float] | Float[Tensor, " edges"]) -> None:
        if isinstance(levels, Schedule):
            levels = _even_edges(levels)
        edges = torch.as_tensor(levels, dtype=torch.float64).detach().cpu().clone()
        is_rising = edges.ndim == 1 and len(edges) > 1 and bool((edges.diff() > 0).all())
        if not (is_rising and edges.isfinite().all()):
            raise ValueError(f"the edges are {edges.tolist()}: give two or more rising log-SNRs.")
        self.edges = tuple(edges.tolist())
        edges[0] -= ROUNDING * (1 + edges[0].abs())
        edges[-1] += ROUNDING * (1 + edges[-1].abs())
        self._bounds = edges
        self._sums = torch.zeros(3, len(edges) - 1, dtype=torch.float64)  # number, sum, of squares

    @torch.no_grad()
    def update(self, logsnr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        r"""Add the losses of a batch to the running means.

        Losses that are not finite and noise levels outside the bins are ignored.

        Args:
            logsnr: The batch's noise levels, of float32 or float64, on any device.
            loss: $\ell$ of each sample, nats per dimension and unit of log-SNR.
        """
        sums = self.sums(logsnr, loss)
        self._sums = self._sums.to(sums) + sums

    def sums(self, logsnr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> Float[Tensor, "3 k"]:
        """Return a batch's number, sum and sum of squares of the losses in each bin."""
        require_floating(logsnr=logsnr, loss=loss)
        require_one_loss_each(logsnr, loss)
        device = loss.device
        dtype = torch.float32 if device.type == "mps" else torch.float64  # mps has no float64
        self._bounds = self._bounds.to(device, dtype)
        logsnr, loss = logsnr.to(device, dtype), loss.to(dtype)
        low, high = self._bounds[:-1, None], self._bounds[1:, None]
        is_inside = (logsnr >= low) & (logsnr < high) & loss.isfinite()  # [k, b]
        powers = torch.stack([torch.ones_like(loss), loss, loss.square()])
        return torch.where(is_inside, powers[:, None], 0.0).sum(2)

    def result(self, *, is_shared: bool = False) -> BinnedLoss:
        """Return the mean loss so far in each bin of log-SNR, which synchronizes the device.

        Args:
            is_shared: Whether all processes of `torch.distributed` make this call: each gets the
                means over the batches of all processes. Default: the means of this process.
        """
        sums = self._sums.clone()
        if is_shared:
            require_processes()
            dist.all_reduce(sums)
        return BinnedLoss.from_sums(self.edges, sums)

    def reset(self) -> None:
        """Discard all losses that were added so far."""
        self._sums = torch.zeros_like(self._sums)

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the running sums and the bin edges."""
        sums = self._sums.cpu().double().clone()
        return {"sums": sums, "edges": torch.tensor(self.edges, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the running sums; raise a ValueError if the bins differ."""
        expected = torch.tensor(self.edges, dtype=torch.float64)
        edges, sums = state["edges"].cpu().double(), state["sums"]
        is_alike = edges.shape == expected.shape and sums.shape == self._sums.shape
        if not (is_alike and torch.allclose(edges, expected)):
            raise ValueError(f"the state has bin edges {edges.tolist()}, not {expected.tolist()}")
        self._sums = sums.to(self._sums.device, self._sums.dtype).clone()
