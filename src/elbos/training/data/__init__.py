"""Datasets with fixed training, validation and test splits, and the order in which training visits
samples.

A dataset is chosen by a small configuration (`Digits`, `Fashion`, `Folder`, ...) whose `load()`
returns a `Dataset`: three splits of pixel values (or of points in the plane), which no run
changes. Or the user gives a dataset in Python (`given`). The order of the training images is a pure
function of (seed, step): see `batches`.
"""

from elbos.training.data.batches import Batches, StoredBatch, batch_indices, epoch_order
from elbos.training.data.dataset import (
    Dataset,
    DataSpec,
    InMemory,
    Source,
    Split,
    digest_of,
    to_levels,
    to_pixels,
    to_unit,
)
from elbos.training.data.digits import Digits
from elbos.training.data.fashion import Fashion
from elbos.training.data.folder import Folder
from elbos.training.data.given import Given, GivenData, null_digest
from elbos.training.data.hub import Hub
from elbos.training.data.packed import Latents, Packed
from elbos.training.data.tar import Tar
from elbos.training.data.toy import Toy

Samples = Dataset | GivenData
"""The training data of a run: a data set of the command line, or the user's own in Python."""

KnownData = Digits | Fashion | Folder | Packed | Latents | Tar | Hub | Toy
"""The data sets of the command line. A new one joins it, and the run files, by its name here."""

__all__ = [
    "Batches",
    "DataSpec",
    "Dataset",
    "Digits",
    "Fashion",
    "Folder",
    "Given",
    "GivenData",
    "Hub",
    "InMemory",
    "KnownData",
    "Latents",
    "Packed",
    "Samples",
    "Source",
    "Split",
    "StoredBatch",
    "Tar",
    "Toy",
    "batch_indices",
    "digest_of",
    "epoch_order",
    "null_digest",
    "to_levels",
    "to_pixels",
    "to_unit",
]
