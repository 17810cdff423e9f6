"""Any folder of pictures, decoded once into a memory-mapped file.

A folder is read in three steps: list its files by split and class; decode them in that order into
the cache, unless the cache has them; map the file into memory, each split a slice of it.
"""

import hashlib
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from elbos.base import files
from elbos.base.cache import DamagedFolder, build_once
from elbos.base.checks import Typed
from elbos.base.progress import progress
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import Dataset, Split
from elbos.training.data.decode import BadPicture, decode
from elbos.training.data.listing import (
    Picture,
    bad_pictures,
    class_labels,
    class_names,
    require_training_pictures,
    split_pictures,
)
from elbos.training.data.pictures import FolderPictures
from elbos.training.data.source import InMemory, digest_of

_FORMAT = "3"  # raise it when the decoded pixels change: old caches are then not used


@dataclass(frozen=True, kw_only=True)
class Folder(Typed):
    """A folder of pictures, 3xSIZExSIZE, 256 pixel values.

    Classes are the sub-folders of the first level; pictures directly in the folder have none. With
    sub-folders `train`, `test` and perhaps `val`, those are the splits (and others are ignored).
    With `train` and `val` alone, as in ImageNet, `val` is for testing but for a tenth of it.
    Otherwise 5 % of the pictures are for validation and 5 % for testing, chosen by a hash of their
    relative name: adding pictures does not move the others, as long as each split has one.

    Pictures are bmp, gif, jpeg, png, ppm, pgm, tiff and webp, by the ending of their name; hidden
    and other files are ignored. Each is turned as its EXIF tag says, laid on white where it is
    transparent, resized to `size` at its short side and cropped at the centre.
    """

    root: Path
    """Folder of pictures; kept as an absolute path."""

    size: int = 32
    """Height and width after resizing and cropping, in pixels."""

    skip_bad: bool = False
    """Leave out files that cannot be decoded, with a warning, instead of stopping."""

    flip: bool = False
    """Mirror half of the training pictures left to right, another half in each epoch."""

    crop: int | None = None
    """Height and width of the part of a picture that a training sees, at another place in each
    epoch; validation and test see the centre. Default: all of it."""

    def __post_init__(self) -> None:
        # the run is sampled and evaluated from other places than it was trained from
        object.__setattr__(self, "root", files.expanded(self.root))

    def pictures(self) -> FolderPictures:
        """The pictures, encoded."""
        _require_size(self.size)
        return FolderPictures(self.root)

    def load(self) -> Dataset:
        """Load the dataset; the first time this decodes every picture.

        Decoded pixels are kept in `~/.cache/elbos` (or `$XDG_CACHE_HOME/elbos`), under a key made
        of the folder and of names, sizes and times of change: a changed file is noticed. They are
        checked against their digest, and decoded again if they are damaged.

        Raises:
            FileNotFoundError: If there is no such folder.
            PermissionError: If a file or folder may not be read.
            ValueError: If the folder cannot be split or has files that cannot be decoded.
        """
        _require_size(self.size)
        root = self.root
        try:
            splits = split_pictures(root)
            decoded = _decoded(root, [p for split in splits for p in split], self.size)
        except PermissionError as error:
            if error.filename is None:
                raise
            raise PermissionError(
                f"{error.filename} may not be read: change its permissions (chmod -R u+rX {root})"
            ) from error
        levels, bad = decoded.levels, decoded.bad
        if bad:
            num = sum(map(len, splits))
            line = bad_pictures(bad, str(root), num, "--data.skip-bad", self.skip_bad)
            warnings.warn(line, stacklevel=2)
        splits = [[p for p in split if p.name not in bad] for split in splits]
        require_training_pictures(root, splits)
        classes = class_names(splits[0])
        parts = []
        for good in splits:
            parts.append(Split(InMemory(levels[: len(good)]), class_labels(good, classes)))
            levels = levels[len(good) :]
        train, val, test = parts
        num_classes = None if classes is None else len(classes)
        digest = decoded.digest
        dataset = Dataset(root.name, train, val, test, 256, num_classes, classes, digest)
        return augmented(dataset, flip=self.flip, crop=self.crop)


def _require_size(size: int) -> None:
    if size < 1:
        raise ValueError(f"size is {size}: give at least one pixel")


# --- decoding ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decoded:
    levels: UInt8[Tensor, "n 3 s s"]  # of the good pictures, in order
    bad: dict[str, str]  # why the others are
    digest: str  # of the levels


def _decoded(root: Path, pictures: list[Picture], size: int) -> _Decoded:
    """From the cache, or decoded now."""
    key = hashlib.sha256(f"{_FORMAT} {size} ".encode() + os.fsencode(root.resolve()) + b"\0")
    for picture in pictures:
        path = root / picture.name
        stat = path.stat() if path.exists() else path.lstat()  # a broken link
        # the time of any change, too, which no program sets
        times = f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
        key.update(os.fsencode(picture.name) + f"\0{stat.st_size} {times}\0".encode())
    return build_once(
        f"folder-{key.hexdigest()[:20]}",
        build=partial(_decode_all, root, pictures, size),
        read=partial(_read, (len(pictures), 3, size, size)),
    )


def _read(shape: tuple[int, ...], folder: Path) -> _Decoded:
    """The pixels that `_decode_all` wrote.

    Raises:
        DamagedFolder: If a file is missing, cut short or changed.
    """
    try:
        index = files.read_json(folder / "index.json")
        with files.regular(folder / "levels").open("rb") as file:
            levels = np.memmap(file, np.uint8, "r", shape=shape)
    except (ValueError, OSError) as error:
        raise DamagedFolder(f"the cache {folder} is damaged") from error
    with warnings.catch_warnings():
        # A writable mapping would need as much memory as the data are long. Nobody writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        decoded = _Decoded(torch.from_numpy(levels)[: index["num"]], index["bad"], index["sha256"])
    if digest_of([decoded.levels]) != decoded.digest:
        raise DamagedFolder(f"the cache {folder} is damaged")
    return decoded


def _decode_all(root: Path, pictures: list[Picture], size: int, folder: Path) -> None:
    """Fill `folder` with `levels` and `index.json`, which has their digest.

    The good rows come first, without gaps; as many rows as there are bad pictures follow, unused.
    """
    bad, digest = {}, hashlib.sha256()
    with (
        (folder / "levels").open("wb") as file,
        progress() as bar,
        ThreadPoolExecutor(os.cpu_count()) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        task = bar.add_task(f"decoding {root.name}", total=len(pictures), unit="pictures", note="")
        for start in range(0, len(pictures), 256):
            chunk = pictures[start : start + 256]
            for picture, row in zip(chunk, pool.map(partial(_try, root, size), chunk), strict=True):
                if isinstance(row, str):
                    bad[picture.name] = row
                else:
                    file.write(row.tobytes())
                    digest.update(row.tobytes())
                bar.advance(task)
        file.truncate(len(pictures) * 3 * size * size)
    index = {"num": len(pictures) - len(bad), "bad": bad, "sha256": digest.hexdigest()}
    files.write(folder / "index.json", json.dumps(index).encode())


def _try(root: Path, size: int, picture: Picture) -> UInt8[np.ndarray, "3 s s"] | str:
    try:
        return decode(root / picture.name, size)
    except BadPicture as error:
        return str(error)
