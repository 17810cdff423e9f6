"""Folders of images: packed into the cache once, then mapped into memory."""

import hashlib
import json
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from elbos.base import files
from elbos.base.cache import DamagedFolder, build_once
from elbos.base.checks import Typed
from elbos.base.formats import read_object
from elbos.base.progress import progress
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import Dataset
from elbos.training.data.images import Archive
from elbos.training.data.listing import split_pictures
from elbos.training.data.making import Making
from elbos.training.data.pack import bad_images, finish, make_parts
from elbos.training.data.shards import load_shards, verify
from elbos.training.data.source import digest_of

_NUM_AT_ONCE = 1024  # images in memory
_FORMAT = "4"  # increment when decoded pixels change, so that old caches are not used


@dataclass(frozen=True, kw_only=True)
class FolderArchive(Archive):
    """Archive of the image files in a folder.

    Attributes:
        root: The folder.
        names: Path of each image relative to the folder, with slashes.
    """

    root: Path
    names: tuple[str, ...]

    @classmethod
    def listed(cls, root: Path) -> "FolderArchive":
        """List the images of a folder and divide them into splits, as `split_pictures` does.

        Raises:
            FileNotFoundError: If there is no such folder.
            ValueError: If the images cannot be divided into splits.
        """
        groups = split_pictures(root)
        pictures = [picture for group in groups for picture in group]
        classes = tuple(sorted({p.label for p in pictures if p.label is not None})) or None
        ends = np.cumsum([0, *map(len, groups)])
        train, val, test = (np.arange(*ends[i : i + 2]) for i in range(3))
        numbers = {label: number for number, label in enumerate(classes or ())}
        labels = [numbers.get(str(picture.label), -1) for picture in pictures]
        archive = cls(
            name=root.name,
            place=str(root),
            splits=(train, val, test),
            labels=None if classes is None else torch.tensor(labels),
            num_classes=None if classes is None else len(classes),
            class_names=classes,
            root=root,
            names=tuple(picture.name for picture in pictures),
        )
        archive.require_usable(archive.splits)
        return archive

    def content(self, number: int) -> Path:
        """Return the path of an image file."""
        return self.root / self.names[number]

    def describe(self, number: int) -> str:
        """Return the path of an image relative to the folder."""
        return self.names[number]

    def identity(self, size: int) -> dict[str, str]:
        """Return an empty dict: the folder is identified by its path, changes by file times."""
        del size
        return {}

    def state(self, number: int) -> list[int]:
        """Return size and modification times of an image file; an empty list if unreadable."""
        try:
            found = self.content(number).stat()
        except OSError:
            return []  # decoding raises the error
        return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]  # programs cannot set ctime

    def fingerprint(self) -> str:
        """Return a digest of names, sizes and modification times of all images."""
        key = hashlib.sha256(os.fsencode(self.root.resolve()) + b"\0")
        for number, name in enumerate(self.names):
            key.update(os.fsencode(name) + f"\0{self.state(number)}\0".encode())
        return key.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Folder(Typed):
    """Folder of pictures, 3xSIZExSIZE, 256 pixel values.

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
    """Folder of pictures; stored as an absolute path."""

    size: int = 32
    """Height and width after resizing and cropping, in pixels."""

    skip_bad: bool = False
    """Leave out files that cannot be decoded, with a warning, instead of stopping."""

    flip: bool = False
    """Mirror half of the training pictures left to right, another half in each epoch."""

    crop: int | None = None
    """Height and width of the part of a picture that is trained on, at another place in each epoch;
    validation and test use the centre. Default: the entire picture."""

    def __post_init__(self) -> None:
        # absolute: the run may be sampled and evaluated from other folders
        object.__setattr__(self, "root", files.expanded(self.root))

    def archive(self) -> FolderArchive:
        """List the encoded pictures of the folder."""
        if self.size < 1:
            raise ValueError(f"size is {self.size}: give at least one pixel")
        return FolderArchive.listed(self.root)

    def load(self) -> Dataset:
        """Load the dataset from the cache; the first call decodes every picture.

        The pictures are packed in `~/.cache/elbos` (or `$XDG_CACHE_HOME/elbos`), under a digest of
        the folder and of names, sizes and modification times, so that changed files are detected.
        Packed pictures are compared with their digest, and packed again if they are corrupt.

        Raises:
            FileNotFoundError: If there is no such folder.
            PermissionError: If permission to read a file or folder is missing.
            ValueError: If the folder cannot be divided or has files that cannot be decoded.
        """
        try:
            archive = self.archive()
            key = hashlib.sha256(f"{_FORMAT} {self.size} {archive.fingerprint()}".encode())
            dataset, bad = build_once(
                f"folder-{key.hexdigest()[:20]}", partial(_build, archive, self.size), _read
            )
        except PermissionError as error:
            if error.filename is None:
                raise
            raise PermissionError(
                f"{error.filename} may not be read: change its permissions (chmod -R u+rX "
                f"{self.root})"
            ) from error
        archive.require_good(bad, "--data.skip-bad", self.skip_bad)
        return augmented(dataset, flip=self.flip, crop=self.crop)


def _build(archive: FolderArchive, size: int, folder: Path) -> None:
    """Pack the decodable images of a folder; write errors of bad images to `folder.json`."""
    making = Making(folder, {"pictures": archive.place, "size": str(size)})
    with making.claimed(), progress() as bar:
        num = len(archive.names)
        task = bar.add_task(f"decoding {archive.name}", total=num, unit="pictures", note="")

        def advance(num: int, _: bool = False, /) -> None:
            bar.advance(task, num)

        parts = make_parts(making, archive, size, advance, skip_bad=True)
        index = finish(making, archive, size, parts)
    splits = load_shards(folder, index).splits
    levels = digest_of(x for split in splits for x in split.x.split(_NUM_AT_ONCE))
    content = {"bad": bad_images(parts), "sha256": levels}
    files.write(folder / "folder.json", json.dumps(content).encode())


def _read(folder: Path) -> tuple[Dataset, dict[str, str]]:
    """Open a cached folder of packed images; return the dataset, and errors of bad images by name.

    Raises:
        DamagedFolder: If a file is missing, cut short or changed.
    """
    try:
        dataset = load_shards(folder, verify(folder))
        content = read_object(folder / "folder.json")
    except (OSError, ValueError) as error:
        raise DamagedFolder(f"the cache {folder} is corrupt") from error
    return replace(dataset, known_digest=content["sha256"]), content["bad"]
