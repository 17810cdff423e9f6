"""Schedules that wrap other schedules: mixtures, shifted and mapped flow times, and schedules
rescaled to zero terminal SNR.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.base.checks import require_positive
from elbos.theory.schedules.inverse import invert
from elbos.theory.schedules.schedule import Schedule


def _require_fixed(schedule: Schedule) -> None:
    if schedule.state_dict():
        raise ValueError(
            f"{type(schedule).__name__} is adaptive: it cannot be a component of another schedule."
        )


def _cut(schedule: Schedule, own_min: float, own_max: float) -> None:
    object.__setattr__(schedule, "logsnr_min", max(schedule.logsnr_min, own_min))
    object.__setattr__(schedule, "logsnr_max", min(schedule.logsnr_max, own_max))


@dataclass(frozen=True, kw_only=True)
class Mixture(Schedule):
    r"""Mixture of noise schedules, $p = \sum_i \pi_i p_i$.

    One schedule is drawn for each sample.

    Attributes:
        schedules: The $p_i$, each on its own range.
        shares: $\pi_i > 0$, up to a factor.
        logsnr_min, logsnr_max: Default, and at most: the outermost of the ends of `schedules`.

    Raises:
        ValueError: If there is not one positive share for each schedule, or a schedule is adaptive.

    Examples:
        >>> from elbos.theory.schedules import Linear
        >>> halves = Linear(logsnr_min=-4.0, logsnr_max=0.0), Linear(logsnr_min=0.0, logsnr_max=4.0)
        >>> mixture = Mixture(schedules=halves, shares=(3.0, 1.0))
        >>> mixture.time(torch.tensor([0.0]))
        tensor([0.2500])
    """

    logsnr_min: float = -math.inf
    logsnr_max: float = math.inf
    schedules: tuple[Schedule, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.schedules) == len(self.shares):
            raise ValueError(f"{len(self.schedules)} schedules have {len(self.shares)} shares.")
        for schedule, share in zip(self.schedules, self.shares, strict=True):
            require_positive(share=share)
            _require_fixed(schedule)
        lows, highs = zip(*((s.logsnr_min, s.logsnr_max) for s in self.schedules), strict=True)
        _cut(self, min(lows), max(highs))
        super().__post_init__()

    @property
    def _parts(self) -> list[tuple[float, Schedule]]:
        total = sum(self.shares)
        return [(share / total, s) for share, s in zip(self.shares, self.schedules, strict=True)]

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        levels = torch.stack([schedule.logsnr(t.clamp(0, 1)) for schedule in self.schedules])
        low, high = levels.min(0).values, levels.max(0).values

        def density(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
            return self._log_density(logsnr).exp()

        return invert(lambda logsnr: -self._time(logsnr), density, -t, low, high, 30)

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        times = [share * schedule.time(logsnr) for share, schedule in self._parts]
        return torch.stack(times).sum(0)

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        parts = []
        for share, schedule in self._parts:
            is_inside = (logsnr >= schedule.logsnr_min) & (logsnr <= schedule.logsnr_max)
            log_p = torch.where(is_inside, schedule.log_density(logsnr), -math.inf)
            parts.append(math.log(share) + log_p)
        return torch.logsumexp(torch.stack(parts), 0)


@dataclass(frozen=True, kw_only=True)
class FlowTimes(Schedule):
    r"""Rectified-flow schedule that shifts and rescales the times of another schedule.

    The times are shifted and mapped to an interval:

    $$\tau' = \tau_0 + (\tau_1 - \tau_0)\,\frac{s\tau}{1 + (s - 1)\tau}, \qquad
      \tau = \mathrm{sigmoid}(-\lambda/2).$$

    `FlowTimes(inner=Beta(), time_min=0.001)` are the times of pi0. A shift of `Flow` or `Normal`
    is a parameter of theirs: $s$ itself, and a mean that is smaller by $2\ln s$.

    Attributes:
        inner: The schedule of the times; its log-SNR range is replaced by that of this schedule.
        shift: $s > 0$; above 1 it moves mass to noise. Default: no shift.
        time_min: $\tau_0$, the least noisy time. Default: 0, data.
        time_max: $\tau_1$, the noisiest time. Default: 1, noise.
        logsnr_min, logsnr_max: At most where data and noise are mapped to; the defaults are those
            of every schedule.

    Raises:
        ValueError: If the shift is not positive, the times are not increasing in [0, 1], or the
            schedule is adaptive.

    References:
        Shift: Esser et al. (2024), https://arxiv.org/abs/2403.03206
    """

    inner: Schedule
    shift: float = 1.0
    time_min: float = 0.0
    time_max: float = 1.0

    def __post_init__(self) -> None:
        require_positive(shift=self.shift)
        _require_fixed(self.inner)
        if not 0 <= self.time_min < self.time_max <= 1:
            raise ValueError(
                f"time_min={self.time_min}, time_max={self.time_max}: give times in [0, 1], the "
                "first below the second."
            )
        ends = self._logsnr(torch.tensor([1.0, 0.0], dtype=torch.float64))
        _cut(self, *ends.tolist())
        super().__post_init__()

    def _mapped(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        half, width = logsnr / 2 - math.log(self.shift), self.time_max - self.time_min
        noise = self.time_min + width * torch.sigmoid(-half)
        signal = 1 - self.time_max + width * torch.sigmoid(half)
        return 2 * (signal.log() - noise.log())

    def _unmapped(
        self, logsnr: Float[Tensor, "*b"]
    ) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        r"""Undo the change of times for given log-SNRs.

        Also returned is $\log(d\lambda/d\lambda')$.
        """
        half, width = logsnr / 2, self.time_max - self.time_min
        noise = (torch.sigmoid(-half) - self.time_min).clamp(min=0) / width
        signal = (torch.sigmoid(half) - (1 - self.time_max)).clamp(min=0) / width
        speed = logsigmoid(half) + logsigmoid(-half) - math.log(width)
        inner = 2 * (signal.log() - noise.log() + math.log(self.shift))
        return inner, speed - noise.log() - signal.log()

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self._mapped(self.inner._logsnr(t))

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.inner._time(self._unmapped(logsnr)[0])

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        inner, log_speed = self._unmapped(logsnr)
        is_mapped = inner.isfinite()
        return torch.where(is_mapped, self.inner._log_density(inner) + log_speed, -math.inf)


@dataclass(frozen=True, kw_only=True)
class ZeroTerminal(Schedule):
    r"""Zero-terminal-SNR version of a noise schedule.

    The SNR is divided by a shift and rescaled to end at pure noise:

    $$\alpha' = \frac{\alpha - \alpha_1}{1 - \alpha_1}, \qquad
      \alpha^2 = \mathrm{sigmoid}(\lambda - \ln s),$$

    with $\alpha_1$ at the noisy end of the other schedule. Near pure noise
    $p(\lambda) \propto e^{\lambda/2}$.

    Attributes:
        inner: The schedule.
        snr_shift: $s > 0$; above 1 it moves mass to noise. Default: no shift.
        logsnr_min: Default: that of every schedule, since pure noise is at $-\infty$.
        logsnr_max: At most where the clean end of `inner` is moved to.

    Raises:
        ValueError: If the shift is not positive, or the schedule is adaptive.

    References:
        Lin et al. (2023), https://arxiv.org/abs/2305.08891; the shift:
        Yang et al. (2024), https://arxiv.org/abs/2408.06072
    """

    inner: Schedule
    snr_shift: float = 1.0

    def __post_init__(self) -> None:
        require_positive(snr_shift=self.snr_shift)
        _require_fixed(self.inner)
        own_max = self._logsnr(torch.zeros(1, dtype=torch.float64)).item()
        _cut(self, -math.inf, own_max)
        super().__post_init__()

    @property
    def _last(self) -> float:
        r"""Log signal scale $\ln\alpha_1$ of the original schedule at its noisy end."""
        last = torch.tensor(self.inner.logsnr_min - math.log(self.snr_shift), dtype=torch.float64)
        return logsigmoid(last).item() / 2

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        log_alpha = logsigmoid(self.inner.logsnr(t) - math.log(self.snr_shift)) / 2
        noise = torch.expm1(log_alpha) / math.expm1(self._last)  # 1 - alpha'
        rest = torch.expm1(log_alpha - self._last) / -math.expm1(self._last)  # over alpha_1
        return 2 * (rest.log() + self._last) - torch.log(noise * (2 - noise))

    def _unscaled(
        self, logsnr: Float[Tensor, "*b"]
    ) -> tuple[Float[Tensor, "*b"], Float[Tensor, "*b"]]:
        r"""Undo the zero-terminal-SNR rescaling of log-SNRs.

        Also returned is $\log(d\lambda/d\lambda')$.
        """
        rest = -math.expm1(self._last)  # 1 - alpha_1
        scaled = torch.expm1(logsigmoid(logsnr) / 2)  # alpha' - 1
        noise = -rest * scaled  # 1 - alpha
        log_alpha, log_noise = torch.log1p(-noise), torch.log(noise * (2 - noise))
        inner = 2 * log_alpha - log_noise + math.log(self.snr_shift)
        log_speed = math.log(rest) + logsigmoid(logsnr) / 2 + logsigmoid(-logsnr)
        return inner, log_speed - log_alpha - log_noise

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.inner.time(self._unscaled(logsnr)[0])

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        inner, log_speed = self._unscaled(logsnr)
        return self.inner.log_density(inner) + log_speed
