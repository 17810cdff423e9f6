r"""A noise schedule is a distribution over log-SNR.

A schedule is a strictly decreasing function $\lambda = f(t)$ of time, $t = 0$ data and $t = 1$
noise. With
$t \sim U(0, 1)$ it draws $\lambda$ with density

$$p(\lambda) = -\frac{dt}{d\lambda},$$

and $t(\lambda)$ is the survival function of that distribution. In a training loss the schedule is
an importance-sampling density and nothing more: given the weighting and the end points it changes
the variance of the loss, not its value.

Every schedule is truncated to $[\lambda_\min, \lambda_\max]$, here and only here,

$$\tilde f(t) = f(t_0 + (t_1 - t_0)\,t), \quad t_0 = f^{-1}(\lambda_\max), \quad
  t_1 = f^{-1}(\lambda_\min), \quad \tilde p = p / (t_1 - t_0),$$

so that no end point is infinite. A range beyond a schedule's own ends continues its formula.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

import abc
import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.checks import require_floating, require_positive

ROUNDING = 1e-6  # of times: a cumulative sum of 1 / n ends above 1


def low_discrepancy_times(u: float, num: int) -> Float[Tensor, " n"]:
    r"""Times $t_i = \mathrm{mod}(u + i/n, 1)$: each is uniform if $u \sim U(0, 1)$ is, together
    they cover $[0, 1]$.

    One `u` for the whole batch of `num` makes the batch's loss vary far less than independent times
    do.

    Args:
        u: A uniform number in [0, 1).
        num: Size $n$ of the global batch.

    Returns:
        float64 times, `[num]`.

    References:
        Kingma et al. (2021), https://arxiv.org/abs/2107.00630
    """
    return (u + torch.arange(num, dtype=torch.float64) / num) % 1.0


@dataclass(frozen=True, kw_only=True)
class Schedule(abc.ABC):
    r"""A noise schedule, truncated to $[\lambda_\min, \lambda_\max]$.

    Attributes:
        logsnr_min: $\lambda_\min$, the noisy end. Default: -20, a signal of 2e-9 of the variance.
            `-inf` stands for the schedule's own end $f(1)$.
        logsnr_max: $\lambda_\max$, the clean end. Default: 20. `inf` stands for the schedule's own
            end $f(0)$.

    Raises:
        ValueError: If the ends are not finite numbers with `logsnr_min` below `logsnr_max`, or the
            schedule draws nothing between them.
    """

    logsnr_min: float = -20.0
    logsnr_max: float = 20.0

    def __post_init__(self) -> None:
        own_max, own_min = self._logsnr(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        if self.logsnr_min == -math.inf:
            object.__setattr__(self, "logsnr_min", own_min)
        if self.logsnr_max == math.inf:
            object.__setattr__(self, "logsnr_max", own_max)
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
        r"""$f(t)$, before truncation."""

    @abc.abstractmethod
    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""$f^{-1}(\lambda)$, before truncation."""

    @abc.abstractmethod
    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""$\log p(\lambda)$, before truncation."""

    @cached_property
    def _ends(self) -> tuple[float, float]:
        """$(t_0, t_1)$."""
        ends = torch.tensor([self.logsnr_max, self.logsnr_min], dtype=torch.float64)
        t0, t1 = self._time(ends).tolist()
        return t0, t1

    def logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Log-SNR $\lambda = \tilde f(t)$ at time $t \in [0, 1]$.

        Draw $\lambda$ from the schedule with `logsnr(u)` for uniform `u`. Give float64 times: in
        float32 a time near 1 has only seven digits, which at the noisy end is a step in $\lambda$
        that matters.

        Args:
            t: Times, any shape.

        Returns:
            $\lambda$, in the shape and dtype of `t`.

        Raises:
            ValueError: If `t` is not of floating-point numbers, or one on the CPU is outside
                [0, 1] by more than a rounding, 1e-6; one that is not refused counts as the nearer
                end, and so does every one on other devices, where a check would wait for the
                device, and in compiled code.

        Examples:
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
        logsnr = torch.where(t <= 0, self.logsnr_max, logsnr)  # where t1 rounds to 1, exactly too
        return torch.where(t >= 1, self.logsnr_min, logsnr)

    def time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Time $t = \tilde f^{-1}(\lambda)$: the probability of a log-SNR above $\lambda$.

        Args:
            logsnr: Log-SNRs, any shape; beyond an end is that end's time.

        Raises:
            ValueError: If `logsnr` is not of floating-point numbers.
        """
        require_floating(logsnr=logsnr)
        t0, t1 = self._ends
        return ((self._time(logsnr) - t0) / (t1 - t0)).clamp(0.0, 1.0)

    def log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""$\log \tilde p(\lambda)$; that $\lambda$ is in the range is not checked.

        Raises:
            ValueError: If `logsnr` is not of floating-point numbers.
        """
        require_floating(logsnr=logsnr)
        t0, t1 = self._ends
        return self._log_density(logsnr) - math.log(t1 - t0)

    def density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""$\tilde p(\lambda) = -dt/d\lambda$, zero outside $[\lambda_\min, \lambda_\max]$."""
        is_inside = (logsnr >= self.logsnr_min) & (logsnr <= self.logsnr_max)
        return torch.where(is_inside, self.log_density(logsnr).exp(), 0.0)

    def sample(self, num: int, generator: torch.Generator | None = None) -> Float[Tensor, " num"]:
        r"""Noise levels for a batch: $\lambda$ at low-discrepancy times, with one random offset.

        Args:
            num: Size of the batch.
            generator: Source of the offset, on the CPU. Default: torch's global one.

        Returns:
            float64 log-SNRs on the CPU, `[num]`, falling but for one jump: independent of the data,
            not of each other.
        """
        u = torch.rand((), dtype=torch.float64, generator=generator).item()
        return self.logsnr(low_discrepancy_times(u, num))

    def update(  # noqa: B027, most schedules have nothing to learn
        self, logsnr: Float[Tensor, " b"], loss: Float[Tensor, " b"]
    ) -> None:
        """Learn from the losses of a batch at its noise levels. Only `adaptive.Adaptive` does, in
        place; the others are as they were.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """What has been learned, for a checkpoint: nothing, unless the schedule is adaptive."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:  # noqa: B027
        """Restore what `state_dict` returned."""


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    r"""The cosine schedule, $\lambda = -2\ln\tan(\pi t/2) + 2s$,
    $p = \mathrm{sech}(\lambda/2 - s)/(2\pi)$.

    Attributes:
        shift: $s$; for $d \times d$ images $\ln(64/d)$ keeps the noise level of an averaged-down
            image. Default 0: no shift.

    References:
        Nichol & Dhariwal (2021), https://arxiv.org/abs/2102.09672; shift: Hoogeboom et al. (2023),
        https://arxiv.org/abs/2301.11093
    """

    shift: float = 0.0

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -2 * torch.log(torch.tan(torch.pi / 2 * t)) + 2 * self.shift

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return 2 / torch.pi * torch.arctan(torch.exp(self.shift - logsnr / 2))

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        u = (logsnr / 2 - self.shift).abs()  # log sech u = ln 2 - u + logsigmoid(2u)
        return logsigmoid(2 * u) - u - math.log(math.pi)


@dataclass(frozen=True, kw_only=True)
class Normal(Schedule):
    r"""Normally distributed log-SNR, $\lambda = m - s\,\Phi^{-1}(t)$.

    EDM draws $\ln\tilde\sigma \sim \mathcal N(P_\mathrm{mean}, P_\mathrm{std}^2)$, which is
    $\lambda = -2\ln\tilde\sigma \sim \mathcal N(-2P_\mathrm{mean}, 4P_\mathrm{std}^2)$: mind the
    sign (`Normal.edm`). Stable Diffusion 3 draws $\mathrm{logit}(t) \sim \mathcal N(m, s^2)$ on the
    rectified-flow path, which is $\lambda \sim \mathcal N(-2m, 4s^2)$ (`Normal.logit_normal`).

    Attributes:
        mean: $m$. Default: EDM's, $P_\mathrm{mean} = -1.2$.
        std: $s > 0$. Default: EDM's, $P_\mathrm{std} = 1.2$.

    References:
        Karras et al. (2022), https://arxiv.org/abs/2206.00364; Esser et al. (2024),
        https://arxiv.org/abs/2403.03206
    """

    mean: float = 2.4
    std: float = 2.4

    def __post_init__(self) -> None:
        require_positive(std=self.std)
        super().__post_init__()

    @classmethod
    def edm(cls, *, p_mean: float = -1.2, p_std: float = 1.2, **ends: float) -> "Normal":
        """EDM's training distribution in EDM's own parameters; `ends` are the schedule's."""
        return cls(mean=-2 * p_mean, std=2 * p_std, **ends)

    @classmethod
    def logit_normal(cls, *, mean: float = 0.0, std: float = 1.0, **ends: float) -> "Normal":
        """Stable Diffusion 3's logit-normal times on the rectified-flow path, in its parameters."""
        return cls(mean=-2 * mean, std=2 * std, **ends)

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        quantile: Tensor = torch.special.ndtri(t)
        return self.mean - self.std * quantile

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        # not `ndtr`, which has no relative accuracy in the clean tail
        return 0.5 * torch.erfc((logsnr - self.mean) / (self.std * math.sqrt(2)))

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        u = (logsnr - self.mean) / self.std
        return -(u**2) / 2 - math.log(self.std) - 0.5 * math.log(2 * math.pi)


@dataclass(frozen=True, kw_only=True)
class EDMSampling(Schedule):
    r"""EDM's sampling grid: $\tilde\sigma^{1/\rho}$ linear in $t$ between $\tilde\sigma_\min$ and
    $\tilde\sigma_\max$.

    $$\lambda = -2\rho\ln\!\left(\tilde\sigma_\max^{1/\rho}
      + (1 - t)(\tilde\sigma_\min^{1/\rho} - \tilde\sigma_\max^{1/\rho})\right).$$

    Attributes:
        sigma_min: $\tilde\sigma_\min > 0$ at $t = 0$. Default: EDM's.
        sigma_max: $\tilde\sigma_\max$ at $t = 1$. Default: EDM's.
        rho: $\rho > 0$; larger spends more steps on clean data. Default: EDM's.
        logsnr_min: Default: the grid's own end, $-2\ln\tilde\sigma_\max$.
        logsnr_max: Default: the grid's own end, $-2\ln\tilde\sigma_\min$.

    References:
        Karras et al. (2022), https://arxiv.org/abs/2206.00364
    """

    logsnr_min: float = -math.inf
    logsnr_max: float = math.inf
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self) -> None:
        require_positive(sigma_min=self.sigma_min, rho=self.rho)
        if not self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_max is {self.sigma_max}: give a number above sigma_min={self.sigma_min}."
            )
        super().__post_init__()

    @property
    def _roots(self) -> tuple[float, float]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        root_min, root_max = self._roots
        return -2 * self.rho * torch.log(root_max + (1 - t) * (root_min - root_max))

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        root_min, root_max = self._roots
        return 1 - (torch.exp(-logsnr / (2 * self.rho)) - root_max) / (root_min - root_max)

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        root_min, root_max = self._roots
        return -logsnr / (2 * self.rho) - math.log(2 * self.rho * (root_max - root_min))


@dataclass(frozen=True, kw_only=True)
class Flow(Schedule):
    r"""Uniform times on the rectified-flow path, $\lambda = 2\ln\frac{1-t}{t} - 2\ln s$.

    Attributes:
        shift: Time shift $s > 0$, $t' = st/(1 + (s-1)t)$; above 1 it moves mass to noise. Default
            1: no shift.

    References:
        Lipman et al. (2023), https://arxiv.org/abs/2210.02747; shift: Esser et al. (2024),
        https://arxiv.org/abs/2403.03206
    """

    shift: float = 1.0

    def __post_init__(self) -> None:
        require_positive(shift=self.shift)
        super().__post_init__()

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -2 * torch.logit(t) - 2 * math.log(self.shift)

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.sigmoid(-logsnr / 2 - math.log(self.shift))

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        u = logsnr / 2 + math.log(self.shift)
        return logsigmoid(u) + logsigmoid(-u) - math.log(2)


@dataclass(frozen=True, kw_only=True)
class DDPM(Schedule):
    r"""The variance-preserving SDE with linear $\beta$, the limit of DDPM's linear schedule.

    $$\lambda = -\ln\left(e^{B(t)} - 1\right), \qquad
      B(t) = \beta_0 t + \tfrac12(\beta_1 - \beta_0)t^2.$$

    Attributes:
        beta_min: $\beta_0 > 0$. Default: DDPM's first step times 1,000.
        beta_max: $\beta_1 \ge \beta_0$. Default: DDPM's last step times 1,000.
        logsnr_min: Default: the schedule's own end, -10.05 with the default $\beta$.

    References:
        Ho et al. (2020), https://arxiv.org/abs/2006.11239; Song et al. (2021),
        https://arxiv.org/abs/2011.13456
    """

    logsnr_min: float = -math.inf
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        require_positive(beta_min=self.beta_min)
        if not self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_max is {self.beta_max}: give at least beta_min={self.beta_min}."
            )
        super().__post_init__()

    def _slope(self, integral: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""$\beta(t) = \sqrt{\beta_0^2 + 2(\beta_1 - \beta_0) B}$ where $B(t)$ = `integral`."""
        return torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * integral)

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        integral = self.beta_min * t + (self.beta_max - self.beta_min) / 2 * t**2
        return -integral - torch.log(-torch.expm1(-integral))

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        integral = -logsigmoid(logsnr)
        return 2 * integral / (self.beta_min + self._slope(integral))

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return logsigmoid(-logsnr) - torch.log(self._slope(-logsigmoid(logsnr)))


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    r"""Log-SNR linear in time, $\lambda = \lambda_\max + (\lambda_\min - \lambda_\max)t$: uniform
    over the range.

    References:
        Kingma et al. (2021), https://arxiv.org/abs/2107.00630
    """

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return self.logsnr_max + (self.logsnr_min - self.logsnr_max) * t

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return (self.logsnr_max - logsnr) / (self.logsnr_max - self.logsnr_min)

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return torch.full_like(logsnr, -math.log(self.logsnr_max - self.logsnr_min))


@dataclass(frozen=True, kw_only=True)
class Laplace(Schedule):
    r"""Laplace-distributed log-SNR, $p(\lambda) = e^{-|\lambda - m|/b}/(2b)$.

    Attributes:
        mean: $m$. Default: the paper's choice.
        scale: $b > 0$. Default: the paper's choice.

    References:
        Hang & Gu (2024), https://arxiv.org/abs/2407.03297
    """

    mean: float = 0.0
    scale: float = 0.5

    def __post_init__(self) -> None:
        require_positive(scale=self.scale)
        super().__post_init__()

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        distance = -self.scale * torch.log(2 * torch.minimum(t, 1 - t))
        return self.mean + torch.where(t < 0.5, distance, -distance)

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        tail = torch.exp(-(logsnr - self.mean).abs() / self.scale) / 2
        return torch.where(logsnr > self.mean, tail, 1 - tail)

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return -(logsnr - self.mean).abs() / self.scale - math.log(2 * self.scale)


SCHEDULES: tuple[type[Schedule], ...] = (Cosine, Normal, EDMSampling, Flow, DDPM, Linear, Laplace)
"""Every closed form; `adaptive.SCHEDULES` adds the one that learns."""
