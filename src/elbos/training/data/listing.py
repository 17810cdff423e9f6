"""Names of the images of a folder, by split and class; no file is opened.

A million names are a hundred megabytes; a million `Path`s would be a gigabyte.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple

from elbos.base import files
from elbos.training.data.dataset import SPLITS
from elbos.training.data.images import EXTENSIONS

SPLIT_WORDS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
"""Names of splits in tars and datasets."""

_HELD_OUT = 0.05
_VALIDATION_SHARE = 0.1  # of the images in `val` if there is no `test`


class Picture(NamedTuple):
    """Path and class of an image in a folder.

    Args:
        name: Path relative to the folder, with slashes.
        label: Name of the class, or None.
    """

    name: str
    label: str | None


def split_pictures(root: Path) -> list[list[Picture]]:
    """List the training, validation and test images of a folder, each sorted by name.

    Sub-folders `train`, `test` and perhaps `val` are the splits. With `train` and `val` alone, as
    in ImageNet, a tenth of `val` is for validation and the rest for testing. Without these
    sub-folders, 5 % of all images are for validation and 5 % for testing. Images are divided by a
    hash of their names.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the images cannot be divided.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: give a folder of pictures")
    folders = set(_subfolders(root))
    if folders == {"train"}:
        raise ValueError(f"{root} has train but no test: rename or add a sub-folder test")
    has_splits = {"train", "test"} <= folders or folders == {"train", "val"}
    return divided(
        {name: _pictures(root, f"{name}/") for name in SPLITS if name in folders}
        if has_splits
        else {"": _pictures(root, "")},
        str(root),
    )


def divided(groups: Mapping[str, list[Picture]], where: str) -> list[list[Picture]]:
    """Divide images into training, validation and test images by the rules of `split_pictures`.

    Args:
        groups: Images by the name of their split; "" for images without a split.
        where: Location of the images, for messages.

    Raises:
        ValueError: If there are too few images.
    """
    train, val, test = (groups.get(name, []) for name in SPLITS)
    if train and test and not val:
        train, val, _ = by_hash(train, with_test=False)
    elif train and val and not test:
        if len(val) < 2:
            raise ValueError(
                f"{where} has {len(val)} picture in val and no test: add more, to be divided for "
                "validation and testing, or a test"
            )
        ranked = sorted(val, key=lambda p: hashed(p.name))
        num_val = sum(hashed(p.name) < _VALIDATION_SHARE for p in ranked)
        num_val = min(max(1, num_val), len(ranked) - 1)
        val, test = _sorted(ranked[:num_val]), _sorted(ranked[num_val:])
    elif not (train and val and test):
        return by_hash([p for group in groups.values() for p in group], with_test=True)
    return [train, val, test]


def by_hash(pictures: list[Picture], with_test: bool) -> list[list[Picture]]:
    """Split images by a hash of their names: low values for validation, high values for testing.

    Validation and, if `with_test`, test have at least one image each; else test is empty. Raise a
    ValueError for too few images.
    """
    if len(pictures) < 2 + with_test:
        raise ValueError(
            f"only {len(pictures)} pictures for training, validation and testing: add some"
        )
    ranked = sorted(pictures, key=lambda p: hashed(p.name))
    num_val = max(1, sum(hashed(p.name) < _HELD_OUT for p in ranked))
    num_test = max(1, sum(hashed(p.name) >= 1 - _HELD_OUT for p in ranked)) if with_test else 0
    stop = len(ranked) - num_test
    return [_sorted(part) for part in (ranked[num_val:stop], ranked[:num_val], ranked[stop:])]


def hashed(name: str) -> float:
    """Hash a name to a number in [0, 1), equal on every machine."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def _pictures(root: Path, prefix: str) -> list[Picture]:
    """List the images of a folder, sorted by name, with sub-folders as classes if present."""
    folder = root / prefix
    by_class = _by_class(folder, prefix)
    direct = [
        prefix + entry.name
        for entry in _visible(folder)
        if _is_picture(entry) and not _is_dir(entry)
    ]
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
        return _sorted(Picture(name, None) for name in direct)
    for label, names in by_class.items():
        if not names:
            raise ValueError(
                f"there is no picture in {folder / label}: add some or remove the folder"
            )
    return _sorted(Picture(name, label) for label, names in by_class.items() for name in names)


def _sorted(pictures: Iterable[Picture]) -> list[Picture]:
    return sorted(pictures, key=lambda picture: picture.name.split("/"))


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.name[0] != ".")


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Return whether a directory entry is a folder, or a link to an existing folder."""
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(EXTENSIONS)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _visible(folder) if _is_dir(entry))


def _by_class(folder: Path, prefix: str) -> dict[str, list[str]]:
    """List the paths of images below each sub-folder, keyed by sub-folder, prefixed by `prefix`.

    Each folder is visited once. Links are followed last, in order, except links to a parent folder.
    """
    found: dict[str, list[str]] = {sub: [] for sub in _subfolders(folder)}
    visited = {files.identity(folder / sub) for sub in found}
    waiting, links = [(sub, sub) for sub in found], list[tuple[str, str]]()
    while waiting or links:
        label, name = waiting.pop() if waiting else heappop(links)
        place = folder / name
        if place.is_symlink() and place.parent.resolve().is_relative_to(place.resolve()):
            continue
        if name != label and files.identity(place) in visited:
            continue
        visited.add(files.identity(place))
        for entry in _visible(place):
            if _is_dir(entry) and entry.is_symlink():
                heappush(links, (label, f"{name}/{entry.name}"))
            elif _is_dir(entry):
                waiting.append((label, f"{name}/{entry.name}"))
            elif _is_picture(entry):
                found[label].append(f"{prefix}{name}/{entry.name}")
    return found
