"""The pictures of a folder, by split and class: names alone, no file is opened.

A million names are a hundred megabytes; a million `Path`s would be a gigabyte.
"""

import csv
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappop, heappush
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from elbos.base import files
from elbos.training.data.decode import EXTENSIONS

SPLITS = ("train", "val", "test")
_HELD_OUT = 0.05
_VALIDATING = 0.1  # of the pictures of `val`, where there are no others to test with
_IMAGENET, _SOLUTION = "ILSVRC/Data/CLS-LOC", "LOC_val_solution.csv"


class Picture(NamedTuple):
    """A picture of a folder.

    Args:
        name: Its path, relative to the folder, with slashes.
        label: The name of its class, or None.
    """

    name: str
    label: str | None


def split_pictures(root: Path) -> list[list[Picture]]:
    """Train, validation and test pictures, each sorted by name.

    Sub-folders `train`, `test` and perhaps `val` are the splits. With `train` and `val` alone, as
    in ImageNet, `val` is for testing but for a tenth of it, which is for validation; its pictures
    may lie in the folder itself, with their classes in LOC_val_solution.csv. Without those, 5 % of
    all pictures are for validation and 5 % for testing. What is divided is so by a hash of names.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it cannot be divided.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {root}: give a folder of pictures")
    folders, prefix = set(_subfolders(root)), ""
    if (root / _IMAGENET / "val").is_dir():
        folders, prefix = {"train", "val"}, f"{_IMAGENET}/"
    if folders == {"train"}:
        raise ValueError(f"{root} has train but no test: rename or add a sub-folder test")
    groups = (
        {"": _pictures(root, "")}
        if not _has_splits(folders)
        else {name: _pictures(root, f"{prefix}{name}/") for name in SPLITS if name in folders}
    )
    if groups.keys() == {"train", "val"}:
        groups["val"] = _labelled(root, groups["train"], groups["val"])
    splits = divided(groups, str(root))
    require_training_pictures(root, splits)
    return splits


def _has_splits(folders: set[str]) -> bool:
    return {"train", "test"} <= folders or folders == {"train", "val"}


def divided(groups: Mapping[str, list[Picture]], where: str) -> list[list[Picture]]:
    """Train, validation and test pictures of what is there: all of them, some, or pictures without
    a split (""), by the rules of `split_pictures`.

    Args:
        groups: Pictures by the name of their split.
        where: What messages call their place.

    Raises:
        ValueError: If there are too few.
    """
    train, val, test = (groups.get(name, []) for name in SPLITS)
    if train and test and not val:
        train, val, _ = by_hash(train, with_test=False)
    elif train and val and not test:
        val, test = _halved(val, where)
    elif not (train and val and test):
        return by_hash([p for group in groups.values() for p in group], with_test=True)
    return [train, val, test]


def _halved(held: list[Picture], where: str) -> tuple[list[Picture], list[Picture]]:
    """A tenth of the pictures for validation, and the rest for testing."""
    if len(held) < 2:
        raise ValueError(
            f"{where} has {len(held)} picture in val and no test: add some to be divided for "
            "validation and testing, or a test"
        )
    ranked = sorted(held, key=lambda p: hashed(p.name))
    num_val = min(max(1, sum(hashed(p.name) < _VALIDATING for p in ranked)), len(ranked) - 1)
    return _sorted(ranked[:num_val]), _sorted(ranked[num_val:])


def _labelled(root: Path, train: list[Picture], val: list[Picture]) -> list[Picture]:
    """ImageNet's validation pictures, with their classes if they lie in one folder."""
    if train[0].label is None or val[0].label is not None:
        return val
    classes = _solution(root)
    found = [Picture(name, classes.get(Path(name).stem)) for name, _ in val]
    if missing := [picture.name for picture in found if picture.label is None]:
        raise ValueError(f"{root / _SOLUTION} has no class of {missing[0]}")
    return found


def _solution(root: Path) -> dict[str, str]:
    """The classes of ImageNet's validation pictures, by their names without ending."""
    places = [root, *(root.parents[2:3] if root.as_posix().endswith(_IMAGENET) else ())]
    file = next((path for at in places if (path := at / _SOLUTION).is_file()), None)
    if file is None:
        raise ValueError(
            f"the pictures of {root}'s val have no class: move them into sub-folders, one per "
            f"class, or put ImageNet's {_SOLUTION} into {root}"
        )
    rows = csv.reader(files.read(file).decode().splitlines()[1:])
    return {row[0]: row[1].split()[0] for row in rows if len(row) == 2 and row[1].strip()}


def require_training_pictures(root: Path, splits: Sequence[Sequence[Picture]]) -> None:
    """Raise a ValueError if a split is empty, or has a class that training has not."""
    train, *held_out = splits
    for good, split in zip(splits, SPLITS, strict=True):
        if not good:
            raise ValueError(f"{root} has no usable picture for {split}: add some")
    trained = {p.label for p in train}
    for p in itertools.chain(*held_out):
        if p.label not in trained:
            raise ValueError(
                f"class {p.label!r} has no usable picture for training, only {root / p.name} and "
                "others for validation or testing: add some"
            )


def _pictures(root: Path, prefix: str) -> list[Picture]:
    """The pictures of a folder with or without classes, sorted by name."""
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
    """In the order of their paths."""
    return sorted(pictures, key=lambda picture: picture.name.split("/"))


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.name[0] != ".")


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder; a link that leads nowhere is none."""
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


def _is_picture(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(EXTENSIONS)


def _subfolders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in _visible(folder) if _is_dir(entry))


def _by_class(folder: Path, prefix: str) -> dict[str, list[str]]:
    """The names of every visible picture below each sub-folder, `prefix` and its path in `folder`.

    Links are followed after all else, in order, to folders that were not there: each folder is
    visited once. One that leads to a folder that it is in is a loop.
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


def by_hash(pictures: list[Picture], with_test: bool) -> list[list[Picture]]:
    """Low hashes of names for validation, high ones for testing, at least one picture each."""
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
    """A number in [0, 1), the same everywhere."""
    return int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:6], "big") / 2**48


def class_names(pictures: Iterable[Picture]) -> tuple[str, ...] | None:
    """The names of the classes, sorted; None where there are none."""
    return tuple(sorted({p.label for p in pictures if p.label is not None})) or None


def class_labels(
    pictures: Sequence[Picture], classes: Sequence[str] | None
) -> Int64[Tensor, " n"] | None:
    """The number of each picture's class, or None where there are none."""
    if classes is None:
        return None
    numbers = {name: number for number, name in enumerate(classes)}
    return torch.tensor([numbers[p.label] for p in pictures if p.label is not None])


def bad_pictures(bad: dict[str, str], place: str, num: int, option: str, skip_bad: bool) -> str:
    """The line that names pictures which cannot be used.

    Args:
        bad: Why each cannot, by name.
        place: Where they are.
        num: The number of pictures, good and bad.
        option: What leaves them out.
        skip_bad: Whether it is given.

    Raises:
        ValueError: If they are not to be left out.
    """
    some = ", ".join(f"{name!r} ({reason})" for name, reason in list(bad.items())[:3])
    more = ", ..." if len(bad) > 3 else ""
    found = f"{len(bad)} of {num} pictures in {place} cannot be used: {some}{more}"
    if not skip_bad:
        raise ValueError(f"{found}; repair or remove them, or pass {option}")
    return f"{found}; they are left out"
