"""Datasets with fixed training, validation and test splits, and the order in which training visits
samples.

A dataset is chosen by a small configuration (`Digits`, `Fashion`, `Images`, ...) whose `load()`
returns a `Dataset`: three splits of pixel values (or of points in the plane), which no run
changes. Or the user gives a dataset in Python (`given`). The order of the training images is a pure
function of (seed, step): see `batches`.
"""

from elbos.training.data.dataset import Dataset, to_unit
from elbos.training.data.digits import Digits
from elbos.training.data.fashion import Fashion
from elbos.training.data.given import GivenData
from elbos.training.data.images import Images
from elbos.training.data.packed import Packed
from elbos.training.data.toy import Toy

Samples = Dataset | GivenData
"""The training data of a run: a data set of the command line, or the user's own in Python."""

KnownData = Digits | Fashion | Images | Packed | Toy
"""The data sets of the command line. A new one joins it, and the run files, by its name here."""

__all__ = ["Digits", "Fashion", "Images", "KnownData", "Packed", "Samples", "Toy", "to_unit"]
