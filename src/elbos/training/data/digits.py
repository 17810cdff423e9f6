"""Handwritten digits that are part of this package: 1,797 images of 8x8 pixels with 17 values.

Small enough for a laptop and for tests: nothing is downloaded. Source and licence: `digits.txt`.
"""

from dataclasses import dataclass
from importlib import resources

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from elbos.base.checks import Typed
from elbos.training.data.dataset import Dataset, Split


@dataclass(frozen=True, kw_only=True)
class Digits(Typed):
    """Handwritten digits (UCI optdigits test set): 1x8x8, 17 pixel values, 10 classes.

    Train 1,350, validation 150, test 297, stratified by class. The split is fixed; the seed of a
    run does not change it.
    """

    def load(self) -> Dataset:
        content = _read()
        x, labels = images_and_labels()

        def split(name: str) -> Split:
            rows = torch.from_numpy(content[name].astype(np.int64))
            return Split(x[rows], labels[rows], 17)

        names = tuple("0123456789")
        return Dataset("digits", split("train"), split("val"), split("test"), 10, names)


def images_and_labels() -> tuple[UInt8[Tensor, "1797 1 8 8"], Int64[Tensor, "1797"]]:
    """Return the images, of values 0 to 16, and labels of scikit-learn's digits, in its order."""
    content = _read()
    x = torch.from_numpy(content["images"]).unsqueeze(1)
    return x, torch.from_numpy(content["labels"].astype(np.int64))


def _read() -> dict[str, np.ndarray]:
    with resources.files("elbos.training.data").joinpath("digits.npz").open("rb") as file:
        return dict(np.load(file))
