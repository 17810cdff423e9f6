"""WebDataset tars: pictures and labels in uncompressed archives, read at random.

Files of a tar whose names agree up to the first dot are one sample: `0012.jpg`, `0012.cls`. The
archives are read through once, to find where each picture is; that index is kept in the cache.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from elbos.base import files
from elbos.base.cache import DamagedFolder, build_once
from elbos.base.checks import Typed
from elbos.base.codec import digest
from elbos.base.errors import flat
from elbos.base.progress import begin, progress
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import MAX_CLASSES, Dataset
from elbos.training.data.decode import EXTENSIONS
from elbos.training.data.decoded import Archive, decoded_dataset
from elbos.training.data.listing import SPLITS, Picture, divided, require_training_pictures
from elbos.training.data.pictures import ArchivePictures

_FORMAT = 1  # raise it when the index changes
_WORDS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
_COLUMNS = ("file", "offset", "size", "label")
_ARRAYS, _DIGEST = ("places", "names", *SPLITS), "sha256"


@dataclass(frozen=True, kw_only=True)
class Tar(Typed):
    """WebDataset's tars of pictures, decoded when they are read: 3xSIZExSIZE, 256 pixel values.

    Tars with the words train, val or test in their names are of these splits, else 5 % of the
    pictures are for validation and 5 % for testing, chosen by a hash of their names. Bytes of
    pictures are read where they lie, at random over all tars: the disk has to be good at that.
    """

    path: Path
    """The tars: a folder of them, or a pattern, quoted, as 'shards/*.tar', 'train-{000..099}.tar'.
    Kept as an absolute path."""

    size: int = 64
    """Height and width after resizing and cropping, in pixels."""

    label: str = "cls"
    """Ending of the files that hold the number of a sample's class, if there are any."""

    flip: bool = False
    """Mirror half of the training pictures left to right, another half in each epoch."""

    crop: int | None = None
    """Height and width of the part of a picture that a training sees, at another place in each
    epoch; validation and test see the centre. Default: all of it."""

    skip_bad: bool = False
    """Take the next picture for one that cannot be decoded, with a warning, instead of stopping."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", files.expanded(self.path))

    def load(self) -> Dataset:
        """Open the dataset; the first time this reads through the tars.

        Raises:
            FileNotFoundError: If there is no tar.
            ValueError: If a file is no tar, has no pictures, or labels are missing.
        """
        if self.size < 1:
            raise ValueError(f"size is {self.size}: give at least one pixel")
        archive = TarArchive.indexed(self._tars(), self.label)
        labels = archive.places["label"]
        num_classes = None if labels[0] < 0 else int(labels.max()) + 1
        splits = [
            (numbers, None if num_classes is None else torch.from_numpy(labels[numbers]))
            for numbers in archive.splits
        ]
        dataset = decoded_dataset(
            archive,
            splits,
            name=self.path.name if self.path.is_dir() else self.path.parent.name,
            size=self.size,
            num_classes=num_classes,
            class_names=None,
            skip_bad=self.skip_bad,
        )
        return augmented(dataset, flip=self.flip, crop=self.crop)

    def pictures(self) -> ArchivePictures:
        """The pictures, encoded."""
        return ArchivePictures(replace(self, flip=False, crop=None).load(), str(self.path))

    def _tars(self) -> list[Path]:
        pattern = str(self.path / "*.tar") if self.path.is_dir() else str(self.path)
        patterns = map(Path, _expanded(pattern))
        found = sorted(
            {
                path
                for one in patterns
                for path in Path(one.anchor).glob(str(one.relative_to(one.anchor)))
            }
        )
        if not found:
            raise FileNotFoundError(f"there is no tar {pattern}: give a folder or a pattern")
        return found


def _expanded(pattern: str) -> Iterator[str]:
    """The patterns without ranges in braces.

    Examples:
        >>> list(_expanded("train-{08..10}.tar"))
        ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
    ranges = [
        [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
        for first, last in zip(parts[1::3], parts[2::3], strict=True)
    ]
    for numbers in product(*ranges):
        pairs = zip(parts[::3], (*numbers, ""), strict=True)
        yield "".join(text + number for text, number in pairs)


@dataclass(frozen=True)
class TarArchive(Archive):
    """The pictures in some tars.

    Attributes:
        tars: The files.
        places: Of each picture the number of its tar, offset, size, and label or -1.
        names: Of each picture.
        splits: The numbers of the pictures for training, validation and testing.
        digest: Of names, sizes and labels.
    """

    tars: tuple[Path, ...]
    places: np.ndarray
    names: np.ndarray
    splits: tuple[Int64[np.ndarray, "_"], ...]
    digest: str
    _open: dict[int, int] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def indexed(cls, tars: list[Path], label: str) -> "TarArchive":
        """The pictures of tars, with the index from the cache or made now."""
        stats = [
            (str(tar.resolve()), tar.stat().st_size, tar.stat().st_mtime_ns)
            for tar in map(files.regular, tars)
        ]

        def read(folder: Path) -> TarArchive:
            try:
                arrays = [np.load(files.regular(folder / f"{name}.npy"), "r") for name in _ARRAYS]
                known = files.read(folder / _DIGEST).decode()
            except (ValueError, OSError, EOFError) as error:
                raise DamagedFolder(f"the cache {folder} is damaged") from error
            places, names, *splits = arrays
            return cls(tuple(tars), places, names, tuple(splits), known)

        key = digest([_FORMAT, label, stats])
        return build_once(f"tar-{key[:20]}", lambda folder: _build(folder, tars, label), read)

    def fingerprint(self) -> str:
        """The identifier of names, sizes and labels."""
        return self.digest

    def name(self, number: int) -> str:
        """Where a picture is."""
        tar = self.tars[self.places["file"][number]]
        return f"{self.names[number].decode(errors='replace')} in {tar}"

    def content(self, number: int) -> bytes:
        """The content of a picture's file, read where it lies."""
        file, offset, size, _ = self.places[number].item()
        with files.named_errors(self.tars[file]):
            if file not in self._open:
                self._open[file] = os.open(files.regular(self.tars[file]), os.O_RDONLY)
            return os.pread(self._open[file], size, offset)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # another process opens the files itself


def _build(folder: Path, tars: list[Path], label: str) -> None:
    """Write the index of tars."""
    places: list[tuple[int, int, int, int]] = []
    names: list[bytes] = []
    groups: dict[str, list[Picture]] = {}
    numbers: dict[str, int] = {}
    with progress() as bar:
        advance = begin(bar, f"reading through {tars[0].parent.name}", len(tars), "tars")
        for file, tar in enumerate(tars):
            words = re.split(r"[^a-z]+", tar.name.lower())
            split = next((_WORDS[word] for word in words if word in _WORDS), "")
            for name, offset, size, number in _samples(tar, label):
                whole = f"{tar.name}/{name}"
                numbers[whole] = len(places)
                places.append((file, offset, size, number))
                names.append(os.fsencode(name))
                groups.setdefault(split, []).append(Picture(whole, str(number)))
            advance(1)
    where = str(tars[0].parent)
    if not places:
        raise ValueError(
            f"there is no picture in the tars of {where}: looked for files named "
            f"{' '.join(EXTENSIONS)}"
        )
    table = np.array(places, dtype=[(column, np.int64) for column in _COLUMNS])
    if (table["label"] < 0).any() and (table["label"] >= 0).any():
        first = names[int(table["label"].argmin())].decode(errors="replace")
        raise ValueError(f"{first} in the tars of {where} has no .{label}, others have: add it")
    splits = divided(groups, where)
    require_training_pictures(Path(where), splits)
    arrays = [[numbers[p.name] for p in split] for split in splits]
    for name, array in zip(_ARRAYS, (table, np.array(names), *arrays), strict=True):
        np.save(folder / f"{name}.npy", np.asarray(array))
    known = hashlib.sha256(b"\0".join(names))
    known.update(table["size"].tobytes() + table["label"].tobytes())
    files.write(folder / _DIGEST, known.hexdigest().encode())


def _samples(path: Path, label: str) -> Iterator[tuple[str, int, int, int]]:
    """The name, offset, size, and label or -1, of each picture of a tar."""
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                folder, _, base = member.name.rpartition("/")
                key = f"{folder}/{base.partition('.')[0]}"
                if not member.isreg() or base[:1] == ".":
                    continue
                if base.lower().endswith(EXTENSIONS):
                    pictures[key] = (member.name, member.offset_data, member.size)
                elif base.endswith(f".{label}"):
                    file = tar.extractfile(member)
                    labels[key] = _number(b"" if file is None else file.read(64), member.name, path)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is no uncompressed tar, or damaged ({flat(error)})") from error
    for key, place in pictures.items():
        yield *place, labels.get(key, -1)


def _number(content: bytes, name: str, path: Path) -> int:
    """The number of a class."""
    if not re.fullmatch(rb"\s*\d+\s*", content) or int(content) >= MAX_CLASSES:
        raise ValueError(
            f"{name} in {path} holds {content[:20]!r}: give the number of a class, from 0 to "
            f"{MAX_CLASSES - 1}"
        )
    return int(content)
