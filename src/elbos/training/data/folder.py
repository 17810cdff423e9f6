"""Any folder of pictures, decoded once into a memory-mapped file.

A folder is read in three steps: list its files by split and class; decode them in that order into
the cache, unless the cache has them; map the file into memory, each split a slice of it.
"""

import hashlib
import itertools
import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torch import Tensor

from elbos import files
from elbos.progress import progress
from elbos.runs.cache import DamagedFolder, build_once
from elbos.training.data.dataset import Dataset, Split, digest_of
from elbos.training.data.decode import EXTENSIONS, BadPicture, decode

_FORMAT = "3"  # raise it when the decoded pixels change: old caches are then not used
_HELD_OUT = 0.05


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A folder of pictures, 3xSIZExSIZE, 256 pixel values.

    Classes are the sub-folders of the first level; pictures directly in the folder have none. With
    sub-folders `train`, `test` and perhaps `val`, those are the splits (and others are ignored).
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

    def __post_init__(self) -> None:
        # the run is sampled and evaluated from other places than it was trained from
        object.__setattr__(self, "root", files.expanded(self.root))

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
        if self.size < 1:
            raise ValueError(f"size is {self.size}: give at least one pixel")
        root = self.root
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}: give a folder of pictures")
        try:
            splits = _splits(root)
            decoded = _decoded(root, [p for split in splits for p in split], self.size)
        except PermissionError as error:
            if error.filename is None:
                raise
            raise PermissionError(
                f"{error.filename} may not be read: change its permissions (chmod -R u+rX {root})"
            ) from error
        levels, bad = decoded.levels, decoded.bad
        if bad:
            self._report(bad, num_files=sum(map(len, splits)))

        splits = [[p for p in split if p.name not in bad] for split in splits]
        for good, split_name in zip(splits, ("train", "val", "test"), strict=True):
            if not good:
                raise ValueError(f"{root} has no usable picture for {split_name}: add some")
        _require_training_pictures(splits)
        classes = sorted({p.label for p in splits[0] if p.label is not None})
        parts = []
        for good in splits:
            parts.append(Split(levels[: len(good)], _labels(good, classes)))
            levels = levels[len(good) :]
        train, val, test = parts
        class_names = tuple(classes) or None
        num_classes = len(classes) or None
        return Dataset(root.name, train, val, test, 256, num_classes, class_names, decoded.digest)

    def _report(self, bad: dict[str, str], num_files: int) -> None:
        some = ", ".join(f"{name!r} ({reason})" for name, reason in list(bad.items())[:3])
        more = ", ..." if len(bad) > 3 else ""
        found = f"{len(bad)} of {num_files} pictures in {self.root} cannot be used: {some}{more}"
        if not self.skip_bad:
            raise ValueError(f"{found}; repair or remove them, or pass --data.skip-bad")
        warnings.warn(f"{found}; they are left out", stacklevel=3)


# --- listing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Picture:
    path: Path
    name: str  # relative to the root, with slashes
    label: str | None


def _splits(root: Path) -> list[list[_Picture]]:
    """Train, validation and test pictures, each sorted by name."""
    folders = {folder.name for folder in _subfolders(root)}
    if not {"train", "test"} <= folders:
        if "train" in folders and folders <= {"train", "val"}:
            raise ValueError(f"{root} has train but no test: rename or add a sub-folder test")
        splits = _by_hash(_pictures(root, root), with_test=True)
        _require_training_pictures(splits)
        return splits

    train, test = _pictures(root / "train", root), _pictures(root / "test", root)
    if "val" in folders:
        val = _pictures(root / "val", root)
    else:
        train, val, _ = _by_hash(train, with_test=False)
    _require_training_pictures([train, val, test])
    return [train, val, test]


def _require_training_pictures(splits: list[list[_Picture]]) -> None:
    """Raise a ValueError if validation or testing has a class that training has not."""
    train, *held_out = splits
    trained = {p.label for p in train}
    for p in itertools.chain(*held_out):
        if p.label not in trained:
            raise ValueError(
                f"class {p.label!r} has no usable picture for training, only {p.path} and others "
                "for validation or testing: add some"
            )


def _pictures(folder: Path, root: Path) -> list[_Picture]:
    """The pictures of a folder with or without classes, sorted by name."""
    by_class = {sub.name: _walk(sub) for sub in _subfolders(folder)}
    direct = [path for path in _walk(folder) if path.parent == folder]
    if direct and any(by_class.values()):
        raise ValueError(
            f"{folder} has pictures both directly and in sub-folders: "
            "move them into sub-folders, one per class, or all into the folder itself"
        )
    if not direct and not any(by_class.values()):
        raise ValueError(
            f"there is no picture in {folder}: looked for files named {' '.join(EXTENSIONS)}"
        )
    if direct:
        return [_Picture(path, path.relative_to(root).as_posix(), None) for path in direct]
    for label, paths in by_class.items():
        if not paths:
            raise ValueError(
                f"there is no picture in {folder / label}: add some or remove the folder"
            )
    return [
        _Picture(path, path.relative_to(root).as_posix(), label)
        for label, paths in by_class.items()
        for path in paths
    ]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")


def _walk(folder: Path) -> list[Path]:
    """Every visible picture below a folder, sorted."""
    found = []
    for path in folder.iterdir():
        if path.name[0] == ".":
            continue
        if path.is_dir():
            found += _walk(path)
        elif path.name.lower().endswith(EXTENSIONS):
            found.append(path)
    return sorted(found)


def _by_hash(pictures: list[_Picture], with_test: bool) -> list[list[_Picture]]:
    """Low hashes of names for validation, high ones for testing, at least one picture each."""
    if len(pictures) < 2 + with_test:
        raise ValueError(
            f"only {len(pictures)} pictures for training, validation and testing: add some"
        )
    ranked = sorted(pictures, key=lambda p: _hash(p.name))
    num_val = max(1, sum(_hash(p.name) < _HELD_OUT for p in ranked))
    num_test = max(1, sum(_hash(p.name) >= 1 - _HELD_OUT for p in ranked)) if with_test else 0
    stop = len(ranked) - num_test
    return [
        sorted(part, key=lambda p: p.path)
        for part in (ranked[num_val:stop], ranked[:num_val], ranked[stop:])
    ]


def _hash(name: str) -> float:
    """A number in [0, 1), the same everywhere."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def _labels(pictures: list[_Picture], classes: list[str]) -> Int[Tensor, " n"] | None:
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[p.label] for p in pictures if p.label]) if classes else None


# --- decoding ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Decoded:
    levels: UInt8[Tensor, "n 3 s s"]  # of the good pictures, in order
    bad: dict[str, str]  # why the others are
    digest: str  # of the levels


def _decoded(root: Path, pictures: list[_Picture], size: int) -> _Decoded:
    """From the cache, or decoded now."""
    key = hashlib.sha256(f"{_FORMAT} {size} ".encode() + os.fsencode(root.resolve()) + b"\0")
    for picture in pictures:
        path = picture.path
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
        index = json.loads(files.read(folder / "index.json"))
        with (folder / "levels").open("rb") as file:
            levels = np.memmap(file, np.uint8, "r", shape=shape)
    except (ValueError, FileNotFoundError) as error:
        raise DamagedFolder(f"the cache {folder} is damaged") from error
    with warnings.catch_warnings():
        # A writable mapping would need as much memory as the data are long. Nobody writes.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        decoded = _Decoded(torch.from_numpy(levels)[: index["num"]], index["bad"], index["sha256"])
    if digest_of([decoded.levels]) != decoded.digest:
        raise DamagedFolder(f"the cache {folder} is damaged")
    return decoded


def _decode_all(root: Path, pictures: list[_Picture], size: int, folder: Path) -> None:
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
            for picture, row in zip(chunk, pool.map(partial(_try, size), chunk), strict=True):
                if isinstance(row, str):
                    bad[picture.name] = row
                else:
                    file.write(row.tobytes())
                    digest.update(row.tobytes())
                bar.advance(task)
        file.truncate(len(pictures) * 3 * size * size)
    index = {"num": len(pictures) - len(bad), "bad": bad, "sha256": digest.hexdigest()}
    files.write(folder / "index.json", json.dumps(index).encode())


def _try(size: int, picture: _Picture) -> UInt8[np.ndarray, "3 s s"] | str:
    try:
        return decode(picture.path, size)
    except BadPicture as error:
        return str(error)
