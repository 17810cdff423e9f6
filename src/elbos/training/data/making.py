"""A folder of shards in the making: whose it is, and what is done of it.

OUT/
    making/source.json         what is made, with which settings: the folder belongs to them
    making/train-00000.json    a shard that is done, what it was made of, and what was bad
    index.json                 written last; `making` is deleted then
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from jaxtyping import Int64
from torch import Tensor

from elbos.base import files
from elbos.base.codec import decode, encode
from elbos.training.data.listing import SPLITS
from elbos.training.data.shards import INDEX, Index, SplitIndex, labels_file, shard_name

SHARD_BYTES, SHARD_SAMPLES = 2**26, 2**13  # at most, so that there is work for many processes
_MAKING, _SOURCE = "making", "source.json"


@dataclass(frozen=True, kw_only=True)
class Part:
    """A shard that is done.

    Attributes:
        key: The identifier of what it was made of.
        num: Number of samples.
        sha256: Of its bytes.
        bad: Why pictures that should be in it are not, by name.
    """

    key: str
    num: int
    sha256: str
    bad: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Making:
    """A folder of shards in the making.

    Attributes:
        folder: The folder.
        source: What is made, with which settings.
    """

    folder: Path
    source: dict[str, str]

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Make the folder, which is not complete, and keep others out.

        Raises:
            ValueError: If another process is at work in it.
            OSError: If it cannot be written.
        """
        folder = self.folder
        folder.mkdir(parents=True, exist_ok=True)
        files.require_plain(folder)
        try:
            with FileLock(folder / ".lock", timeout=0):
                files.remove_leftovers(folder)
                (folder / _MAKING).mkdir(exist_ok=True)
                files.write(folder / _MAKING / _SOURCE, json.dumps(self.source).encode())
                yield
        except Timeout:
            raise ValueError(f"Another process writes {folder}: wait for it.") from None

    def index(self) -> Index | None:
        """The index, if all is done.

        Raises:
            ValueError: If the folder holds something else.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file: name a folder.")
        file = self.folder / _MAKING / _SOURCE
        index = Index.read(self.folder) if (self.folder / INDEX).exists() else None
        held = index.source if index else _source(file) if file.exists() else None
        if held is None:
            others = [path.name for path in self.folder.glob("*") if path.name[0] != "."]
            if [name for name in others if name != _MAKING]:
                raise ValueError(f"{self.folder} holds {others[0]}: name a new folder.")
        elif held != self.source:
            mine, theirs = (_shown(self.source, held), _shown(held, self.source))
            raise ValueError(f"{self.folder} is of {theirs}, not {mine}: name another folder.")
        return index

    def part(self, split: str, number: int) -> Part | None:
        """A shard, if it is done; its key tells of what."""
        file = self._part_file(split, number)
        shard = self.folder / shard_name(split, number)
        if not (file.exists() and shard.is_file()):
            return None
        try:
            part: Part = decode(Part, files.read_json(file))
        except ValueError:  # damaged: it is made again
            return None
        return part

    def keep(self, split: str, number: int, part: Part) -> None:
        """Note that a shard is done."""
        files.write(self._part_file(split, number), json.dumps(encode(part)).encode())

    def _part_file(self, split: str, number: int) -> Path:
        return (self.folder / _MAKING / shard_name(split, number)).with_suffix(".json")

    def finish(self, index: Index, labels: Sequence[Int64[Tensor, "_"]]) -> None:
        """Write the labels of the three splits, if there are any, and the index; delete shards of
        an earlier attempt that had more.
        """
        names = {
            shard_name(split, number)
            for split, of in zip(SPLITS, index.splits, strict=True)
            for number in range(len(of.nums))
        }
        for split in SPLITS:
            for path in self.folder.glob(f"{split}-*.bin"):
                if path.name not in names:
                    path.unlink()
        for split, some in zip(SPLITS, labels, strict=bool(labels)):
            content = some.numpy().astype("<i8").tobytes()
            files.write(labels_file(self.folder, split), content)
        index.write(self.folder)
        shutil.rmtree(self.folder / _MAKING)


def _source(file: Path) -> Any:
    """What is made, with which settings, in a file of them."""
    try:
        if isinstance(found := files.read_json(file), dict):
            return found
    except ValueError:
        pass
    raise ValueError(f"{file} is damaged: delete it, or name a new folder.")


def num_in_shard(num_bytes: int) -> int:
    """How many samples of so many bytes go into a shard."""
    return min(max(1, SHARD_BYTES // num_bytes), SHARD_SAMPLES)


def _shown(source: dict[str, str], other: dict[str, str]) -> str:
    """The settings in which a source differs from another one."""
    return ", ".join(f"{key} {value}" for key, value in source.items() if other.get(key) != value)


def split_index(parts: Sequence[Part]) -> SplitIndex:
    """The index of a split's shards."""
    return SplitIndex(
        nums=tuple(part.num for part in parts), sha256=tuple(part.sha256 for part in parts)
    )
