"""Writes Fashion-MNIST at 16x16 pixels, as the four idx files that `data:fashion` reads.

python docs/results/fashion/images.py FOLDER
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from elbos.training.data import Fashion

SIZE = 16


def shrunk(x: Tensor) -> np.ndarray:
    """Grey images `[n, 1, 28, 28]` at 16x16, by antialiased bilinear interpolation."""
    small = F.interpolate(x.float(), size=SIZE, mode="bilinear", antialias=True)
    return small.round().to(torch.uint8)[:, 0].numpy()


def write_idx(path: Path, values: np.ndarray) -> None:
    """Write bytes as idx: a magic number with the number of axes, sizes, and values."""
    path.write_bytes(np.array([0x0800 + values.ndim, *values.shape], ">u4").tobytes())
    with path.open("ab") as file:
        file.write(values.astype(np.uint8).tobytes())


def main() -> None:
    """Write images and labels for training and testing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    data = Fashion().load()
    for prefix, splits in (("train", (data.train, data.val)), ("t10k", (data.test,))):
        images = np.concatenate([shrunk(torch.as_tensor(split.x[:])) for split in splits])
        labels = np.concatenate([split.labels.numpy() for split in splits])
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels)


if __name__ == "__main__":
    main()
