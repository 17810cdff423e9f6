r"""Prediction types of a network: a linear regression target, and one 2x2 solve.

Every prediction type in use is a pair $(a, b)$ of functions of log-SNR,

$$y = a x + b \epsilon, \qquad z = \alpha x + \sigma \epsilon,$$

so that an output $\hat y$ at $z$ is the solution of a 2x2 system,

$$\hat x = \frac{\sigma \hat y - b z}{a\sigma - b\alpha}, \qquad
  \hat\epsilon = \frac{a z - \alpha \hat y}{a\sigma - b\alpha}, \qquad
  \|\hat\epsilon - \epsilon\|^2
  = \left(\frac{\alpha}{a\sigma - b\alpha}\right)^2 \|\hat y - y\|^2.$$

| predicts | $(a, b)$ | $\|\hat y - y\|^2 / \|\hat\epsilon - \epsilon\|^2$ |
|---|---|---|
| $\epsilon$ | $(0, 1)$ | $1$ |
| $x$ | $(1, 0)$ | $e^{-\lambda}$ |
| score $-\epsilon/\sigma$ | $(0, -1/\sigma)$ | $\sigma^{-2}$ |
| $v = \alpha\epsilon - \sigma x$ | $(-\sigma, \alpha)$ | $1 + e^{-\lambda}$ |
| flow $u = \epsilon - x$ | $(-1, 1)$ | $(1 + e^{-\lambda/2})^2$ |
| EDM's $F$ | see `EDM` | $e^{-\lambda}/\sigma_d^2 + 1$ |

See docs/theory.md, section 2.

References:
    Kingma & Gao (2023), https://arxiv.org/abs/2303.00848
"""

import abc
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import Typed, require_positive
from elbos.theory.process import align, alpha_sigma


def error_ratio(alpha: Tensor, sigma: Tensor, a: Tensor, b: Tensor) -> Tensor:
    r"""Return the factor that converts squared errors of $\hat y$ to those of $\hat\epsilon$.

    It is $(\alpha / (a\sigma - b\alpha))^2$.
    """
    return (alpha / (a * sigma - b * alpha)) ** 2


@dataclass(frozen=True, kw_only=True)
class Parameterization(Typed, abc.ABC):
    r"""Prediction type of a network: a linear regression target $y = a x + b \epsilon$."""

    @abc.abstractmethod
    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        r"""Return the coefficients $(a, b)$ of the regression target at log-SNR $\lambda$."""

    def target(
        self, x: Float[Tensor, "b *d"], eps: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"]
    ) -> Float[Tensor, "b *d"]:
        r"""Compute the regression target $y = a x + b \epsilon$."""
        a, b = self.coefficients(align(logsnr, x))
        return a.to(x) * x + b.to(x) * eps

    def split(
        self, y: Float[Tensor, "b *d"], z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"]
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        r"""Return the estimates $(\hat x, \hat\epsilon)$ of data and noise.

        They follow from the network output $y$ at noisy data $z$.
        """
        logsnr = align(logsnr, z)
        a, b = self.coefficients(logsnr)
        alpha, sigma = alpha_sigma(logsnr)
        a, b, alpha, sigma = (value.to(z) for value in (a, b, alpha, sigma))
        det = a * sigma - b * alpha
        return (sigma * y - b * z) / det, (a * z - alpha * y) / det

    def eps_error_per_error(self, logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        r"""Return the squared noise error per squared error of the network output.

        It is $\|\hat\epsilon - \epsilon\|^2 / \|\hat y - y\|^2 = (\alpha / (a\sigma - b\alpha))^2$
        at log-SNR $\lambda$.

        Examples:
            >>> V().eps_error_per_error(torch.tensor([0.0]))
            tensor([0.5000])
        """
        return error_ratio(*alpha_sigma(logsnr), *self.coefficients(logsnr))

    @torch.no_grad()
    def eps_loss(
        self, y_hat: Float[Tensor, "b *d"], y: Float[Tensor, "b *d"], logsnr: Float[Tensor, " b"]
    ) -> Float[Tensor, " b"]:
        r"""Compute the unweighted loss from a network output and its target.

        It is $\tfrac12\|\hat\epsilon - \epsilon\|^2$ per dimension, comparable over prediction
        types. A target of the other sign has the same error, $x - \epsilon$ as well as $\epsilon -
        x$.

        Args:
            y_hat: The output; it may be of lower precision.
            y: The target.
            logsnr: One level per sample.

        Returns:
            Nats per dimension, without a gradient.

        Examples:
            >>> Flow().eps_loss(torch.zeros(1, 3), torch.ones(1, 3), torch.tensor([0.0]))
            tensor([0.1250])
        """
        if y_hat.shape != y.shape or logsnr.shape != y.shape[:1]:
            raise ValueError(
                f"output of shape {tuple(y_hat.shape)} for a target of shape {tuple(y.shape)} at "
                f"log-SNR of shape {tuple(logsnr.shape)}: give output like the target, log-SNR [b]."
            )
        dtype = torch.promote_types(y.dtype, torch.float32)
        error = (y_hat.to(dtype) - y.to(dtype)).square().flatten(1).mean(1)
        return 0.5 * self.eps_error_per_error(logsnr).to(error) * error


@dataclass(frozen=True, kw_only=True)
class Eps(Parameterization):
    r"""Noise prediction, $y = \epsilon$.

    The first choice of DDPM. $\hat x = (z - \sigma\hat\epsilon)/\alpha$ amplifies the network's
    error at low SNR.

    References:
        Ho et al. (2020), https://arxiv.org/abs/2006.11239
    """

    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(logsnr), torch.ones_like(logsnr)


@dataclass(frozen=True, kw_only=True)
class X(Parameterization):
    r"""Data prediction, $y = x$.

    $\hat\epsilon = (z - \alpha\hat x)/\sigma$ amplifies the network's error at high SNR.
    """

    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        return torch.ones_like(logsnr), torch.zeros_like(logsnr)


@dataclass(frozen=True, kw_only=True)
class V(Parameterization):
    r"""Velocity prediction of the variance-preserving process, $y = v = \alpha\epsilon - \sigma x$.

    The determinant $a\sigma - b\alpha$ is $-1$ at every noise level: neither estimate amplifies the
    network's error.

    References:
        Salimans & Ho (2022), https://arxiv.org/abs/2202.00512
    """

    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        alpha, sigma = alpha_sigma(logsnr)
        return -sigma, alpha


@dataclass(frozen=True, kw_only=True)
class Score(Parameterization):
    r"""Score prediction, $y = -\epsilon / \sigma$.

    It is the score of the transition kernel.

    References:
        Song et al. (2021), https://arxiv.org/abs/2011.13456
    """

    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        _, sigma = alpha_sigma(logsnr)
        return torch.zeros_like(logsnr), -1 / sigma


@dataclass(frozen=True, kw_only=True)
class Flow(Parameterization):
    r"""Velocity prediction of rectified flow, $y = u = \epsilon - x$.

    Its path is the optimal-transport path.

    References:
        Lipman et al. (2023), https://arxiv.org/abs/2210.02747; Liu et al. (2023),
        https://arxiv.org/abs/2209.03003
    """

    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        return -torch.ones_like(logsnr), torch.ones_like(logsnr)


@dataclass(frozen=True, kw_only=True)
class EDM(Parameterization):
    r"""EDM's preconditioned output $F = (x - c_\mathrm{skip}\tilde z)/c_\mathrm{out}$.

    Here, $\tilde z = z/\alpha$ and

    $$c_\mathrm{skip} = \frac{\sigma_d^2}{\tilde\sigma^2 + \sigma_d^2}, \qquad
      c_\mathrm{out} = \frac{\tilde\sigma\sigma_d}{\sqrt{\tilde\sigma^2 + \sigma_d^2}},$$

    written without $\tilde\sigma$, which overflows at low SNR: with
    $s^2 = \sigma^2 + \sigma_d^2\alpha^2$,
    $a = \sigma / (\sigma_d s)$ and $b = -\sigma_d\alpha/s$. With $\sigma_d = 1$, $F = -v$.

    Attributes:
        sigma_data: Standard deviation $\sigma_d > 0$ of the data. Default: EDM's, for images in
            [-1, 1].

    References:
        Karras et al. (2022), https://arxiv.org/abs/2206.00364
    """

    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        require_positive(sigma_data=self.sigma_data)

    def coefficients(self, logsnr: Float[Tensor, "*b"]) -> tuple[Tensor, Tensor]:
        alpha, sigma = alpha_sigma(logsnr)
        s = torch.sqrt(sigma**2 + self.sigma_data**2 * alpha**2)
        return sigma / (self.sigma_data * s), -self.sigma_data * alpha / s


PARAMETERIZATIONS: tuple[type[Parameterization], ...] = (Eps, X, V, Score, Flow, EDM)
"""Every prediction type. A new one joins the command line, the run files and the tests by a line
here.
"""
