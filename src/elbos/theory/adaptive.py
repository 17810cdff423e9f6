r"""The adaptive noise schedule: a histogram density over log-SNR that follows the weighted loss.

The loss does not depend on the density it is sampled with, its variance does. The density that
makes the variance of the loss estimator

$$\ell = \frac{v(\lambda)}{p(\lambda)}, \qquad
  v = \tfrac12\,w(\lambda)\,\|\hat\epsilon - \epsilon\|^2,$$

small is proportional to $\mathbb E[v \mid \lambda]$, which makes $\ell$ constant over noise levels
(Kingma & Gao), or, least of all, to the root second moment $\sqrt{\mathbb E[v^2 \mid \lambda]}$.
Both are followed by running means in evenly spaced bins of log-SNR. The density is constant within
a bin, so time is piecewise linear in log-SNR and its inverse is exact.

See docs/theory.md, section 5.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from elbos.base.checks import require_one_loss_each, require_positive
from elbos.theory import schedules
from elbos.theory.schedules import Schedule

# Weight of the prior in a bin, in observations. Small: otherwise the square root of the prior would
# dominate in a bin whose second moment is millions of times below the mean.
PRIOR_COUNT = 1e-4
MAX_BINS = 100_000


@dataclass(frozen=True, kw_only=True)
class Adaptive(Schedule):
    r"""Adaptive noise schedule that follows the measured loss.

    Its density is proportional to a running mean of the weighted loss in each bin of log-SNR.

    Each bin holds a decayed sum of what was observed in it and a decayed count of the observations.
    Their ratio is a running mean without start-up bias: an average at first, an exponential one
    once the memory is full. A bin without observations takes the mean of all observations.

    The only schedule with state, which `update` changes in place, and nothing but `load_state_dict`
    besides. Call it once per training step with the noise levels and losses of the batch, as the
    example of `Objective` does; the library's trainer does so itself. Until then the density is
    uniform. The state belongs in a checkpoint: `state_dict` returns it, which is all that
    accelerate's `register_for_checkpointing` needs, and `AdaptiveState` makes it part of a model's
    state dict.

    Attributes:
        num_bins: Bins on $[\lambda_\min, \lambda_\max]$. Default: 100.
        memory: Samples after which an observation's weight has fallen to $1/e$. Default: 100,000,
            about a decay of 0.999 per batch of 100.
        follow: `"mean"` for $\mathbb E[v]$, the paper's; `"root-second-moment"` for
            $\sqrt{\mathbb E[v^2]}$, the variance-optimal one.
        floor: Share of the density that stays uniform, so that no bin starves. Default: 0.1, which
            costs at most 11 % of the second moment.

    Raises:
        ValueError: If `num_bins` or `memory` is not positive, there are more than 100,000 bins,
            `follow` is neither of the two, or `floor` is not in (0, 1].

    Examples:
        >>> schedule = Adaptive(logsnr_min=-10.0, logsnr_max=10.0)
        >>> schedule.logsnr(torch.tensor([0.25], dtype=torch.float64))  # uniform before an update
        tensor([5.], dtype=torch.float64)
    """

    num_bins: int = 100
    memory: float = 100_000.0
    follow: Literal["mean", "root-second-moment"] = "mean"
    floor: float = 0.1

    def __post_init__(self) -> None:
        require_positive(num_bins=self.num_bins, memory=self.memory)
        if self.num_bins > MAX_BINS:
            raise ValueError(f"num_bins is {self.num_bins}: give at most {MAX_BINS:,}.")
        if self.follow not in ("mean", "root-second-moment"):
            raise ValueError(f"follow is {self.follow!r}: give 'mean' or 'root-second-moment'.")
        if not 0 < self.floor <= 1:
            raise ValueError(f"floor is {self.floor}: give a share above 0 and at most 1.")
        super().__post_init__()

    @cached_property
    def _total(self) -> Float[Tensor, " bins"]:
        return torch.zeros(self.num_bins, dtype=torch.float64)

    @cached_property
    def _count(self) -> Float[Tensor, " bins"]:
        return torch.zeros(self.num_bins, dtype=torch.float64)

    @property
    def _width(self) -> float:
        return (self.logsnr_max - self.logsnr_min) / self.num_bins

    def _bin(self, logsnr: Float[Tensor, "*b"]) -> Int[Tensor, "*b"]:
        return ((logsnr - self.logsnr_min) / self._width).long().clamp(0, self.num_bins - 1)

    def probabilities(self) -> Float[Tensor, " bins"]:
        """Return the sampling probability of each bin of log-SNR.

        The order of the bins is from noisy to clean.
        """
        return self._probabilities.clone()

    @cached_property
    def _probabilities(self) -> Float[Tensor, " bins"]:
        return self._adapted()

    @cached_property
    def _cdf(self) -> Float[Tensor, " edges"]:
        below = self._probabilities.cumsum(0, dtype=torch.float64)
        return torch.cat([torch.zeros(1, dtype=torch.float64), below])

    def _adapted(self) -> Float[Tensor, " bins"]:
        prior = self._total.sum() / self._count.sum()
        followed = (self._total + PRIOR_COUNT * prior) / (self._count + PRIOR_COUNT)
        if self.follow == "root-second-moment":
            followed = followed.sqrt()
        adapted = (1 - self.floor) * followed / followed.sum() + self.floor / self.num_bins
        return torch.where(self._total.any(), adapted, 1 / self.num_bins)

    def _adapt(self) -> None:
        self._probabilities.copy_(self._adapted())
        torch.cumsum(self._probabilities, 0, out=self._cdf[1:])

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        below, p = self._cdf.to(t), self._probabilities.to(t)
        i = (torch.searchsorted(below, 1 - t, right=True) - 1).clamp(0, self.num_bins - 1)
        return self.logsnr_min + self._width * (i + (1 - t - below[i]) / p[i])

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        below, p = self._cdf.to(logsnr), self._probabilities.to(logsnr)
        i = self._bin(logsnr)
        return 1 - below[i] - p[i] * ((logsnr - self.logsnr_min) / self._width - i)

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        p = self._probabilities.to(logsnr)
        return torch.log(p[self._bin(logsnr)]) - math.log(self._width)

    def update(self, logsnr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Update the sampling density of log-SNR from the losses of a batch.

        The batch is drawn from the current schedule. Negative or non-finite losses and non-finite
        log-SNRs are ignored. Give the losses of the whole global batch, in the same order in every
        process, so that all hold the same state.

        Args:
            logsnr: The batch's noise levels, on any device.
            loss: Its losses, each already divided by the density, as `Objective` gives them.
        """
        require_one_loss_each(logsnr, loss)
        logsnr = logsnr.detach().to("cpu", torch.float64)
        v = loss.detach().to("cpu", torch.float64) * self.log_density(logsnr).exp()
        observed = v.square() if self.follow == "root-second-moment" else v
        is_usable = observed.isfinite() & (v >= 0) & logsnr.isfinite()
        decay = math.exp(-len(v) / self.memory)
        i = self._bin(logsnr[is_usable])
        self._total.mul_(decay).index_add_(0, i, observed[is_usable])
        self._count.mul_(decay).index_add_(0, i, torch.ones_like(i, dtype=torch.float64))
        self._adapt()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state of the adaptive noise schedule.

        It has copies of the running sums and counts per bin, and the log-SNR range.
        """
        ends = torch.tensor([self.logsnr_min, self.logsnr_max], dtype=torch.float64)
        return {"total": self._total.clone(), "count": self._count.clone(), "ends": ends}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state of an adaptive noise schedule.

        The log-SNR range may be missing.
        """
        for name in ("total", "count"):
            if name not in state:
                raise ValueError(f"The schedule's state has no {name}: it holds {sorted(state)}.")
            if state[name].shape != (self.num_bins,):
                raise ValueError(f"The schedule's state is not of {self.num_bins} bins.")
            if not (state[name].isfinite() & (state[name] >= 0)).all():
                raise ValueError(
                    f"The schedule's state has a {name} that is negative or not finite."
                )
        own_ends = self.state_dict()["ends"]
        ends = state.get("ends", own_ends).to(own_ends)
        if not torch.allclose(ends, own_ends):
            raise ValueError(
                f"The schedule's state is of log-SNRs in {ends.tolist()}, the schedule of "
                f"{own_ends.tolist()}."
            )
        self._total.copy_(state["total"])
        self._count.copy_(state["count"])
        self._adapt()


class AdaptiveState(nn.Module):
    """Module that stores an adaptive schedule in a model's `state_dict`.

    It has no parameters and no buffers, so that nothing moves the state off the CPU or rounds it:
    it is the module's extra state, one float64 tensor `[2, num_bins + 1]`.

    Args:
        schedule: The adaptive schedule; loading a state dict changes it in place.

    Raises:
        ValueError: From `load_state_dict`, if the number of bins or the log-SNR range of the state
            differs.

    Examples:
        >>> model, schedule = nn.Linear(2, 2), Adaptive(num_bins=50)
        >>> model.schedule_state = AdaptiveState(schedule)
        >>> model.state_dict()["schedule_state._extra_state"].shape
        torch.Size([2, 51])
    """

    def __init__(self, schedule: Adaptive) -> None:
        super().__init__()
        self.schedule = schedule

    def get_extra_state(self) -> Float[Tensor, "2 bins_plus_1"]:
        """Return the state of the adaptive noise schedule as one tensor.

        The columns are sums and counts of each bin, and last the log-SNR range.
        """
        state = self.schedule.state_dict()
        return torch.cat([torch.stack([state["total"], state["count"]]), state["ends"][:, None]], 1)

    def set_extra_state(self, state: Float[Tensor, "2 columns"]) -> None:
        (total, count), ends = state[:, :-1], state[:, -1]
        self.schedule.load_state_dict({"total": total, "count": count, "ends": ends})


SCHEDULES: tuple[type[Schedule], ...] = (*schedules.SCHEDULES, Adaptive)
"""Every schedule. A new one joins the command line, the run files and the tests by a line in
`schedules.SCHEDULES`.
"""
