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

from elbos import files
from elbos.runs import checkpoint
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


def write_snapshots(folder: Path, step: int, ema: EMA, *, is_main: bool) -> None:
    """Write the averages of `snapshot_widths` after a step.

    Args:
        folder: Where; made if it is not there.
        step: The number of the step.
        ema: The averages.
        is_main: Whether this process writes. All have to call it: each may hold a part.

    Raises:
        OSError: If they cannot be written.
    """
    for group, network in ema.networks.items():
        if group == MAIN:
            continue
        tensors = {name: whole(parameter) for name, parameter in network.named_parameters()}
        if is_main:
            folder.mkdir(exist_ok=True)
            content = checkpoint.packed({name: t.to(DTYPE) for name, t in tensors.items()})
            files.write(folder / f"{step:08d}-{ema.widths[group]}.safetensors", content)


def snapshots(folder: Path) -> list[Snapshot]:
    """The snapshots in a folder, in order; none, if it is not there."""
    found = ((_NAME.fullmatch(path.name), path) for path in folder.glob("*.safetensors"))
    return sorted(Snapshot(int(name[1]), float(name[2]), path) for name, path in found if name)
