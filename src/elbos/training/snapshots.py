"""Snapshots of averages of the weights, RUN/ema/STEP-WIDTH.safetensors.

They hold the parameters in 16-bit floating point, as EDM2's do: the coefficients with which
`posthoc` adds them up are of size 1, so that their rounding, 0.02 % of each weight, does not grow.
float16 has three bits more than bfloat16 for that, and weights are nowhere near its limit of
65,504. Loading reads numbers and runs no code.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from elbos.base import files
from elbos.training import checkpoint
from elbos.training.ema import EMA, MAIN
from elbos.training.sharding import whole

DTYPE = torch.float16
_NAME = re.compile(r"(\d{8,})-(0\.\d+)\.safetensors")


class Snapshot(NamedTuple):
    """The average of a width after a step, in a file.

    Attributes:
        step: The number of steps it is of.
        width: Its relative width.
        path: The file.
    """

    step: int
    width: float
    path: Path

    def read(self, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The averaged parameters, by name.

        Args:
            own: Tensors of the same network, with these among them.

        Raises:
            OSError: If the file cannot be read.
            ValueError: If it is damaged, or of another network.
        """
        try:
            tensors: dict[str, Tensor] = safetensors.torch.load(files.read(self.path))
            is_own = all(tensor.shape == own[name].shape for name, tensor in tensors.items())
        except (SafetensorError, KeyError, NotImplementedError):
            is_own = False
        if not is_own:
            raise ValueError(
                f"{self.path} is damaged, or of another network: delete it, and do without it."
            )
        return tensors


def gathered(ema: EMA, *, is_main: bool) -> dict[float, dict[str, Tensor]]:
    """Copies, on the CPU, of the averages of `snapshot_widths`, by width; empty but in the main
    process. All have to call it: each may hold a part.
    """
    averages: dict[float, dict[str, Tensor]] = {}
    for group, network in ema.networks.items():
        if group == MAIN:
            continue
        tensors = averages.setdefault(ema.widths[group], {})
        for name, parameter in network.named_parameters():
            tensor = whole(parameter)
            if is_main:
                tensors[name] = tensor.to("cpu", DTYPE, copy=True)
    return averages


def write_snapshots(folder: Path, step: int, averages: dict[float, dict[str, Tensor]]) -> None:
    """Write the averages of `snapshot_widths` after a step.

    Args:
        folder: Where; made if it is not there.
        step: The number of the step.
        averages: What `gathered` gave.

    Raises:
        OSError: If they cannot be written.
    """
    folder.mkdir(exist_ok=True)
    for width, tensors in averages.items():
        files.write(folder / f"{step:08d}-{width}.safetensors", checkpoint.packed(tensors))


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a folder, in order; none, if it is not there."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("*.safetensors"))
    return sorted(Snapshot(int(name[1]), float(name[2]), path) for name, path in found if name)
