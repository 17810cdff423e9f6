"""Writing of shards: ownership of the folder, and records of complete shards.

OUT/
    making/source.json         the data and settings that the folder belongs to
    making/train-00000.json    a complete shard: the identifier of its samples, and bad images
    index.json                 written last; `making` is then deleted
"""

import hashlib
import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout
from jaxtyping import Int64
from torch import Tensor

from elbos.base import files
from elbos.base.codec import decode, encode
from elbos.base.formats import read_object
from elbos.training.data.dataset import SPLITS
from elbos.training.data.shards import INDEX, Index, SplitIndex, labels_file, shard_name
from elbos.training.data.source import digest_of

SHARD_BYTES, SHARD_SAMPLES = 2**26, 2**13  # maxima: an interruption loses little
_MAKING = "making"


class Piece(NamedTuple):
    """Plan of one shard: split, number of the shard, and sample indices.

    Attributes:
        split: Name of the split.
        number: Number of the shard in the split.
        rows: Numbers of the samples.
    """

    split: str
    number: int
    rows: Any

    @property
    def name(self) -> str:
        """File name of the shard."""
        return shard_name(self.split, self.number)


def pieces(splits: Sequence[Any], num_bytes: int) -> list[Piece]:
    """Divide the samples of each split into shards, given the bytes per sample."""
    num = min(max(1, SHARD_BYTES // num_bytes), SHARD_SAMPLES)
    return [
        Piece(name, number, rows[number * num : (number + 1) * num])
        for name, rows in zip(SPLITS, splits, strict=True)
        for number in range(math.ceil(len(rows) / num))
    ]


@dataclass(frozen=True, kw_only=True)
class Part:
    """Record of a complete shard: identifier, number of samples, digest and bad images.

    Attributes:
        key: Identifier of the samples.
        num: Number of samples.
        sha256: SHA-256 of the file.
        bad: Errors of images that are left out, by name.
    """

    key: str
    num: int
    sha256: str
    bad: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Making:
    """Folder of shards that is being written, identified by the source of its data.

    Attributes:
        folder: The folder.
        source: The data and settings that the folder belongs to.
    """

    folder: Path
    source: dict[str, str]

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Create the folder of shards, and lock the folder within the `with` block.

        Raises:
            ValueError: If another process writes into the folder.
            OSError: If the folder cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        files.require_plain(self.folder)
        try:
            with FileLock(self.folder / ".lock", timeout=0):
                files.remove_leftovers(self.folder)
                (self.folder / _MAKING).mkdir(exist_ok=True)
                content = json.dumps(self.source).encode()
                files.write(self.folder / _MAKING / "source.json", content)
                yield
        except Timeout:
            raise ValueError(f"Another process writes {self.folder}: wait for it.") from None

    def index(self) -> Index | None:
        """Return the index of a complete folder of shards; None for a new or incomplete folder.

        Raises:
            ValueError: If the folder belongs to other data or settings, or holds other files.
        """
        folder, file = self.folder, self.folder / _MAKING / "source.json"
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file: name a folder.")
        index = Index.read(folder) if (folder / INDEX).exists() else None
        owner = index.source if index else read_object(file) if file.exists() else None
        if owner is None:
            others = [path.name for path in folder.glob("*") if path.name[0] != "."]
            if [name for name in others if name != _MAKING]:
                raise ValueError(f"{folder} holds {others[0]}: name a new folder.")
        elif owner != self.source:

            def shown(source: dict[str, str], other: dict[str, str]) -> str:
                return ", ".join(f"{key} {v}" for key, v in source.items() if other.get(key) != v)

            ours, theirs = shown(self.source, owner), shown(owner, self.source)
            raise ValueError(f"{folder} belongs to {theirs}, not {ours}: name another folder.")
        return index

    def part(self, piece: Piece, key: str) -> Part | None:
        """Return the record of a complete shard; None if the shard is missing or outdated."""
        file = self._part_file(piece)
        if not (file.exists() and (self.folder / piece.name).is_file()):
            return None
        try:
            part: Part = decode(Part, files.read_json(file))
        except ValueError:  # a corrupt record: the shard is written again
            return None
        return part if part.key == key else None

    def write(
        self, piece: Piece, key: str, contents: Iterable[bytes], bad: dict[str, str] | None = None
    ) -> Part:
        """Write a shard and its record; return the record.

        Args:
            piece: The shard.
            key: Identifier of the samples.
            contents: Bytes of the samples.
            bad: Errors of images that are left out, filled while `contents` is read.
        """
        path, hashed = self.folder / piece.name, hashlib.sha256()
        with files.writing(path) as file:
            for content in contents:
                hashed.update(content)
                with files.named_errors(path):
                    file.write(content)
        bad = bad or {}
        num = len(piece.rows) - len(bad)
        part = Part(key=key, num=num, sha256=hashed.hexdigest(), bad=bad)
        files.write(self._part_file(piece), json.dumps(encode(part)).encode())
        return part

    def _part_file(self, piece: Piece) -> Path:
        return (self.folder / _MAKING / piece.name).with_suffix(".json")

    def finish(
        self, parts: Mapping[str, Part], labels: Sequence[Int64[Tensor, "_"]], **properties: Any
    ) -> Index:
        """Write the labels and the index, which complete a folder of shards; return the index.

        Surplus shards of earlier attempts are deleted.

        Args:
            parts: All shards in order, by name.
            labels: Classes of the three splits; empty if there are no classes.
            properties: Name, shape, dtype, pixel values and classes, as in `Index`.
        """
        splits = []
        for split in SPLITS:
            own = [part for name, part in parts.items() if name.startswith(f"{split}-")]
            nums, digests = (part.num for part in own), (part.sha256 for part in own)
            splits.append(SplitIndex(nums=tuple(nums), sha256=tuple(digests)))
            for path in self.folder.glob(f"{split}-*.bin"):
                if path.name not in parts:
                    path.unlink()
        for split, some in zip(SPLITS, labels, strict=bool(labels)):
            content = some.numpy().astype("<i8").tobytes()
            files.write(labels_file(self.folder, split), content)
        train, val, test = splits
        index = Index(
            splits=(train, val, test),
            source=self.source,
            labels_sha256=tuple(digest_of([some]) for some in labels),
            **properties,
        )
        index.write(self.folder)
        shutil.rmtree(self.folder / _MAKING)
        return index
