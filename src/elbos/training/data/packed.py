r"""Datasets on disk: one array per split, mapped into memory.

FOLDER/
    index.json        name, dtype and classes of the data, and SHA-256 of the arrays; written last:
                      it marks a complete folder
    train.npy         the samples, `[n, c, h, w]`
    train.labels.npy  the class of each sample, if there are classes

Opening reads no sample, however many there are, and all processes of a machine share what the
system has read.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from elbos.base import files
from elbos.base.checks import Typed
from elbos.base.codec import decode, encode
from elbos.training.data.dataset import SPLITS, Dataset, Split, digest_of

INDEX = "index.json"
_NUM_AT_ONCE = 256  # samples in memory


@dataclass(frozen=True, kw_only=True)
class Index:
    """Index of a dataset stored as one array per split.

    `source` is a digest of the data and settings from which the arrays were made.
    """

    format: Literal[1] = 1
    name: str
    dtype: Literal["uint8"] = "uint8"
    num_levels: int
    class_names: tuple[str, ...] | None
    source: str
    sha256: str  # of the samples of all splits
    labels_sha256: str

    @classmethod
    def read(cls, folder: Path) -> "Index":
        file = folder / INDEX
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} holds no packed data, or they are not complete: "
                "`elbos data pack FOLDER OUT` makes them."
            )
        try:
            index: Index = decode(Index, files.read_value(file), "it")
        except ValueError as error:
            raise ValueError(f"{file} is corrupt ({error}): pack the data again.") from error
        return index


def _mapped(path: Path) -> Shaped[np.ndarray, "..."]:
    try:
        # Read-only: the system refuses to map more than its memory for changes, even private ones.
        array: np.ndarray = np.lib.format.open_memmap(files.regular(path), mode="r")
    except (ValueError, TypeError, OverflowError) as error:  # whatever its header says
        raise ValueError(f"{path} is corrupt ({error}): pack the data again.") from error
    return array


def load(folder: Path) -> Dataset:
    """Open the dataset in a folder of arrays."""
    index, splits = Index.read(folder), []
    for name in SPLITS:
        x, labels = _mapped(folder / f"{name}.npy"), None
        if index.class_names is not None:
            labels = torch.from_numpy(_mapped(folder / f"{name}.labels.npy").astype(np.int64))
        is_right = x.dtype == np.uint8 and x.ndim == 4 and min(x.shape) > 0
        if not is_right or (labels is not None and len(labels) != len(x)):
            raise ValueError(f"{folder / name}.npy does not match {INDEX}: pack the data again.")
        with warnings.catch_warnings():  # nobody writes to a split
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            splits.append(Split(torch.from_numpy(x), labels, index.num_levels))
    train, val, test = splits
    names = index.class_names
    classes = None if names is None else len(names)
    return Dataset(index.name, train, val, test, classes, names, known_digest=index.sha256)


def write(
    folder: Path,
    pixels: UInt8[np.ndarray, "n c h w"],
    splits: Sequence[Sequence[int]],
    labels: Sequence[Int64[Tensor, "_"]],
    **properties: Any,
) -> None:
    """Write the arrays of a dataset and their index, which has `properties` for further fields.

    `splits` holds the rows of `pixels` in each split; `labels` the classes of each, or nothing.
    """
    hashed = hashlib.sha256()
    for name, rows in zip(SPLITS, splits, strict=True):
        path = folder / f"{name}.npy"
        shape = (len(rows), *pixels.shape[1:])
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        with files.named_errors(path), path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(rows), _NUM_AT_ONCE):
                block = pixels[rows[start : start + _NUM_AT_ONCE]].tobytes()
                file.write(block)
                hashed.update(block)
    for name, classes in zip(SPLITS, labels, strict=bool(labels)):
        np.save(folder / f"{name}.labels.npy", classes.numpy())
    index = Index(sha256=hashed.hexdigest(), labels_sha256=digest_of(labels), **properties)
    files.write(folder / INDEX, (json.dumps(encode(index), indent=1) + "\n").encode())


@dataclass(frozen=True, kw_only=True)
class Packed(Typed):
    """Images decoded and divided in advance by `elbos data pack`."""

    path: Path
    """Folder that `elbos data pack` wrote; stored as an absolute path."""

    flip: bool = False
    """Mirror half of the training images left to right, another half in each epoch."""

    crop: int | None = None
    """Height and width of the part of an image that is trained on, at another place in each epoch;
    validation and test use the centre. Default: the entire image."""

    def load(self) -> Dataset:
        return load(self.path).with_augmentation(flip=self.flip, crop=self.crop)
