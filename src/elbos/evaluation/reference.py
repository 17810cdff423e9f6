"""What samples are compared with: the features of one split of the data, computed once.

They are kept in the user's cache under a key over the data, the split and the extractor. An
extraction that was interrupted goes on where it was; a cache that is damaged is replaced.
"""

import hashlib
import json
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float32
from torch import Tensor

from elbos import files
from elbos.evaluation.estimators import Statistics, mean_kernel
from elbos.evaluation.features import Extractor, extract
from elbos.progress import Start
from elbos.runs.cache import build_once, cache_dir
from elbos.runs.store import Store, pack, unpack
from elbos.training.data import Dataset

_FILE = "reference.safetensors"
_FORMAT = 2  # of the cache: 60,000 rows, and their kernel
_MAX_ROWS = 60_000
_PART_SIZE = 500  # images: seconds of work
_SEED = 0  # of the rows
_NUM_CHECKED = 8
_MAX_DIFFERENCE = 0.02  # relative; batches of other sizes make a millionth


@dataclass(frozen=True)
class Reference:
    """The features of a split.

    Attributes:
        statistics: Of all its images.
        rows: Features of up to 60,000 of them, in an order drawn once and for all.
        kernel: `mean_kernel(rows)`, the part of the kernel distance that is the reference's own.
        extractor: Name of what computed them.
        dataset: Name of the data.
        split: Name of the split.
        image_shape: Of its images, `(c, h, w)`.
    """

    statistics: Statistics
    rows: Float32[Tensor, "m d"]
    kernel: float
    extractor: str
    dataset: str
    split: str
    image_shape: tuple[int, ...]


def reference(
    dataset: Dataset,
    split_name: str,
    extractor: Extractor,
    start: Start = lambda *_: lambda *_: None,
) -> Reference:
    """The features of a split, from the cache if they are there.

    A few are computed in any case, and compared with those in the cache: what a function of the
    user's own computes may change without its name.

    Args:
        dataset: Images.
        split_name: "train", "val", "test", or several, as "train+val".
        extractor: What computes the features.
        start: Told of the work; not at all with a cache.

    Raises:
        OSError: If the cache cannot be written.
        ValueError: If the data are points, the split has fewer than 2 images, or the extractor
            does not compute the same features twice.
    """
    num_levels = require_images(dataset)
    splits = [getattr(dataset, name).x for name in split_name.split("+")]
    num = sum(map(len, splits))
    some = torch.randperm(num, generator=torch.Generator().manual_seed(_SEED))[:_MAX_ROWS]

    def features(x: Tensor) -> dict[str, Tensor]:
        found = extract(extractor, x, num_levels=num_levels, on_images=lambda _: None)
        return {"pooled": found.pooled}

    def build(folder: Path) -> None:
        advance = start(f"features of {split_name} images", num, "images")
        store, parts = Store(cache_dir() / f"features/{key}.parts"), []
        for i, x in enumerate(part for split in splits for part in split.split(_PART_SIZE)):
            is_kept = f"{i:05d}" in store
            parts.append(store.part(f"{i:05d}", partial(features, x))["pooled"])
            advance(len(x), is_kept)
        pooled = torch.cat(parts)
        rows = pooled[some]
        files.write(
            folder / _FILE, _content(Statistics.from_features(pooled), rows, mean_kernel(rows))
        )
        shutil.rmtree(store.folder)

    def cached() -> Reference:
        folder = build_once(f"features/{key}", build, read=lambda path: path)
        statistics, rows, kernel = _read(folder / _FILE)
        checked = torch.stack([_row(splits, row) for row in some[:_NUM_CHECKED].tolist()])
        now = features(checked)["pooled"]
        if not _is_same(now, rows[: len(now)]):
            raise DamagedCache(folder, f"are not what {extractor.name} computes now")
        names = (extractor.name, dataset.name, split_name)
        return Reference(statistics, rows, kernel, *names, image_shape=dataset.shape)

    identity = [_FORMAT, dataset.fingerprint(), num_levels, split_name, extractor.name]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    try:
        return cached()
    except DamagedCache as damaged:
        warnings.warn(f"{damaged}: they are computed again", stacklevel=2)
        shutil.rmtree(damaged.folder)
    try:
        return cached()
    except DamagedCache as damaged:
        raise ValueError(
            f"{extractor.name} does not compute the same features twice: make it deterministic."
        ) from damaged


def _row(splits: Sequence[Tensor], row: int) -> Tensor:
    """A row of splits that stand behind one another."""
    for split in splits:
        if row < len(split):
            break
        row -= len(split)
    return split[row]


def _is_same(first: Tensor, second: Tensor) -> bool:
    """Whether features are the same, up to rounding."""
    is_alike = first.shape == second.shape
    return is_alike and bool((first - second).norm() <= _MAX_DIFFERENCE * second.norm())


def require_images(dataset: Dataset) -> int:
    """The number of levels of the images of a data set.

    Raises:
        ValueError: If it holds points.
    """
    if dataset.num_levels is None:
        raise ValueError(f"Sample quality needs images: {dataset.name} holds points.")
    return dataset.num_levels


class DamagedCache(ValueError):
    """Features that are not as they were written, or that would not be written so now."""

    def __init__(self, folder: Path, what: str) -> None:
        super().__init__(f"The cached features {folder} {what}")
        self.folder = folder


def _content(statistics: Statistics, rows: Tensor, kernel: float) -> bytes:
    tensors = {
        "mean": statistics.mean,
        "covariance": statistics.covariance,
        "num": torch.tensor(statistics.num),
        "rows": rows,
        "kernel": torch.tensor(kernel, dtype=torch.float64),
    }
    return pack(tensors)


def _read(path: Path) -> tuple[Statistics, Tensor, float]:
    try:
        tensors = unpack(files.read(path))
    except (FileNotFoundError, ValueError) as error:
        raise DamagedCache(path.parent, "are damaged") from error
    statistics = Statistics(tensors["mean"], tensors["covariance"], int(tensors["num"]))
    return statistics, tensors["rows"], tensors["kernel"].item()
