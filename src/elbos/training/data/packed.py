r"""Datasets on disk: one array per split, mapped into memory, of images or of latents.

FOLDER/
    index.json        name, dtype and classes of the data, and SHA-256 of the arrays; written last:
                      it marks a complete folder
    train.npy         the samples, `[n, c, h, w]`
    train.labels.npy  the class of each sample, if there are classes

Opening reads no sample, however many there are, and all processes of a machine share what the
system has read.

`elbos data encode` stores the mean and the log-variance of each image's latents, in the units in
which a network is trained, $\mu = (\mu_\text{VAE} - \text{shift}) \cdot \text{scale}$ and
$\log\sigma^2 = \log\sigma^2_\text{VAE} + 2 \log \text{scale}$. The data are draws,

$$x = \mu + \sigma \epsilon, \qquad \epsilon \sim \mathcal N(0, I),$$

another one in each epoch: the means alone have a narrower distribution than the decoder expects.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from elbos.base import files
from elbos.base.cache import build_once
from elbos.base.checks import Typed
from elbos.base.codec import decode, encode
from elbos.base.philox import Purpose, Stream
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import SPLITS, Dataset, Source, Split, digest_of
from elbos.training.randomness import Visits

INDEX = "index.json"
DTYPES = {
    "uint8": (torch.uint8, "|u1"),
    "float16": (torch.float16, "<f2"),
    "bfloat16": (torch.bfloat16, "<i2"),  # read as integers: NumPy has no such type
}
_NUM_AT_ONCE = 256  # samples in memory: drawing noise takes ten times as much


@dataclass(frozen=True, kw_only=True)
class Index:
    """Index of a dataset stored as one array per split.

    Attributes:
        source: Digest of the data and settings from which the arrays were made.
        sha256: Digest of the samples of all splits.
        labels_sha256: Digest of the labels of all splits.
    """

    format: Literal[1] = 1
    name: str
    dtype: Literal["uint8", "float16", "bfloat16"]
    num_levels: int | None
    class_names: tuple[str, ...] | None
    source: str
    sha256: str
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


@dataclass(frozen=True)
class Mapped(Source):
    """Samples of a dataset split in a memory-mapped array."""

    path: Path
    dtype: torch.dtype

    @cached_property
    def _array(self) -> Shaped[np.ndarray, "n ..."]:
        return _mapped(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return Mapped, (self.path, self.dtype)  # a process that loads batches maps the file itself

    @property
    def shape(self) -> tuple[int, ...]:
        return self._array.shape

    def read(self, rows: Int64[Tensor, " b"]) -> Shaped[Tensor, "b *d"]:
        return torch.from_numpy(self._array[rows.numpy()]).view(self.dtype)


def _mapped(path: Path) -> Shaped[np.ndarray, "..."]:
    try:
        array: np.ndarray = np.load(files.regular(path), mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is corrupt ({error}): pack the data again.") from error
    return array


def load(folder: Path) -> Dataset:
    """Open the dataset in a folder of arrays."""
    index, splits = Index.read(folder), []
    dtype, form = DTYPES[index.dtype]
    for name in SPLITS:
        x, labels = Mapped(folder / f"{name}.npy", dtype), None
        if index.class_names is not None:
            labels = torch.from_numpy(_mapped(folder / f"{name}.labels.npy").astype(np.int64))
        is_right = x._array.dtype == np.dtype(form) and len(x.shape) == 4 and min(x.shape) > 0
        if not is_right or (labels is not None and len(labels) != len(x)):
            raise ValueError(f"{x.path} does not match {INDEX}: pack the data again.")
        splits.append(Split(x, labels, index.num_levels))
    train, val, test = splits
    names = index.class_names
    classes = None if names is None else len(names)
    return Dataset(index.name, train, val, test, classes, names, known_digest=index.sha256)


def write(
    folder: Path,
    splits: Sequence[tuple[int, Iterable[bytes]]],
    labels: Sequence[Int64[Tensor, "_"]],
    shape: tuple[int, ...],
    *,
    dtype: Literal["uint8", "float16", "bfloat16"],
    **properties: Any,
) -> None:
    """Write the arrays of a dataset and their index, which has `properties` for further fields.

    `splits` holds the number of samples of each split, and their bytes in blocks; `labels` the
    classes of each, or nothing.
    """
    hashed = hashlib.sha256()
    for name, (num, blocks) in zip(SPLITS, splits, strict=True):
        path = folder / f"{name}.npy"
        header = {"descr": DTYPES[dtype][1], "fortran_order": False, "shape": (num, *shape)}
        with files.writing(path) as file, files.named_errors(path):
            np.lib.format.write_array_header_1_0(file, header)
            for block in blocks:
                file.write(block)
                hashed.update(block)
    for name, classes in zip(SPLITS, labels, strict=bool(labels)):
        np.save(folder / f"{name}.labels.npy", classes.numpy())
    index = Index(
        sha256=hashed.hexdigest(), labels_sha256=digest_of(labels), dtype=dtype, **properties
    )
    files.write(folder / INDEX, (json.dumps(encode(index), indent=1) + "\n").encode())


def build_new(out: Path, source: str, build: Callable[[Path], None], content: str) -> None:
    """Build a folder of arrays from a source, unless it is complete.

    Raises:
        ValueError: If it holds other files, or the arrays of another source, which are `content`.
    """
    with suppress(OSError):
        out.rmdir()  # an empty folder
    if os.path.lexists(out) and not (out / INDEX).exists():
        raise ValueError(f"{out} exists, and holds no packed data: name a new folder.")
    if build_once(out, build, Index.read).source != source:
        raise ValueError(f"{out} holds {content}")


def verify(folder: Path) -> None:
    """Raise a ValueError unless the arrays in a folder have the SHA-256 digests of its index."""
    dataset, index = load(folder), Index.read(folder)
    samples = digest_of(x for split in dataset.splits for x in split.x.split(_NUM_AT_ONCE))
    labels = digest_of(split.labels for split in dataset.splits if split.labels is not None)
    if (samples, labels) != (index.sha256, index.labels_sha256):
        raise ValueError(f"Files in {folder} were changed: pack into a new folder.")


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
        dataset = load(self.path)
        if dataset.num_levels is None:
            raise ValueError(f"{self.path} holds latents: train with data:latents.")
        return augmented(dataset, flip=self.flip, crop=self.crop)


@dataclass(frozen=True, kw_only=True)
class Latents(Typed):
    """VAE latents encoded by `elbos data encode`, sampled anew in each epoch.

    Samples of a run are latents, too, in the scale of the network.
    """

    path: Path
    """Folder that `elbos data encode` wrote; stored as an absolute path."""

    def load(self) -> Dataset:
        dataset = load(self.path)
        if dataset.num_levels is not None:
            raise ValueError(f"{self.path} holds images: train with data:packed.")
        train, val, test = (
            replace(split, x=Moments(split.x, number))
            for number, split in enumerate(dataset.splits)
        )
        return replace(dataset, train=train, val=val, test=test)


@dataclass(frozen=True)
class Moments(Source):
    """Latents stored as means and log-variances of Gaussian distributions.

    A stored row is `[2 * c, h, w]`. The number of the split keys its noise, so that no two held-out
    samples share their noise.
    """

    moments: Source
    number: int

    @property
    def shape(self) -> tuple[int, ...]:
        num, channels, *size = self.moments.shape
        return num, channels // 2, *size

    def read(self, rows: Int64[Tensor, " b"]) -> Float32[Tensor, "b c h w"]:
        """Sample latents with fixed noise, so that each call returns equal values."""
        stream = Stream.from_seed(0, Purpose.HELD_OUT_LATENTS)
        number, shape = torch.tensor(self.number), self.shape[1:]
        parts = [
            _drawn(self.moments.read(some), stream.normal(number, some, shape))
            for some in torch.split(rows, _NUM_AT_ONCE)
        ]
        return torch.cat(parts)

    def stored(self, rows: Int64[Tensor, " b"]) -> Float[Tensor, "b d h w"]:
        return self.moments.read(rows)

    def augmented(self, x: Float[Tensor, "b d h w"], visits: Visits) -> Float32[Tensor, "b c h w"]:
        return _drawn(x, visits.normal(Purpose.LATENTS, self.shape[1:]))


def _drawn(
    moments: Float[Tensor, "b d h w"], eps: Float32[Tensor, "b c h w"]
) -> Float32[Tensor, "b c h w"]:
    mean, logvar = moments.float().chunk(2, dim=1)
    return mean + (0.5 * logvar).exp() * eps
