r"""The weighted diffusion loss, per sample, in nats per dimension.

$$\ell(x, \epsilon, \lambda) = \frac12\,\frac{w(\lambda)}{p(\lambda)}\,\|\hat\epsilon - \epsilon\|^2
  = \underbrace{\frac12\,\frac{w(\lambda)}{p(\lambda)} \left(\frac{\alpha}{a\sigma -
  b\alpha}\right)^2}_{ \text{one number per sample}} \|\hat y - y\|^2.$$

The expectation over $\lambda \sim p$ and $\epsilon$ is $L_w(x)$ for every schedule and every
parameterization. The error is taken in the network's own output space, where it is a number of
order one at every noise level; converting to $\hat\epsilon$ first would lose all digits of it at
one end or the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.checks import require_floating
from elbos.parameterizations import Parameterization
from elbos.process import diffuse
from elbos.schedules import Schedule
from elbos.weightings import WeightFunction


@dataclass(frozen=True, kw_only=True)
class Objective:
    r"""What to train for: a weighting, sampled by a schedule, predicted in a parameterization.

    Attributes:
        weighting: $w$, the only one of the three that changes what is optimal.
        schedule: $p$, the distribution that `logsnr` is drawn from; it changes the variance of the
            loss.
        parameterization: $(a, b)$, what the network predicts.

    Examples:
        A training loop. The last line is for the schedule that learns (`adaptive.Adaptive`) and
        does nothing for others; on several processes give it the losses of all of them.

        >>> from elbos import adaptive, parameterizations, schedules, weightings
        >>> objective = Objective(
        ...     weighting=weightings.Sigmoid(k=2.0),
        ...     schedule=adaptive.Adaptive(logsnr_min=-10.0, logsnr_max=10.0),
        ...     parameterization=parameterizations.V(),
        ... )
        >>> layer = torch.nn.Linear(3, 3)
        >>> network = lambda z, logsnr, cond: layer(z)
        >>> optimizer = torch.optim.Adam(layer.parameters())
        >>> for x in torch.randn(2, 8, 3):
        ...     times = schedules.low_discrepancy_times(torch.rand(()).item(), len(x))
        ...     logsnr = objective.schedule.logsnr(times)
        ...     loss = objective(network, x, torch.randn_like(x), logsnr)  # [b]
        ...     loss.mean().backward()
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        ...     objective.schedule.update(logsnr, loss)
    """

    weighting: WeightFunction
    schedule: Schedule
    parameterization: Parameterization

    def coefficient(self, logsnr: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        r"""What $\|\hat y - y\|^2$ is multiplied with,
        $\tfrac12 (w/p)(\alpha/(a\sigma - b\alpha))^2$; float64.

        The density is divided by here and nowhere else.
        """
        logsnr = logsnr.double()
        w_over_p = self.weighting(logsnr) * torch.exp(-self.schedule.log_density(logsnr))
        return 0.5 * w_over_p * self.parameterization.eps_error_per_error(logsnr)

    def __call__(
        self,
        network: Callable[[Tensor, Tensor, Any], Tensor],
        x: Float[Tensor, "b *d"],
        eps: Float[Tensor, "b *d"],
        logsnr: Float[Tensor, " b"],
        cond: Any = None,
    ) -> Float[Tensor, " b"]:
        r"""The loss of each sample.

        Args:
            network: Called as `network(z, logsnr, cond)`; its output may be of lower precision.
            x: Data in [-1, 1], or of about that size. Images from 0 to 1 or to 255 are trained on
                as they are, at other noise levels than one means.
            eps: Standard normal noise.
            logsnr: Drawn from `schedule`, `schedule.logsnr(u)` for uniform `u`: best in float64,
                and then best on the CPU, since not every device has it.
            cond: What the network is conditioned on, or None.

        Returns:
            Nats per dimension, in the dtype and on the device of `x`.

        Raises:
            ValueError: If data, noise or log-SNR are not floating-point numbers, or shapes differ
                that would broadcast: there has to be one log-SNR per sample, and noise and output
                like the data.
        """
        require_floating(x=x, eps=eps, logsnr=logsnr)
        if logsnr.shape != x.shape[:1] or eps.shape != x.shape:
            raise ValueError(
                f"data of shape {tuple(x.shape)} with noise of shape {tuple(eps.shape)} and "
                f"log-SNR of shape {tuple(logsnr.shape)}: give noise like the data, log-SNR [b]."
            )
        y = self.parameterization.target(x, eps, logsnr)
        y_hat = network(diffuse(x, eps, logsnr), logsnr.to(x), cond)
        if y_hat.shape != x.shape:
            raise ValueError(
                f"the network's output has shape {tuple(y_hat.shape)}, the data {tuple(x.shape)}."
            )
        error = (y_hat.to(x.dtype) - y).square().flatten(1).mean(1)
        if error.requires_grad:
            self.schedule.note_training_loss()
        return self.coefficient(logsnr).to(x) * error
