"""Image folders as datasets: the images are decoded into the cache once, and read from there."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from heapq import heappop, heappush
from itertools import chain
from pathlib import Path

import numpy as np
import torch

from elbos.base import files
from elbos.base.cache import DamagedFolder, build_once
from elbos.base.formats import read_object
from elbos.base.progress import progress
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import SPLITS, Dataset, digest_of
from elbos.training.data.images import EXTENSIONS, Archive, Pictures
from elbos.training.data.pack import PackWriter, bad_images, finish_images, write_images
from elbos.training.data.shards import load_shards, verify
from elbos.training.data.splits import by_path, divided

_NUM_AT_ONCE = 1024  # images in memory
_FORMAT = "4"  # increment when decoded pixels change, so that old caches are not used


@dataclass(frozen=True, kw_only=True)
class Folder(Pictures):
    """Images in a folder, decoded to 8-bit RGB of size x size pixels.

    Classes are the sub-folders of the first level; pictures directly in the folder have none. With
    sub-folders `train`, `test` and perhaps `val`, those are the splits (and others are ignored).
    With `train` and `val` alone, a tenth of `val` is for validation and the rest for testing.
    Otherwise 5 % of the pictures are for validation and 5 % for testing, chosen by a hash of their
    relative name: adding pictures does not move the others, as long as each split has one.

    Pictures are bmp, gif, jpeg, png, ppm, pgm, tiff and webp, by the ending of their name; hidden
    and other files are ignored. Each is rotated as its EXIF tag says, laid on white where it is
    transparent, resized to `size` at its short side and cropped at the centre.
    """

    root: Path
    """Folder of pictures with sub-folders train and test; else 5 % of the pictures are for testing.
    Stored as an absolute path."""

    size: int = 32
    """Height and width after resizing and cropping, in pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # absolute: the run may be sampled and evaluated from other folders
        object.__setattr__(self, "root", files.expanded(self.root))

    def archive(self) -> "FolderArchive":
        return FolderArchive.listed(self.root)

    def load(self) -> Dataset:
        """Return the dataset of the images in a folder.

        The first call decodes all images into a cache. The pictures are packed in `~/.cache/elbos`
        (or `$XDG_CACHE_HOME/elbos`), under a digest of the folder and of names, sizes and
        modification times, so that changed files are detected. Packed pictures are compared with
        their digest, and packed again if they are corrupt.

        Raises:
            OSError: If there is no such folder, or a file may not be read.
            ValueError: If the folder cannot be divided or has files that cannot be decoded.
        """
        archive = self.archive()
        key = hashlib.sha256(f"{_FORMAT} {self.size} {archive.fingerprint()}".encode()).hexdigest()
        build = partial(_build, archive, self.size)
        dataset, bad = build_once(f"folder-{key[:20]}", build, _read)
        archive.require_good(bad, "--data.skip-bad", self.skip_bad)
        return augmented(dataset, flip=self.flip, crop=self.crop)


def _build(archive: "FolderArchive", size: int, folder: Path) -> None:
    writer = PackWriter(folder, {"pictures": archive.place, "size": str(size)})
    with writer.claimed(), progress() as bar:
        what = f"decoding {archive.name}"
        task = bar.add_task(what, total=len(archive.names), unit="pictures", note="")
        records = write_images(writer, archive, size, partial(bar.advance, task), skip_bad=True)
        index = finish_images(writer, archive, size, records)
    splits = load_shards(folder, index).splits
    levels = digest_of(x for split in splits for x in split.x.split(_NUM_AT_ONCE))
    content = {"bad": bad_images(records), "sha256": levels}
    files.write(folder / "folder.json", json.dumps(content).encode())


def _read(folder: Path) -> tuple[Dataset, dict[str, str]]:
    try:
        dataset = load_shards(folder, verify(folder))
        content = read_object(folder / "folder.json")
    except (OSError, ValueError) as error:
        raise DamagedFolder(f"the cache {folder} is corrupt") from error
    return replace(dataset, known_digest=content["sha256"]), content["bad"]


@dataclass(frozen=True, kw_only=True)
class FolderArchive(Archive):
    """Image files in a folder, named by their relative paths.

    Paths are relative to `root`, with slashes.
    """

    root: Path
    names: tuple[str, ...]  # a million `Path`s would take a gigabyte

    @classmethod
    def listed(cls, root: Path) -> "FolderArchive":
        if not root.is_dir():
            raise FileNotFoundError(f"there is no folder {root}: give a folder of pictures")
        folders = {entry.name for entry in _visible(root) if _is_dir(entry)}
        if folders == {"train"}:
            raise ValueError(f"{root} has train but no test: rename or add a sub-folder test")
        has_splits = {"train", "test"} <= folders or folders == {"train", "val"}
        prefixes = {name: f"{name}/" for name in SPLITS if name in folders} if has_splits else {}
        groups = {name: _images(root, prefix) for name, prefix in (prefixes or {"": ""}).items()}
        splits = divided(groups, str(root))

        names = tuple(chain(*splits))
        level = int(has_splits)  # of the classes
        paths = (name.split("/") for name in names)
        labels = [path[level] if len(path) > level + 1 else None for path in paths]
        classes = tuple(sorted({label for label in labels if label is not None})) or None
        numbers = {label: number for number, label in enumerate(classes or ())}
        ends = np.cumsum([0, *map(len, splits)])
        train, val, test = (np.arange(*ends[i : i + 2]) for i in range(3))
        archive = cls(
            name=root.name,
            place=str(root),
            splits=(train, val, test),
            labels=torch.tensor([numbers.get(str(label), -1) for label in labels])
            if classes
            else None,
            class_names=classes,
            root=root,
            names=names,
        )
        archive.require_usable(archive.splits)
        return archive

    def content(self, number: int) -> Path:
        return self.root / self.names[number]

    def describe(self, number: int) -> str:
        return self.names[number]

    def identity(self, size: int) -> dict[str, str]:
        del size
        return {}  # identified by its path; changes are noticed by the times of files

    def state(self, number: int) -> list[int]:
        try:
            found = self.content(number).stat()
        except OSError:
            return []  # decoding raises the error
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]  # programs cannot set ctime

    def fingerprint(self) -> str:
        key = hashlib.sha256(os.fsencode(self.root.resolve()) + b"\0")
        for number, name in enumerate(self.names):
            key.update(os.fsencode(name) + f"\0{self.state(number)}\0".encode())
        return key.hexdigest()


def _images(root: Path, prefix: str) -> list[str]:
    # each folder is visited once; links are followed last, in order, except links to a parent
    # folder
    folder = root / prefix
    direct = [prefix + entry.name for entry in _visible(folder) if _is_image(entry)]
    by_class: dict[str, list[str]] = {
        name: [] for name in sorted(entry.name for entry in _visible(folder) if _is_dir(entry))
    }
    visited = {files.identity(folder / name) for name in by_class}
    waiting, links = [(name, name) for name in by_class], list[tuple[str, str]]()
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
            elif _is_image(entry):
                by_class[label].append(f"{prefix}{name}/{entry.name}")

    if direct and any(by_class.values()):
        raise ValueError(
            f"{folder} has pictures both directly and in sub-folders: "
            "move them into sub-folders, one per class, or all into the folder itself"
        )
    if not direct and not any(by_class.values()):
        raise ValueError(
            f"there is no picture in {folder}: looked for files named {' '.join(EXTENSIONS)}"
        )
    for label, names in by_class.items():
        if not names and not direct:
            raise ValueError(
                f"there is no picture in {folder / label}: add some or remove the folder"
            )
    return by_path([*direct, *chain(*by_class.values())])


def _visible(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if entry.name[0] != ".")


def _is_dir(entry: os.DirEntry[str]) -> bool:
    return Path(entry).is_dir() if entry.is_symlink() else entry.is_dir()


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(EXTENSIONS) and not _is_dir(entry)
