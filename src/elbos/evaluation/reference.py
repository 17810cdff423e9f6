"""Reference features: the features of real images, with which the features of samples are compared.

The features are computed once and stored in the user's cache, under a digest of the data, the split
and the extractor. An interrupted extraction resumes; a damaged cache is replaced.
"""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.utils.data import ConcatDataset

from elbos.base import files
from elbos.base.cache import build_once, cache_dir, cached
from elbos.base.codec import digest
from elbos.base.formats import CorruptFile, pack, unpack
from elbos.base.processes import ALONE, Processes
from elbos.base.progress import Start, silent
from elbos.base.store import Part, Store, Tensors
from elbos.evaluation.estimators import Statistics, mean_kernel
from elbos.evaluation.features import Extractor, extract
from elbos.training.data import Dataset, Source

_FILE = "reference.safetensors"
_FORMAT = 2  # version of the cached files
_MAX_ROWS = 60_000
_PART_SIZE = 500  # images: seconds of work
_SEED = 0  # seed of the choice of rows
_NUM_CHECKED = 8
_MAX_DIFFERENCE = 0.02  # relative; batches of other sizes cause differences of 1e-6


@dataclass(frozen=True)
class Reference:
    """Features of the real images in a dataset split.

    Attributes:
        statistics: Mean and covariance over all images of the split.
        rows: Features of up to 60,000 images, in a fixed random order.
        kernel: `mean_kernel(rows)`, the term of the kernel distance without samples.
        split: Name of the split.
    """

    statistics: Statistics
    rows: Float32[Tensor, "m d"]
    kernel: float
    split: str


def reference(
    dataset: Dataset,
    split_name: str,
    extractor: Extractor,
    start: Start = silent,
    processes: Processes = ALONE,
) -> Reference:
    """Return the features of the real images in a dataset split.

    A few features are always computed and compared with the cache, because a user-defined function
    may change while its name does not.

    `split_name` is "train", "val", "test", or several, as "train+val". All `processes` that share
    the work make this call. `start` is not called if the features are cached.

    Raises:
        OSError: If the cache cannot be written.
        ValueError: If the split has fewer than 2 images, or the extractor
            does not compute the same features twice.
    """
    num_levels = dataset.num_levels
    assert num_levels is not None
    splits = [getattr(dataset, name).x for name in split_name.split("+")]
    num = sum(map(len, splits))
    some = torch.randperm(num, generator=torch.Generator().manual_seed(_SEED))[:_MAX_ROWS]
    identity = [_FORMAT, dataset.fingerprint(), num_levels, split_name, extractor.name]
    path = cache_dir() / f"features/{digest(identity)[:16]}"
    is_shared = processes.num > 1

    def features(x: Source | Tensor, rows: Int64[Tensor, " b"] | slice) -> Tensors:
        extracted = extract(extractor, x[rows], num_levels=num_levels)
        return {"pooled": extracted.pooled}

    def pooled(parts_of: Store, start: Start) -> Tensor:
        batches = [
            (x, rows) for x in splits for rows in torch.split(torch.arange(len(x)), _PART_SIZE)
        ]
        parts = (
            Part(f"{i:05d}", len(rows), partial(features, x, rows))
            for i, (x, rows) in enumerate(batches)
        )
        advance = start(f"features of {split_name} images", num, "images")
        return parts_of.concatenated(parts, advance)["pooled"]

    def build(folder: Path) -> None:
        parts_of = Store(path.with_name(f"{path.name}.parts"))
        features_of_all = pooled(
            parts_of, silent if is_shared else start
        )  # shared parts are stored
        statistics, rows = Statistics.from_features(features_of_all), features_of_all[some]
        tensors = {
            "mean": statistics.mean,
            "covariance": statistics.covariance,
            "num": torch.tensor(statistics.num),
            "rows": rows,
            "kernel": torch.tensor(mean_kernel(rows), dtype=torch.float64),
        }
        files.write(folder / _FILE, pack(tensors))
        shutil.rmtree(parts_of.folder)

    def read(folder: Path) -> Reference:
        try:
            tensors = unpack(files.read(folder / _FILE), folder / _FILE)
            statistics = Statistics(tensors["mean"], tensors["covariance"], int(tensors["num"]))
            rows, kernel = tensors["rows"], tensors["kernel"].item()
        except (FileNotFoundError, ValueError, KeyError) as error:
            raise CorruptFile(f"{folder} is damaged") from error
        every: ConcatDataset[Tensor] = ConcatDataset(splits)
        images = torch.stack([every[i] for i in some[:_NUM_CHECKED].tolist()])
        now, then = features(images, slice(None))["pooled"], rows[: len(images)]
        is_close = now.shape == then.shape and (now - then).norm() <= _MAX_DIFFERENCE * then.norm()
        if not is_close:
            raise CorruptFile(f"{folder} holds other features than {extractor.name} computes now")
        return Reference(statistics, rows, kernel, split_name)

    try:
        if is_shared:
            is_kept = processes.is_main and cached(path, read) is not None
            if not processes.from_main(is_kept):
                pooled(Store(path.with_name(f"{path.name}.parts"), processes), start)
                processes.together(
                    lambda: build_once(path, build, read) if processes.is_main else None
                )
        return build_once(path, build, read)
    except CorruptFile as error:  # a freshly built folder differs, too
        raise ValueError(
            f"{extractor.name} does not compute the same features twice: make it deterministic."
        ) from error
