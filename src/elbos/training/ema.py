r"""Power-function averages of the weights (EMA of growing width), and snapshots of averages.

$$\bar\theta_t = \beta_t\,\bar\theta_{t-1} + (1 - \beta_t)\,\theta_t, \qquad
  \beta_t = (1 - 1/t)^{\gamma+1}.$$

Unrolled, the weights after step $k$ have the share $(k/t)^{\gamma+1} - ((k-1)/t)^{\gamma+1}$ of the
average after step $t$: a power function of the step, $\propto \tau^\gamma$, of standard deviation
$\sigma_\mathrm{rel}\,t$ with

$$\sigma_\mathrm{rel} = (\gamma+1)^{1/2}\,(\gamma+2)^{-1}\,(\gamma+3)^{-1/2}.$$

The average does not depend on the end of the training, so that a run can be extended, and forgets
the initial weights in the first step. A half-life of a twentieth of the steps, as in the warm-up of
EDM's training, is $\gamma + 1 = 20 \ln 2$, or $\sigma_\mathrm{rel} = 0.063$, the default: in one
run of `digits`, within 0.002 bits/dim of the best of four widths up to 0.2 at each quarter.

Snapshots of averages of further widths, RUN/ema/STEP-WIDTH.safetensors, give the average of any
width after the training (`posthoc`). They hold the parameters in float16, as EDM2's do: the
coefficients of `posthoc` are of size 1, so that the rounding, 0.02 % of each weight, does not grow.

References:
    Karras et al. (2024), https://arxiv.org/abs/2312.02696, Section 3.1 and Appendix C
"""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from elbos.base import files
from elbos.base.formats import CorruptFile, pack, unpack
from elbos.training.config import Averaging
from elbos.training.sharding import local, unsharded

MAIN = "ema"  # checkpoint group of the average that is sampled
DTYPE = torch.float16
_NAME = re.compile(r"(\d{8,})-(0\.\d+)\.safetensors")


def exponent(relative_width: float) -> float:
    r"""Return the exponent $\gamma$ of a power-function average.

    The relative width is above 0 and at most $12^{-1/2}$, where $\gamma = 0$.

    Examples:
        >>> round(exponent(0.05), 2), round(exponent(0.10), 2)
        (16.97, 6.94)
    """
    inverse = relative_width**-2
    return float(np.roots([1, 7, 16 - inverse, 12 - inverse]).real.max())


def group_of(width: float) -> str:
    """Return the checkpoint key of averaged weights.

    The name for the relative width 0.05 is `ema_0_05`.
    """
    return f"{MAIN}_{width}".replace(".", "_")


class EMA:
    """Power-function averages of a network's weights over the training.

    There is one average per relative width.

    Attributes:
        networks: Averaged networks by checkpoint group; the first, "ema", is sampled.
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
        return self.networks[MAIN]

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Update the weight averages after a training step.

        The first training step has number 1.
        """
        weights = list(map(local, network.parameters()))
        buffers = list(network.buffers())
        for group, average in self.networks.items():
            share = 1 - (1 - 1 / step) ** (self.exponents[group] + 1)
            torch._foreach_lerp_(list(map(local, average.parameters())), weights, share)
            if buffers:  # BatchNorm statistics are averages already
                torch._foreach_copy_(list(average.buffers()), buffers)

    def snapshots(self, *, is_main: bool) -> dict[float, dict[str, Tensor]]:
        """Copy the averaged weights to the CPU.

        The copies are keyed by averaging width. All processes must call this method, since each may
        hold a shard; all but the main process return empty dictionaries.
        """
        averages: dict[float, dict[str, Tensor]] = {}
        for group, network in self.networks.items():
            if group == MAIN:
                continue
            tensors = averages.setdefault(self.widths[group], {})
            for name, parameter in network.named_parameters():
                tensor = unsharded(parameter)
                if is_main:
                    tensors[name] = tensor.to("cpu", DTYPE, copy=True)
        return averages


class Snapshot(NamedTuple):
    """File of averaged weights at one training step.

    The average has one relative width.
    """

    step: int
    width: float
    path: Path

    def read(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the averaged weights in a snapshot file, by parameter name.

        Raises:
            ValueError: If the file is corrupt, or a shape differs from that of the tensor in `own`.
        """
        try:
            tensors = unpack(files.read(self.path), self.path)
            is_own = all(tensor.shape == own[name].shape for name, tensor in tensors.items())
        except (CorruptFile, KeyError):
            is_own = False
        if not is_own:
            raise ValueError(
                f"{self.path} is corrupt or belongs to another network: delete it, and the other "
                "snapshots are used."
            )
        return tensors


def write_snapshots(folder: Path, step: int, averages: dict[float, dict[str, Tensor]]) -> None:
    folder.mkdir(exist_ok=True)
    for width, tensors in averages.items():
        files.write(folder / f"{step:08d}-{width}.safetensors", pack(tensors))


def snapshots(folder: Path) -> list[Snapshot]:
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("*.safetensors"))
    return sorted(Snapshot(int(name[1]), float(name[2]), path) for name, path in found if name)
