"""A noise schedule: a decreasing function of time, truncated to a range of log-SNR."""

import abc
import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import Typed, require_floating, require_positive, typed

ROUNDING = 1e-6  # error of a time: a cumulative sum of 1 / n ends above 1


@typed
def low_discrepancy_times(u: float, num: int) -> Float[Tensor, " n"]:
    r"""Return stratified times $t_i = \mathrm{mod}(u + i/n, 1)$.

    Each is uniform for $u \sim U(0, 1)$, and together they cover $[0, 1]$ evenly. One `u` for the
    whole batch of `num` makes the batch's loss vary far less than independent times do.

    Args:
        u: A uniform number in [0, 1).
        num: Size $n$ of the global batch.

    Returns:
        float64 times, `[num]`.

    References:
        Kingma et al. (2021), https://arxiv.org/abs/2107.00630
    """
    require_positive(num=num)
    return (u + torch.arange(num, dtype=torch.float64) / num) % 1.0


@dataclass(frozen=True, kw_only=True)
class Schedule(Typed, abc.ABC):
    r"""Noise schedule: a distribution of log-SNR on $[\lambda_\min, \lambda_\max]$.

    Attributes:
        logsnr_min: $\lambda_\min$, the noisy end. Default: -20, a signal of 2e-9 of the variance.
            `-inf` selects the schedule's own end $f(1)$.
        logsnr_max: $\lambda_\max$, the clean end. Default: 20. `inf` selects the schedule's own end
            $f(0)$.

    Raises:
        ValueError: If the ends are not finite numbers with `logsnr_min` below `logsnr_max`, or the
            schedule draws nothing between them.
    """

    logsnr_min: float = field(default=-20.0, metadata={"is_finite": False})
    logsnr_max: float = field(default=20.0, metadata={"is_finite": False})

    def __post_init__(self) -> None:
        for end, infinity, t in (("logsnr_min", -math.inf, 1.0), ("logsnr_max", math.inf, 0.0)):
            if getattr(self, end) == infinity:
                own_end = self._logsnr(torch.tensor([t], dtype=torch.float64)).item()
                object.__setattr__(self, end, own_end)
        ends = f"logsnr_min={self.logsnr_min}, logsnr_max={self.logsnr_max}"
        if not -math.inf < self.logsnr_min < self.logsnr_max < math.inf:
            raise ValueError(
                f"{type(self).__name__} has {ends}: give finite ends, the first below the second."
            )
        t0, t1 = self._ends
        if not t0 < t1:
            raise ValueError(
                f"{self!r} has no mass on [{self.logsnr_min}, {self.logsnr_max}]: widen the range."
            )

    @abc.abstractmethod
    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the log-SNR $f(t)$ of the untruncated schedule at time $t$."""

    @abc.abstractmethod
    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the time $f^{-1}(\lambda)$ of the untruncated schedule at log-SNR $\lambda$."""

    @abc.abstractmethod
    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the log-density $\log p(\lambda)$ of the untruncated schedule."""

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """Times of the clean and the noisy end of the untruncated schedule."""
        ends = torch.tensor([self.logsnr_max, self.logsnr_min], dtype=torch.float64)
        t0, t1 = self._time(ends).tolist()
        return t0, t1

    def logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the log-SNR $\lambda = \tilde f(t)$ at time $t \in [0, 1]$.

        Draw $\lambda$ from the schedule with `logsnr(u)` for uniform `u`. Give float64 times: in
        float32 a time near 1 has only seven digits, which at the noisy end is a step in $\lambda$
        that matters.

        Args:
            t: Times, any shape.

        Returns:
            $\lambda$, in the shape and dtype of `t`.

        Raises:
            ValueError: If `t` is not a floating-point tensor, or a time on the CPU is outside [0,
                1] by more than rounding, 1e-6. Smaller excesses are clamped, and so are all times
                on other devices, where a check would synchronize, and in compiled code.

        Examples:
            >>> from elbos.theory.schedules import Cosine
            >>> t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
            >>> Cosine().logsnr(t).round(decimals=6)
            tensor([ 20.,   0., -20.], dtype=torch.float64)
        """
        require_floating(t=t)
        is_checked = t.device.type == "cpu" and not torch.compiler.is_compiling()
        if is_checked and not ((t >= -ROUNDING) & (t <= 1 + ROUNDING)).all():
            raise ValueError(
                f"times run from {t.min().item()} to {t.max().item()}: give times in [0, 1]."
            )
        t0, t1 = self._ends
        logsnr = self._logsnr(t0 + (t1 - t0) * t).clamp(self.logsnr_min, self.logsnr_max)
        logsnr = torch.where(t <= 0, self.logsnr_max, logsnr)  # exact where t1 rounds to 1
        return torch.where(t >= 1, self.logsnr_min, logsnr)

    def time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the time $t = \tilde f^{-1}(\lambda)$ at given log-SNRs.

        It is the probability of a log-SNR above $\lambda$.

        Args:
            logsnr: Log-SNRs, any shape; values beyond an end of the range get the time of that end.
        """
        require_floating(logsnr=logsnr)
        t0, t1 = self._ends
        return ((self._time(logsnr) - t0) / (t1 - t0)).clamp(0.0, 1.0)

    def log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the log-density $\log \tilde p(\lambda)$ of the schedule.

        Log-SNRs outside the range are not masked.
        """
        require_floating(logsnr=logsnr)
        t0, t1 = self._ends
        return self._log_density(logsnr) - math.log(t1 - t0)

    def density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the density $\tilde p(\lambda) = -dt/d\lambda$ of the schedule.

        It is zero outside the range.
        """
        is_inside = (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)
        return torch.where(is_inside, self.log_density(logsnr).exp(), 0.0)

    def sample(self, num: int, generator: torch.Generator | None = None) -> Float[Tensor, " num"]:
        r"""Draw the noise levels of a batch.

        They are at low-discrepancy times with one random offset.

        Args:
            num: Size of the batch.
            generator: Source of the offset, on the CPU. Default: torch's global one.

        Returns:
            float64 log-SNRs on the CPU, `[num]`, falling but for one jump: independent of the data,
            not of each other.
        """
        u = torch.rand((), dtype=torch.float64, generator=generator).item()
        return self.logsnr(low_discrepancy_times(u, num))

    def update(self, logsnr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Adapt the noise schedule to the losses of a batch.

        The density of an adaptive schedule changes in place; all others stay the same.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Return the learned state of the noise schedule.

        It is empty unless the schedule is adaptive.
        """
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the learned state of the noise schedule.

        Only an adaptive schedule has any.
        """
