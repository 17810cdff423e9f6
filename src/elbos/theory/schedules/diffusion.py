"""Closed forms in log-SNR: of diffusion models, and of EDM."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid

from elbos.base.checks import require_positive, typed
from elbos.theory.schedules.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class Cosine(Schedule):
    r"""The cosine schedule, $\lambda = -2\ln\tan(\pi t/2) + 2s$.

    Its density is $p = \mathrm{sech}(\lambda/2 - s)/(2\pi)$.

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
    r"""Normal distribution of log-SNR, $\lambda = m - s\,\Phi^{-1}(t)$.

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
    @typed
    def edm(cls, *, p_mean: float = -1.2, p_std: float = 1.2, **ends: float) -> "Normal":
        r"""Return EDM's training distribution of log-SNR.

        Its parameters are mean and standard deviation of $\ln\tilde\sigma$. `ends` are `logsnr_min`
        and `logsnr_max`.
        """
        return cls(mean=-2 * p_mean, std=2 * p_std, **ends)

    @classmethod
    @typed
    def logit_normal(cls, *, mean: float = 0.0, std: float = 1.0, **ends: float) -> "Normal":
        """Return Stable Diffusion 3's training distribution of log-SNR.

        Its parameters are mean and standard deviation of logit(t). `ends` are `logsnr_min` and
        `logsnr_max`.
        """
        return cls(mean=-2 * mean + 0.0, std=2 * std, **ends)  # no minus before zero

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
    r"""EDM's sampling grid with $\tilde\sigma^{1/\rho}$ linear in time.

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
class DDPM(Schedule):
    r"""Variance-preserving SDE with linear $\beta$.

    It is the continuous limit of DDPM's linear schedule.

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
        r"""Return $\beta(t)$ for a given integral $B$ of $\beta$.

        It is $\sqrt{\beta_0^2 + 2(\beta_1 - \beta_0) B}$.
        """
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
class StableDiffusion(Schedule):
    r"""Continuous limit of Stable Diffusion's scaled-linear schedule.

    Here $\sqrt\beta$ is linear in time:

    $$\lambda = -\ln\left(e^{B(t)} - 1\right), \qquad
      B(t) = \frac{r(t)^3 - r(0)^3}{3(r(1) - r(0))}, \quad
      r(t) = \sqrt{\beta_0} + (\sqrt{\beta_1} - \sqrt{\beta_0})\,t.$$

    The limit of infinitely many steps: the table of 1,000 ends at -5.36, this at -5.34, and their
    densities differ by 1 % at most. The table itself is for audits (`audit.LossTable`).

    Attributes:
        beta_min: $\beta_0 > 0$. Default: the first step, .00085, times 1,000.
        beta_max: $\beta_1 > \beta_0$. Default: the last step, .012, times 1,000.
        logsnr_min: Default: the schedule's own end, -5.34 with the default $\beta$.

    References:
        Rombach et al. (2022), https://arxiv.org/abs/2112.10752, and its configuration files
    """

    logsnr_min: float = -math.inf
    beta_min: float = 0.85
    beta_max: float = 12.0

    def __post_init__(self) -> None:
        require_positive(beta_min=self.beta_min)
        if not self.beta_min < self.beta_max:
            raise ValueError(
                f"beta_max is {self.beta_max}: give more than beta_min={self.beta_min}."
            )
        super().__post_init__()

    @property
    def _roots(self) -> tuple[float, float]:
        return self.beta_min**0.5, self.beta_max**0.5 - self.beta_min**0.5

    def _root(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        first, rise = self._roots
        return (first**3 - 3 * rise * logsigmoid(logsnr)) ** (1 / 3)

    def _logsnr(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        first, rise = self._roots
        integral = t * (first**2 + first * rise * t + rise**2 * t**2 / 3)
        return -integral - torch.log(-torch.expm1(-integral))

    def _time(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        first, _ = self._roots
        root = self._root(logsnr)  # root**3 - first**3 over root - first: no digit is lost
        return -3 * logsigmoid(logsnr) / (root**2 + first * root + first**2)

    def _log_density(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        return logsigmoid(-logsnr) - 2 * self._root(logsnr).log()


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    r"""Uniform distribution of log-SNR.

    The log-SNR is linear in time, $\lambda = \lambda_\max + (\lambda_\min - \lambda_\max)t$.

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
    r"""Laplace distribution of log-SNR, $p(\lambda) = e^{-|\lambda - m|/b}/(2b)$.

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
