r"""The average of the weights, with a memory in proportion to the steps.

$$\bar\theta_t = \beta_t\,\bar\theta_{t-1} + (1 - \beta_t)\,\theta_t, \qquad
  \beta_t = (1 - 1/t)^{\gamma+1}.$$

Unrolled, the weights after step $k$ have the share $(k/t)^{\gamma+1} - ((k-1)/t)^{\gamma+1}$ of the
average after step $t$: a power function of the step, $\propto \tau^\gamma$, of standard deviation
$\sigma_\mathrm{rel}\,t$ with

$$\sigma_\mathrm{rel} = (\gamma+1)^{1/2}\,(\gamma+2)^{-1}\,(\gamma+3)^{-1/2}.$$

It needs no end, so that a run can be made longer, and forgets the initial weights in the first
step. A half-life of a twentieth of the steps, the warm-up of EDM's training, is
$\gamma + 1 = 20 \ln 2$, or $\sigma_\mathrm{rel} = 0.063$. In one run of `digits` (seed 0) the
average of that half-life was within 0.002 bits/dim of the best of the widths 0.075, 0.1 and 0.2 at
each quarter of the way; the weights themselves were 0.074 worse halfway, and as good at the end,
where the learning rate had decayed.

Averages of further widths, of which snapshots are kept (`snapshots`), make one of any width after
the training (`posthoc`).

References:
    Karras et al. (2024), https://arxiv.org/abs/2312.02696, Section 3.1 and Appendix C
"""

import copy

import numpy as np
import torch
from torch import nn

from elbos.training.settings import Averaging
from elbos.training.sharding import local

MAIN = "ema"  # the group in a checkpoint of the average that is sampled


def exponent(relative_width: float) -> float:
    r"""The exponent $\gamma$ of the power function of a relative width.

    Args:
        relative_width: $\sigma_\mathrm{rel}$, above 0 and at most $12^{-1/2}$, where it is 0.

    Examples:
        >>> round(exponent(0.05), 2), round(exponent(0.10), 2)
        (16.97, 6.94)
    """
    inverse = relative_width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def group_of(width: float) -> str:
    """What a checkpoint calls the average of one of `snapshot_widths`: `ema_0_05`."""
    return f"{MAIN}_{width}".replace(".", "_")


class EMA:
    """Copies of a network whose weights are averages of the original's over the steps.

    Args:
        network: The original.
        config: The widths of the averages.

    Attributes:
        networks: The copies, by their group in a checkpoint: "ema", which is sampled, first.
        widths: Their relative widths, likewise; and `exponents`.
    """

    def __init__(self, network: nn.Module, config: Averaging) -> None:
        self.widths = {MAIN: config.relative_width}
        self.widths |= {group_of(width): width for width in config.snapshot_widths}
        self.exponents = {group: exponent(width) for group, width in self.widths.items()}
        self.networks = {
            group: copy.deepcopy(network).eval().requires_grad_(False) for group in self.widths
        }

    @property
    def network(self) -> nn.Module:
        """The copy that is sampled and evaluated."""
        return self.networks[MAIN]

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Average in the weights after a step.

        Args:
            network: The original.
            step: Number of the step, from 1.
        """
        weights = list(map(local, network.parameters()))
        buffers = list(network.buffers())
        for group, average in self.networks.items():
            share = 1 - (1 - 1 / step) ** (self.exponents[group] + 1)
            torch._foreach_lerp_(list(map(local, average.parameters())), weights, share)
            if buffers:  # statistics of a normalization are averages already
                torch._foreach_copy_(list(average.buffers()), buffers)
