r"""The weighted diffusion loss, per sample, in nats per dimension.

$$\ell(x, \epsilon, \lambda) = \frac12\,\frac{w(\lambda)}{p(\lambda)}\,\|\hat\epsilon - \epsilon\|^2
  = \underbrace{\frac12\,\frac{w(\lambda)}{p(\lambda)} \left(\frac{\alpha}{a\sigma -
  b\alpha}\right)^2}_{ \text{one number per sample}} \|\hat y - y\|^2.$$

The expectation over $\lambda \sim p$ and $\epsilon$ is $L_w(x)$ for every schedule and every
parameterization. The error is taken in the network's own output space, where it is a number of
order one at every noise level; converting to $\hat\epsilon$ first would lose all digits of it at
one end or the other.

See docs/theory.md, section 2.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.base.checks import Typed, require_floating, require_scaled, require_single
from elbos.base.codec import decode
from elbos.base.conditions import Condition
from elbos.base.errors import warn
from elbos.theory.adaptive import Adaptive
from elbos.theory.denoiser import Network, network_output, with_three_arguments
from elbos.theory.parameterizations import Parameterization, error_ratio
from elbos.theory.process import align, alpha_sigma
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import WeightFunction, Weighting, weights_at


class Levels(NamedTuple):
    r"""Coefficients of the loss at each noise level.

    Attributes:
        logsnr: $\lambda$.
        alpha: Signal scale.
        sigma: Noise scale.
        a: Coefficient of the data in the regression target.
        b: Coefficient of the noise in the regression target.
        coefficient: Factor of $\|\hat y - y\|^2$ in the loss.
        w_over_p: Importance weight $w(\lambda)/p(\lambda)$.
    """

    logsnr: Float[Tensor, " b"]
    alpha: Float[Tensor, " b"]
    sigma: Float[Tensor, " b"]
    a: Float[Tensor, " b"]
    b: Float[Tensor, " b"]
    coefficient: Float[Tensor, " b"]
    w_over_p: Float[Tensor, " b"]


@dataclass(frozen=True, kw_only=True)
class Objective(Typed):
    r"""Training objective that consists of weighting, schedule and parameterization.

    Attributes:
        weighting: $w$, the only one of the three that changes what is optimal.
        schedule: $p$, the distribution that `logsnr` is drawn from; it changes the variance of the
            loss.
        parameterization: $(a, b)$, what the network predicts.

    Raises:
        ValueError: If the weighting, or the factor of the loss that follows from the three, is not
            a finite number at a noise level of the schedule, or the weight is below 0.

    Examples:
        >>> from elbos import parameterizations, schedules, weightings
        >>> objective = Objective(
        ...     weighting=weightings.Sigmoid(k=2.0),
        ...     schedule=schedules.Cosine(),
        ...     parameterization=parameterizations.V(),
        ... )
        >>> layer = torch.nn.Linear(3, 3)
        >>> network = lambda z, logsnr, cond: layer(z)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> for x in torch.randn(2, 8, 3):
        ...     loss = objective.loss(network, x)  # [b], nats per dimension
        ...     loss.mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()

        Where the schedule is to learn (`adaptive.Adaptive`), the loop draws the noise levels; on
        several processes it updates with those and the losses of all of them:

        >>> logsnr = objective.schedule.sample(len(x))
        >>> loss = objective.loss(network, x, logsnr=logsnr)
        >>> objective.schedule.update(logsnr, loss)
    """

    weighting: WeightFunction
    schedule: Schedule
    parameterization: Parameterization

    def __post_init__(self) -> None:
        if isinstance(self.weighting, type):  # a class can be called, too
            decode(Weighting, self.weighting, "weighting")
        times = (torch.arange(1000, dtype=torch.float64, device="cpu") + 0.5) / 1000
        logsnr = self.schedule.logsnr(times)
        weights_at(self.weighting, logsnr)
        with torch.no_grad():
            factor = self.coefficient(logsnr).float()
        if not factor.isfinite().all():
            worst = int(factor.isfinite().logical_not().nonzero()[0])
            raise ValueError(
                f"The factor of the loss is {factor[worst]:.3g} at log-SNR {logsnr[worst]:.3g}, "
                f"with {self.weighting} and {self.schedule}: change one of them."
            )

    def coefficient(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        r"""Return the factor of $\|\hat y - y\|^2$ in the loss.

        It is $\tfrac12 (w/p)(\alpha/(a\sigma - b\alpha))^2$, in float64.
        """
        return self.levels(logsnr).coefficient

    def w_over_p(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        r"""Return the importance weight $w(\lambda)/p(\lambda)$ of the loss.

        It is in float64. The density is divided by here and nowhere else. A loss divided by this
        factor is $\tfrac12\|\hat\epsilon - \epsilon\|^2$, which is comparable over weightings and
        schedules (`elbos.LossByLevel`). An adaptive schedule has another density after its
        `update`.
        """
        logsnr = logsnr.double()
        return self.weighting(logsnr) * torch.exp(-self.schedule.log_density(logsnr))

    def loss(
        self,
        network: Network,
        x: Float[Tensor, "b *d"],
        cond: Condition = None,
        generator: torch.Generator | None = None,
        *,
        logsnr: Float[Tensor, " b"] | None = None,
    ) -> Float[Tensor, " b"]:
        r"""Compute the loss of each sample with random noise.

        Noise levels are drawn, too, unless given. The schedule is not changed. An adaptive schedule
        learns when its `update` is called with the noise levels and the loss: draw the levels with
        `schedule.sample(len(x))` and pass them as `logsnr`.

        Args:
            network: Called as `network(z, logsnr, cond)`, or `network(z, logsnr)` if it takes no
                condition; its output may be of lower precision.
            x: Data in [-1, 1], or of about that size, in float32 or float64.
            cond: What the network is conditioned on, or None.
            generator: Source of noise levels and noise, on the CPU, where both are then drawn.
                Default: torch's global ones, the noise on the device of `x`.
            logsnr: Noise levels, drawn from `schedule`. Default: `schedule.sample(len(x))`,
                low-discrepancy levels in float64 on the CPU.

        Returns:
            Nats per dimension, in the dtype and on the device of `x`.

        Raises:
            TypeError, ValueError: As `__call__` does, or if the first batch holds 8-bit pixels.
                Images from 0 to 1 cause a warning.
        """
        _require_batch(x)
        if type(x) is Tensor and not x.is_meta and "_is_scaled" not in self.__dict__:
            require_scaled(x)  # only for the first batch, since the check synchronizes
            self.__dict__["_is_scaled"] = True
        is_lost = logsnr is None and isinstance(self.schedule, Adaptive)
        if logsnr is None:
            logsnr = self.schedule.sample(len(x), generator)
        device = x.device if generator is None else generator.device
        eps = torch.randn(x.shape, dtype=x.dtype, device=device, generator=generator).to(x.device)
        loss = self(network, x, eps, logsnr, cond)
        if is_lost and loss.requires_grad:
            warn(
                "the adaptive schedule cannot learn from this loss: draw logsnr = "
                "schedule.sample(len(x)), give it as loss(..., logsnr=logsnr) and call "
                "schedule.update(logsnr, loss) after each step."
            )
        return loss

    def __call__(
        self,
        network: Network,
        x: Float[Tensor, "b *d"],
        eps: Float[Tensor, "b *d"],
        logsnr: Float[Tensor, " b"],
        cond: Condition = None,
    ) -> Float[Tensor, " b"]:
        r"""Compute the loss of each sample for given noise and noise levels.

        Args:
            network: Called as `network(z, logsnr, cond)`, or `network(z, logsnr)` if it takes no
                condition; its output may be of lower precision.
            x: Data in [-1, 1], or of about that size, in float32 or float64. Images from 0 to
                1 or to 255 are not rescaled: the noise levels would then differ from the intended
                ones.
            eps: Standard normal noise.
            logsnr: Drawn from `schedule`, `schedule.logsnr(u)` for uniform `u`: best in float64,
                and then best on the CPU, since not every device has it.
            cond: What the network is conditioned on, or None.

        Returns:
            Nats per dimension, in the dtype and on the device of `x`.

        Raises:
            TypeError: If data, noise or log-SNR are no tensors.
            ValueError: If data, noise or log-SNR are not floating-point numbers; data are in half
                precision, in which clean noise levels are lost; shapes differ that would broadcast:
                there has to be one log-SNR per sample, and noise like the data; or the network does
                not return one tensor like the data.
        """
        _require_batch(x)
        require_floating(eps=eps, logsnr=logsnr)
        if logsnr.shape != x.shape[:1] or eps.shape != x.shape:
            raise ValueError(
                f"data of shape {tuple(x.shape)} with noise of shape {tuple(eps.shape)} and "
                f"log-SNR of shape {tuple(logsnr.shape)}: give noise like the data, log-SNR [b]."
            )
        levels = Levels(*torch.stack(self.levels(logsnr)).to(x))  # one transfer to a device
        return self.loss_at(levels, with_three_arguments(network), x, eps, cond)

    def levels(self, logsnr: Float[Tensor, " b"]) -> Levels:
        """Compute the coefficients of the loss at each noise level, in float64."""
        logsnr = logsnr.double()
        alpha, sigma = alpha_sigma(logsnr)
        a, b = self.parameterization.coefficients(logsnr)
        w_over_p = self.w_over_p(logsnr)
        coefficient = 0.5 * w_over_p * error_ratio(alpha, sigma, a, b)
        return Levels(logsnr, alpha, sigma, a, b, coefficient, w_over_p)

    def loss_at(
        self,
        levels: Levels,
        network: Network,
        x: Float[Tensor, "b *d"],
        eps: Float[Tensor, "b *d"],
        cond: Condition = None,
    ) -> Float[Tensor, " b"]:
        """Compute the loss of each sample from precomputed coefficients.

        It is a few operations on tensors and nothing else, so that it compiles to one graph with
        the network.

        Args:
            levels: Result of `levels`, in the dtype and on the device of `x`.
            network: Called as `network(z, logsnr, cond)`.
            x: Data, as in a call, like the other arguments.
            eps: Noise.
            cond: What the network is conditioned on.
        """
        z = align(levels.alpha, x) * x + align(levels.sigma, x) * eps
        y = align(levels.a, x) * x + align(levels.b, x) * eps
        y_hat = network_output(network, z, levels.logsnr, cond)
        loss: Tensor = levels.coefficient * (y_hat.to(x.dtype) - y).square().flatten(1).mean(1)
        return loss


def _require_batch(x: Tensor) -> None:
    require_single(x=x)
    if x.ndim < 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: give a batch of samples, [b, ...].")
