"""Datasets in shards: samples of one shape, stored consecutively in large files.

OUT/
    index.json       shape and dtype of a sample, classes, and for each split the number of samples
                     and the SHA-256 of its shards; the SHA-256 of labels
    train-00000.bin  samples without a header; no shard has samples of two splits
    train.labels     the class of each sample, 64-bit, if there are classes

Opening reads the index and the sizes of the files alone, however many samples there are. The
identifier of the data is a digest of the shards' digests, which were computed when they were
written; `verify` compares them with the files.
"""

import json
import math
import os
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int64, Shaped, UInt8
from torch import Tensor

from elbos.base import files
from elbos.base.codec import decode, digest, encode
from elbos.base.progress import Start, silent
from elbos.training.data.dataset import SPLITS, Dataset, Source, Split

INDEX = "index.json"
_MAX_LEVELS = 256  # of uint8
DTYPES = {"uint8": torch.uint8, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class SplitIndex:
    """Sizes and SHA-256 digests of the shards of a dataset split."""

    nums: tuple[int, ...]
    sha256: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.nums) != len(self.sha256) or min(self.nums, default=0) < 0:
            raise ValueError("sizes and digests of a split do not match")


@dataclass(frozen=True, kw_only=True)
class Index:
    """Index of a dataset stored as a folder of shards.

    Holds shape, dtype and classes of the samples, and sizes and digests of the files. `source`
    holds the data and settings from which the shards were made, `fingerprint` the digest of the
    archive of images, which tells whether an image has changed since. Without classes there are no
    digests of labels.
    """

    format: Literal[1] = 1
    name: str
    shape: tuple[int, ...]
    dtype: Literal["uint8", "float16", "bfloat16"]
    num_levels: int | None
    class_names: tuple[str, ...] | None
    splits: tuple[SplitIndex, SplitIndex, SplitIndex]
    source: dict[str, str]
    labels_sha256: tuple[str, ...]
    fingerprint: str | None = None

    def __post_init__(self) -> None:
        levels, num = self.num_levels, sum(sum(split.nums) for split in self.splits)
        if len(self.shape) != 3 or min(self.shape) < 1 or math.prod((num, *self.shape)) >= 2**60:
            raise ValueError(f"{num} samples of shape {self.shape} are impossible")
        is_of_images = self.dtype == "uint8"
        if is_of_images != (levels is not None) or not 2 <= (levels or 2) <= _MAX_LEVELS:
            raise ValueError(f"dtype {self.dtype} does not fit num_levels {levels}")
        if self.class_names is not None and not self.class_names:
            raise ValueError("class_names is empty")
        if self.class_names is not None and len(self.labels_sha256) != len(SPLITS):
            raise ValueError(f"labels of {len(SPLITS)} splits, {len(self.labels_sha256)} digests")

    @classmethod
    def read(cls, folder: Path) -> "Index":
        file = folder / INDEX
        if not file.is_file():
            raise FileNotFoundError(
                f"{folder} holds no packed data, or they are not complete: "
                "`elbos data pack FOLDER OUT` makes the missing shards."
            )
        try:
            index: Index = decode(Index, files.read_json(file), "it")
        except ValueError as error:
            raise ValueError(f"{file} is corrupt ({error}): pack the data again.") from error
        return index

    def write(self, folder: Path) -> None:
        """Write the index file of a folder of shards.

        The index file marks the folder as complete.
        """
        files.write(folder / INDEX, (json.dumps(encode(self), indent=1) + "\n").encode())


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:05d}.bin"


def labels_file(folder: Path, split: str) -> Path:
    return folder / f"{split}.labels"


@dataclass(frozen=True)
class Shards(Source):
    """Samples of a dataset split, read from shards.

    Each call opens the shards that it reads: there may be more shards than files that a process may
    have open.
    """

    folder: Path
    name: str
    index: SplitIndex
    sample_shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (int(self._ends[-1]) if len(self._ends) else 0, *self.sample_shape)

    def fingerprint(self) -> str:
        return digest(encode(self.index))

    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        numbers, num_bytes = rows.numpy(), math.prod(self.sample_shape) * self.dtype.itemsize
        out = np.empty((len(numbers), num_bytes), np.uint8)
        places = np.searchsorted(self._ends, numbers, side="right")
        for place in np.unique(places).tolist():
            at = np.flatnonzero(places == place)
            begin = int(self._ends[place]) - self.index.nums[place]
            offsets = (numbers[at] - begin) * num_bytes
            path = self.folder / shard_name(self.name, place)
            _read(path, offsets.tolist(), [out[i] for i in at.tolist()])
        return torch.from_numpy(out).view(self.dtype).view(len(numbers), *self.sample_shape)

    @cached_property
    def _ends(self) -> Int64[np.ndarray, " shards"]:
        return np.cumsum(self.index.nums, dtype=np.int64)


def _read(path: Path, offsets: list[int], rows: list[UInt8[np.ndarray, " bytes"]]) -> None:
    with files.named_errors(path), path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):  # the disk reads all rows at once, three times as fast
            for offset in offsets:
                os.posix_fadvise(file.fileno(), offset, len(rows[0]), os.POSIX_FADV_WILLNEED)
        for offset, row in zip(offsets, rows, strict=True):
            file.seek(offset)
            if file.readinto(row.data) != len(row):
                raise ValueError(f"{path} is shorter than in its index: pack again.")


def _require_size(path: Path, num_bytes: int) -> None:
    with files.named_errors(path):
        found = files.regular(path).stat().st_size
    if found != num_bytes:
        raise ValueError(
            f"{path} has {found:,} bytes, not {num_bytes:,} as in its index: pack again."
        )


def _mapped_labels(path: Path, num: int) -> Int64[Tensor, " n"]:
    _require_size(path, 8 * num)
    if num == 0:
        return torch.empty(0, dtype=torch.int64)
    with warnings.catch_warnings():
        # a writable (private) mapping would reserve memory for all labels
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.memmap(path, "<i8", "r"))


def load_shards(folder: Path, index: Index) -> Dataset:
    """Open the dataset in a folder of shards.

    File sizes are checked, and no sample is read.
    """
    splits, classes = [], index.class_names
    num_bytes = math.prod(index.shape) * DTYPES[index.dtype].itemsize
    for name, split in zip(SPLITS, index.splits, strict=True):
        for number, num in enumerate(split.nums):
            path = os.path.join(folder, shard_name(name, number))  # noqa: PTH118 (in half the time)
            if os.stat(path).st_size != num * num_bytes:  # noqa: PTH116
                _require_size(Path(path), num * num_bytes)  # raises an error that names the file
        x, labels = Shards(folder, name, split, index.shape, DTYPES[index.dtype]), None
        if classes is not None:
            labels = _mapped_labels(labels_file(folder, name), len(x))
        splits.append(Split(x, labels))
    train, val, test = splits
    return Dataset(
        index.name,
        train,
        val,
        test,
        index.num_levels,
        None if classes is None else len(classes),
        classes,
        known_digest=digest([index.dtype, index.shape, [encode(split) for split in index.splits]]),
    )


def verify(folder: Path, start: Start = silent) -> Index:
    """Verify all files in a folder of shards by SHA-256.

    The index of the folder is returned.

    Raises:
        ValueError: If the index or a file is corrupt; the message names the files.
    """
    index = Index.read(folder)
    digests = {
        folder / shard_name(name, number): sha256
        for name, split in zip(SPLITS, index.splits, strict=True)
        for number, sha256 in enumerate(split.sha256)
    }
    digests |= {
        labels_file(folder, name): sha256
        for name, sha256 in zip(SPLITS, index.labels_sha256, strict=bool(index.labels_sha256))
    }
    damaged, advance = [], start(f"verifying {folder.name}", len(digests), "files")
    for path, sha256 in digests.items():
        if files.sha256(path) != sha256:
            damaged.append(path.name)
        advance(1)
    if damaged:
        raise ValueError(
            f"{len(damaged)} of {len(digests)} files in {folder} were changed "
            f"({', '.join(damaged[:3])}{', ...' * (len(damaged) > 3)}): pack into a new folder."
        )
    return index
