"""Reference features: the features of real images, with which the features of samples are compared.

They are computed once, in parts, and stored in the user's cache, in a folder that is named by a
digest of the data, the split and the extractor. An interrupted extraction resumes.
"""

import contextlib
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float32, Int64
from torch import Tensor

from elbos.base import files
from elbos.base.cache import cache_dir
from elbos.base.codec import digest
from elbos.base.processes import ALONE, Processes
from elbos.base.progress import Start, silent
from elbos.base.store import Part, Store, Tensors
from elbos.evaluation.estimators import Statistics, mean_kernel
from elbos.evaluation.features import Extractor, extract
from elbos.training.data.dataset import Dataset

_FORMAT = 3  # version of the cached files
_MAX_ROWS = 60_000
_PART_SIZE = 500  # images: seconds of work
_NUM_CHECKED = 8
_MAX_DIFFERENCE = 0.02  # relative; batches of other sizes cause differences of 1e-6


@dataclass(frozen=True)
class Reference:
    """Features of the real images in a dataset split.

    Attributes:
        statistics: Mean and covariance over all images of the split.
        rows: Features of up to 60,000 images, in a fixed random order.
        kernel: `mean_kernel(rows)`, the term of the kernel distance without samples.
    """

    statistics: Statistics
    rows: Float32[Tensor, "m d"]
    kernel: float


def reference(
    dataset: Dataset,
    split_name: str,
    extractor: Extractor,
    start: Start = silent,
    processes: Processes = ALONE,
) -> Reference:
    """Return the features of the real images in a dataset split.

    `split_name` is "train", "val", "test", or several, as "train+val". All `processes` that share
    the work make this call.

    Raises:
        OSError: If the cache cannot be written.
        ValueError: If the extractor computes other features than are stored.
    """
    num_levels = dataset.num_levels
    assert num_levels is not None
    splits = [getattr(dataset, name).x for name in split_name.split("+")]
    num = sum(map(len, splits))
    identity = [_FORMAT, dataset.fingerprint(), num_levels, split_name, extractor.name]
    store = Store(cache_dir() / f"features/{digest(identity)[:16]}", processes)

    def features(x: Tensor, rows: Int64[Tensor, " b"]) -> Tensors:
        return {"pooled": extract(extractor, x[rows], num_levels=num_levels).pooled}

    batches = [(x, rows) for x in splits for rows in torch.split(torch.arange(len(x)), _PART_SIZE)]
    parts = [
        Part(f"{i:05d}", len(rows), partial(features, x, rows))
        for i, (x, rows) in enumerate(batches)
    ]
    store.folder.mkdir(parents=True, exist_ok=True)
    # One of several commands computes, and the others read; processes of one command share.
    lock = files.lock(store.folder / ".lock") if processes.is_main else contextlib.nullcontext()
    with lock:
        advance = start(f"features of {split_name} images", num, "images")
        pooled = store.concatenated(parts, advance)["pooled"]
        some = torch.randperm(num, generator=torch.Generator().manual_seed(0))[:_MAX_ROWS]
        rows = pooled[some]

        def summary() -> Tensors:
            statistics = Statistics.from_features(pooled)
            kernel = torch.tensor([mean_kernel(rows)], dtype=torch.float64)
            return {"mean": statistics.mean, "covariance": statistics.covariance, "kernel": kernel}

        stored = store.concatenated([Part("summary", 1, summary)], silent("", 1, ""))
    # A user-defined function may change while its name does not: look at a few features again.
    now = features(splits[0], torch.arange(min(len(splits[0]), _NUM_CHECKED)))["pooled"]
    then = pooled[: len(now)]
    if now.shape != then.shape or (now - then).norm() > _MAX_DIFFERENCE * then.norm():
        raise ValueError(
            f"{extractor.name} does not compute the features that {store.folder} holds: delete "
            "that folder, and make the extractor deterministic."
        )
    statistics = Statistics(stored["mean"], stored["covariance"], num)
    return Reference(statistics, rows, stored["kernel"].item())
