"""Handwritten digits, embedded in scikit-learn: 1,797 images of 8x8 pixels with 17 values.

Small enough for a laptop and for tests: nothing is downloaded.
"""

from dataclasses import dataclass

import numpy as np
import torch

from elbos.base.checks import Typed
from elbos.training.data.dataset import Dataset, Split
from elbos.training.data.source import InMemory

_NUM_VAL, _NUM_TEST = 150, 297
_SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Digits(Typed):
    """The digits of scikit-learn (UCI optdigits test set), 1x8x8, 17 pixel values, 10 classes.

    Train 1,350, validation 150, test 297, stratified by class. The split is drawn once with a seed
    of its own (0); the seed of a run does not change it.
    """

    def load(self) -> Dataset:
        """Load the dataset, from scikit-learn's own files."""
        from sklearn.datasets import load_digits  # here, since importing it takes a second

        digits = load_digits()
        x = torch.from_numpy(digits.images.astype(np.uint8)).unsqueeze(1)
        labels = torch.from_numpy(digits.target.astype(np.int64))

        def split(rows: np.ndarray) -> Split:
            return Split(InMemory(x[rows]), labels[rows])

        rest, test = _take(np.arange(len(x)), digits.target, _NUM_TEST)
        train, val = _take(rest, digits.target, _NUM_VAL)
        class_names = tuple("0123456789")
        return Dataset("digits", split(train), split(val), split(test), 17, 10, class_names)


def _take(rows: np.ndarray, target: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """Take `num` rows away, every class in proportion."""
    from sklearn.model_selection import train_test_split

    rest, taken = train_test_split(
        rows, test_size=num, stratify=target[rows], random_state=_SPLIT_SEED
    )
    return rest, taken
