r"""A training loss in numbers: what it does at each of the noise levels it can draw.

However a loss is written, all that it asks for is in five numbers per noise level: the log-SNR
$\lambda$, how likely it is, the target $y = a x + b\epsilon$ and the coefficient $c$ of
$\|\hat y - y\|^2$. They are scale-free: neither the units of time nor the scale of the network's
input appear, and the network's error of the noise is

$$\|\hat\epsilon - \epsilon\|^2 = \frac{\|\hat y - y\|^2}{(b - a\,e^{-\lambda/2})^2}.$$
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Steps:
    r"""The noise levels of a loss that has a table of them, float64, in any order.

    Attributes:
        title: What it is, in a few words.
        logsnr: $\lambda$, `[steps]`; $-\infty$ is pure noise, $\infty$ clean data.
        probability: How often each step is drawn, `[steps]`, summing to 1.
        a: Coefficient of the data in the target, `[steps]`.
        b: Coefficient of the noise in the target, `[steps]`.
        coefficient: $c$, what $\|\hat y - y\|^2$ is multiplied with, `[steps]`.
        parameterization: What is predicted: eps, x, v, score, flow or edm.
        parameterization_factor: What the named target is multiplied with; -1 where its sign is
            reversed.
        sigma_data: EDM's $\sigma_d$, or None.
        notes: What a reader should know besides, a sentence each.
    """

    title: str
    logsnr: Float[Tensor, " steps"]
    probability: Float[Tensor, " steps"]
    a: Float[Tensor, " steps"]
    b: Float[Tensor, " steps"]
    coefficient: Float[Tensor, " steps"]
    parameterization: str
    parameterization_factor: float = 1.0
    sigma_data: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def eps_coefficient(self) -> Float[Tensor, " steps"]:
        r"""What $\|\hat\epsilon - \epsilon\|^2$ is multiplied with,
        $c\,(b - a e^{-\lambda/2})^2$.
        """
        return self.coefficient * (self.b - self.a * torch.exp(-self.logsnr / 2)) ** 2

    def at(self, kept: Bool[Tensor, " steps"]) -> "Steps":
        """Some of them."""
        table = ("logsnr", "probability", "a", "b", "coefficient")
        return replace(self, **{name: getattr(self, name)[kept] for name in table})
