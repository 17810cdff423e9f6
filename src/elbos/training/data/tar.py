"""WebDataset tars: images and labels in uncompressed archives, read in random order.

Files of a tar whose names agree up to the first dot are one sample, which holds one image:
`0012.jpg`, `0012.cls`. The archives are read through once, for the offset of each image; that index
is stored in the cache.
(Hugging Face's `datasets` reads such tars, too, but copies all images into its cache.)
"""

import hashlib
import os
import re
import tarfile
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch

from elbos.base import files
from elbos.base.cache import DamagedFolder, build_once
from elbos.base.codec import digest
from elbos.base.errors import flat
from elbos.base.progress import begin, progress
from elbos.training.data.dataset import MAX_CLASSES, SPLITS
from elbos.training.data.images import EXTENSIONS, Archive, Pictures
from elbos.training.data.splits import SPLIT_WORDS, divided

_FORMAT = 2  # increment when the format of the index changes
_COLUMNS = ("file", "offset", "size", "label")
_ARRAYS, _DIGEST = ("places", "names", *SPLITS), "sha256"


@dataclass(frozen=True, kw_only=True)
class Tar(Pictures):
    """Images in WebDataset tar files, decoded on reading to 8-bit RGB of size x size pixels.

    Tars with the words train, val or test in their names are of these splits, else 5 % of the
    pictures are for validation and 5 % for testing, chosen by a hash of their names. Pictures are
    read from the tars in random order, which needs a disk with fast random access.
    """

    path: Path
    """The tars: a folder of them, or a pattern, quoted, as 'shards/*.tar', 'train-{000..099}.tar'.
    Stored as an absolute path."""

    label: str = "cls"
    """Extension of the files that hold the class labels, if present."""

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "path", files.expanded(self.path))

    def archive(self) -> "TarArchive":
        """Return the index of the images, which the first call makes of the tars.

        Raises:
            FileNotFoundError: If there is no tar file.
            ValueError: If a file is not a tar, there are no pictures, a sample holds two, or some
                labels are missing.
        """
        name = self.path.name if self.path.is_dir() else self.path.parent.name
        return TarArchive.indexed(self._tars(), self.label, name=name, place=str(self.path))

    def _tars(self) -> list[Path]:
        pattern = str(self.path / "*.tar") if self.path.is_dir() else str(self.path)
        parts = re.split(r"\{(\d+)\.\.(\d+)\}", pattern)
        ranges = [
            [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
            for first, last in zip(parts[1::3], parts[2::3], strict=True)
        ]
        found: set[Path] = set()
        for numbers in product(*ranges):
            pairs = zip(parts[::3], (*numbers, ""), strict=True)
            one = Path("".join(text + number for text, number in pairs))
            found |= set(Path(one.anchor).glob(str(one.relative_to(one.anchor))))
        if not found:
            raise FileNotFoundError(f"there is no tar {pattern}: give a folder or a pattern")
        return sorted(found)


@dataclass(frozen=True, kw_only=True)
class TarArchive(Archive):
    """Images in uncompressed tar files, read at byte offsets."""

    tars: tuple[Path, ...]
    places: np.ndarray  # number of the tar, offset, size, and label or -1, of each image
    names: np.ndarray
    digest: str

    @classmethod
    def indexed(cls, tars: list[Path], label: str, *, name: str, place: str) -> "TarArchive":
        """Return the images in tar files.

        The first call indexes the tar files, and caches the index.
        """
        stats = [
            (str(tar.resolve()), tar.stat().st_size, tar.stat().st_mtime_ns)
            for tar in map(files.regular, tars)
        ]

        def read(folder: Path) -> TarArchive:
            try:
                arrays = [np.load(files.regular(folder / f"{name}.npy"), "r") for name in _ARRAYS]
                known = files.read(folder / _DIGEST).decode()
            except (ValueError, OSError, EOFError) as error:
                raise DamagedFolder(f"the cache {folder} is corrupt") from error
            places, names, train, val, test = arrays
            labels = torch.from_numpy(places["label"].copy())
            classes = tuple(map(str, range(int(labels.max()) + 1)))  # empty without labels
            return cls(
                name=name,
                place=place,
                splits=(train, val, test),
                labels=labels if classes else None,
                class_names=classes or None,
                tars=tuple(tars),
                places=places,
                names=names,
                digest=known,
            )

        key = digest([_FORMAT, label, stats])
        return build_once(f"tar-{key[:20]}", lambda folder: _build(folder, tars, label), read)

    def fingerprint(self) -> str:
        return self.digest

    def describe(self, number: int) -> str:
        tar = self.tars[self.places["file"][number]]
        return f"{self.names[number].decode(errors='replace')} in {tar}"

    def content(self, number: int) -> bytes:
        file, offset, size, _ = self.places[number].item()
        # opened each time: there may be more tars than files that a process may have open
        with files.named_errors(self.tars[file]), files.regular(self.tars[file]).open("rb") as tar:
            tar.seek(offset)
            return tar.read(size)


def _build(folder: Path, tars: list[Path], label: str) -> None:
    places: list[tuple[int, int, int, int]] = []
    names: list[bytes] = []
    groups: dict[str, list[str]] = {}
    numbers: defaultdict[str, list[int]] = defaultdict(list)  # several from tars of one name
    with progress() as bar:
        advance = begin(bar, f"reading through {tars[0].parent.name}", len(tars), "tars")
        for file, tar in enumerate(tars):
            words = re.split(r"[^a-z]+", tar.name.lower())
            split = next((SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS), "")
            for name, offset, size, number in _samples(tar, label):
                path = f"{tar.name}/{name}"
                if path not in numbers:
                    groups.setdefault(split, []).append(path)
                numbers[path].append(len(places))
                places.append((file, offset, size, number))
                names.append(os.fsencode(name))
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
        raise ValueError(f"{first} in the tars of {where} has no .{label}, unlike others: add it")
    divisions = divided(groups, where)
    splits = [[number for path in split for number in numbers[path]] for split in divisions]
    for name, array in zip(_ARRAYS, (table, np.array(names), *splits), strict=True):
        np.save(folder / f"{name}.npy", np.asarray(array))
    known = hashlib.sha256(b"\0".join(names))
    known.update(table["size"].tobytes() + table["label"].tobytes())
    files.write(folder / _DIGEST, known.hexdigest().encode())


def _samples(path: Path, label: str) -> list[tuple[str, int, int, int]]:
    """Return name, byte offset, size and label of each image in a tar file.

    A missing label is -1.

    Raises:
        ValueError: If the file is not a tar, a sample holds two images, or a label is no class.
    """
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
                    if key in pictures:
                        raise ValueError(
                            f"{pictures[key][0]} and {member.name} in {path} are one sample, as "
                            "their names agree up to the first dot: give each sample one picture"
                        )
                    pictures[key] = (member.name, member.offset_data, member.size)
                elif base.endswith(f".{label}"):
                    file = tar.extractfile(member)
                    content = b"" if file is None else file.read(64)
                    if not re.fullmatch(rb"\s*\d+\s*", content) or int(content) >= MAX_CLASSES:
                        raise ValueError(
                            f"{member.name} in {path} holds {content[:20]!r}: give the number of a "
                            f"class, from 0 to {MAX_CLASSES - 1}"
                        )
                    labels[key] = int(content)
    except tarfile.TarError as error:
        raise ValueError(f"{path} is corrupt or compressed ({flat(error)}): give a tar") from error
    return [(*place, labels.get(key, -1)) for key, place in pictures.items()]
