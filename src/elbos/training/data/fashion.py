"""Fashion-MNIST: 70,000 grey images of clothes, 28x28 pixels with 256 values, in ten classes.

Xiao, Rasul and Vollgraf (2017), https://arxiv.org/abs/1708.07747
"""

import gzip
import hashlib
import urllib.request
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from elbos.base import files
from elbos.base.cache import build_once, cache_dir
from elbos.base.checks import Typed
from elbos.training.data.dataset import Dataset, Split, require_download

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Folder of the files of Debian's package dataset-fashion-mnist."""

_NUM_VAL = 2_000
_CLASS_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com"
_MD5 = {
    "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
}


@dataclass(frozen=True, kw_only=True)
class Fashion(Typed):
    """The dataset Fashion-MNIST: images of shape 1x28x28, 256 pixel values, 10 classes.

    Train: the first 58,000 of the 60,000 training images. Validation: the last 2,000. Test: the
    10,000 test images.
    """

    root: Path | None = None
    """Folder with the four idx or idx.gz files. Default: Debian's package, else a download."""

    def load(self) -> Dataset:
        """Load the dataset Fashion-MNIST, of which the first call may download 30 MB."""
        folder = DEBIAN
        if self.root is not None:
            raw = self.root / "FashionMNIST" / "raw"  # torchvision's
            folder = raw if raw.is_dir() else self.root
        elif not DEBIAN.is_dir():
            folder = build_once(cache_dir() / "fashion-mnist", _download, Path)
        splits = []
        for prefix, parts in (
            ("train", (slice(-_NUM_VAL), slice(-_NUM_VAL, None))),
            ("t10k", (slice(None),)),
        ):
            x = _read_idx(folder, f"{prefix}-images-idx3-ubyte", num_dims=3).unsqueeze(1)
            labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", num_dims=1).long()
            if len(x) != len(labels):
                raise ValueError(f"{folder} has {len(x)} {prefix} images and {len(labels)} labels")
            splits += [Split(x[rows], labels[rows], 256) for rows in parts]
        train, val, test = splits
        return Dataset("fashion", train, val, test, len(_CLASS_NAMES), _CLASS_NAMES)


def _download(folder: Path) -> None:
    require_download("Fashion-MNIST", "data:fashion")
    for name, digest in _MD5.items():
        try:
            with urllib.request.urlopen(f"{_URL}/{name}", timeout=60) as answer:  # noqa: S310, http
                content = answer.read()
        except (OSError, HTTPException) as error:
            raise FileNotFoundError(
                "Fashion-MNIST is not on this machine and cannot be downloaded: connect to the "
                "network and run again, or apt install dataset-fashion-mnist, or pass --data.root "
                "FOLDER with the four idx files"
            ) from error
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            raise ValueError(f"{_URL}/{name} was cut short or changed: run again")
        files.write(folder / name, content)


def _read_idx(folder: Path, name: str, num_dims: int) -> UInt8[Tensor, "..."]:
    # format: magic number 0x08NN of NN dimensions, 32-bit big-endian sizes, uint8 values
    path = next((path for path in folder.glob(f"{name}*") if path.suffix in ("", ".gz")), None)
    if path is None:
        raise FileNotFoundError(f"there is no {name} or {name}.gz in {folder}: put it there")
    try:
        content = files.read(path)
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        magic, *shape = np.frombuffer(content, ">u4", count=1 + num_dims).tolist()
        values = np.frombuffer(content, np.uint8, offset=4 * (1 + num_dims))
        if magic != 0x0800 + num_dims:
            raise ValueError(f"its magic number is {magic}")  # noqa: TRY301
        return torch.from_numpy(values.reshape(shape).copy())
    except (gzip.BadGzipFile, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is cut short or corrupt ({error}): get it again") from error
