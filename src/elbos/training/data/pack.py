"""Writing of folders of shards (large files of samples), which resumes after an interruption.

OUT/
    making/source.json         the data and settings that the folder belongs to
    making/train-00000.json    a complete shard: the identifier of its samples, and bad images
    index.json                 written last; `making` is then deleted

The next call writes the missing shards, and shards whose images have changed since; a complete
folder stays as it is. Threads decode: Pillow releases Python's lock for nine tenths of the time of
a JPEG.
"""

import hashlib
import json
import math
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxtyping import Int64
from PIL import Image
from torch import Tensor

from elbos.base import codec, files
from elbos.base.formats import read_object
from elbos.base.progress import Advance, Start, silent
from elbos.training.data.dataset import SPLITS, digest_of
from elbos.training.data.images import Archive, BadPicture, Pictures, decode
from elbos.training.data.shards import INDEX, Index, SplitIndex, labels_file, shard_name
from elbos.training.directory import locked

SHARD_BYTES, SHARD_SAMPLES = 2**26, 2**13  # maxima: an interruption loses little
_MAKING = "making"
_NUM_IN_MEMORY = 256  # decoded images


class ShardPlan(NamedTuple):
    """Samples to be written to one shard of a dataset."""

    split: str
    number: int
    rows: Any

    @property
    def name(self) -> str:
        return shard_name(self.split, self.number)


def shard_plans(splits: Sequence[Any], num_bytes: int) -> list[ShardPlan]:
    """Divide the samples of all splits into shards.

    `num_bytes` is the size of a sample; the planned contents of each shard are returned.
    """
    num = min(max(1, SHARD_BYTES // num_bytes), SHARD_SAMPLES)
    return [
        ShardPlan(name, number, rows[number * num : (number + 1) * num])
        for name, rows in zip(SPLITS, splits, strict=True)
        for number in range(math.ceil(len(rows) / num))
    ]


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """Record of a completely written shard of a dataset."""

    key: str
    num: int
    sha256: str
    bad: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PackWriter:
    """Writer of a dataset as a folder of shards.

    `source` describes the data and settings from which all shards are made.
    """

    folder: Path
    source: dict[str, str]

    @contextmanager
    def claimed(self) -> Iterator[None]:
        with locked(self.folder, f"Another process writes {self.folder}: wait for it."):
            files.remove_leftovers(self.folder)
            (self.folder / _MAKING).mkdir(exist_ok=True)
            files.write(self.folder / _MAKING / "source.json", json.dumps(self.source).encode())
            yield

    def index(self) -> Index | None:
        """Return the index of a complete folder of shards.

        None if the folder is incomplete.

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

    def record(self, plan: ShardPlan, key: str) -> ShardRecord | None:
        """Return the record of a completely written shard of a dataset.

        None if the shard is missing or outdated.
        """
        file = self._record_file(plan)
        if not (file.exists() and (self.folder / plan.name).is_file()):
            return None
        try:
            record: ShardRecord = codec.decode(ShardRecord, files.read_json(file))
        except ValueError:  # a corrupt record: the shard is written again
            return None
        return record if record.key == key else None

    def write(
        self,
        plan: ShardPlan,
        key: str,
        contents: Iterable[bytes],
        bad: dict[str, str] | None = None,
    ) -> ShardRecord:
        """Write a shard of samples and a record of the shard.

        The record is stored beside the shard, and returned. The errors of images that are left out,
        `bad`, are complete when `contents` has been read.
        """
        path, hashed = self.folder / plan.name, hashlib.sha256()
        with files.writing(path) as file:
            for content in contents:
                hashed.update(content)
                with files.named_errors(path):
                    file.write(content)
        bad = bad or {}
        num = len(plan.rows) - len(bad)
        record = ShardRecord(key=key, num=num, sha256=hashed.hexdigest(), bad=bad)
        files.write(self._record_file(plan), json.dumps(codec.encode(record)).encode())
        return record

    def _record_file(self, plan: ShardPlan) -> Path:
        return (self.folder / _MAKING / plan.name).with_suffix(".json")

    def finish(
        self,
        records: Mapping[str, ShardRecord],
        labels: Sequence[Int64[Tensor, "_"]],
        **properties: Any,
    ) -> Index:
        """Complete a folder of shards with class labels and index.

        The index is returned. `labels` holds the classes of the three splits, or is empty;
        `properties` are further fields of `Index`. Surplus shards of earlier attempts are deleted.
        """
        splits = []
        for split in SPLITS:
            own = [record for name, record in records.items() if name.startswith(f"{split}-")]
            nums, digests = (record.num for record in own), (record.sha256 for record in own)
            splits.append(SplitIndex(nums=tuple(nums), sha256=tuple(digests)))
            for path in self.folder.glob(f"{split}-*.bin"):
                if path.name not in records:
                    path.unlink()
        for split, some in zip(SPLITS, labels, strict=bool(labels)):
            files.write(labels_file(self.folder, split), some.numpy().astype("<i8").tobytes())
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


def pack(data: Pictures, out: Path, *, jobs: int | None = None, start: Start = silent) -> Index:
    """Decode images and write them to a folder of shards.

    Shards that are complete are skipped; the index of the folder is returned. One thread per core
    decodes by default; `start` starts a progress bar.

    Raises:
        ValueError: If the images cannot be divided, images are bad, `out` belongs to other data, or
            `out` is complete and images were added, removed or changed since.
        OSError: If a file cannot be read or written.
    """
    archive, size, skip_bad = data.archive(), data.size, data.skip_bad
    identity = {"pictures": archive.place, **archive.identity(size), "size": str(size)}
    writer = PackWriter(out, identity)
    if (index := writer.index()) is not None:
        if index.fingerprint not in (archive.fingerprint(), None):  # None in files of elbos 0.1.0
            raise ValueError(f"{archive.place} has changed since {out}: pack into a new folder.")
        return index
    with writer.claimed():
        fingerprint = archive.fingerprint()  # of before the images are read
        advance = start(f"packing {archive.name}", sum(map(len, archive.splits)), "pictures")
        records = write_images(writer, archive, size, advance, skip_bad=skip_bad, jobs=jobs)
        archive.require_good(bad_images(records), "--skip-bad", skip_bad)
        return finish_images(writer, archive, size, records, fingerprint=fingerprint)


def write_images(
    writer: PackWriter,
    archive: Archive,
    size: int,
    advance: Advance,
    *,
    skip_bad: bool,
    jobs: int | None = None,
) -> dict[str, ShardRecord]:
    """Decode images into the missing shards of a dataset.

    The records of all shards are returned by name. Unless `skip_bad`, shards with bad images are
    written again: the images may have been repaired.
    """

    def decoded(number: int) -> bytes | str:
        try:
            return decode(archive.content(number), size).tobytes()
        except BadPicture as error:
            return str(error)

    def contents(numbers: list[int], bad: dict[str, str]) -> Iterator[bytes]:
        for first in range(0, len(numbers), _NUM_IN_MEMORY):
            some = numbers[first : first + _NUM_IN_MEMORY]
            for number, found in zip(some, pool.map(decoded, some), strict=True):
                if isinstance(found, str):
                    bad[archive.describe(number)] = found
                else:
                    yield found
                advance(1)

    records = {}
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for plan in shard_plans(archive.splits, 3 * size**2):
            numbers = plan.rows.tolist()
            # computed before the images are read, since images may change meanwhile
            key = codec.digest([[archive.describe(i), *archive.state(i)] for i in numbers])
            record = writer.record(plan, key)
            if record is None or (record.bad and not skip_bad):
                bad: dict[str, str] = {}
                record = writer.write(plan, key, contents(numbers, bad), bad)
            else:
                advance(len(numbers), True)
            records[plan.name] = record
    return records


def bad_images(records: dict[str, ShardRecord]) -> dict[str, str]:
    return {name: reason for record in records.values() for name, reason in record.bad.items()}


def finish_images(
    writer: PackWriter,
    archive: Archive,
    size: int,
    records: dict[str, ShardRecord],
    *,
    fingerprint: str | None = None,
) -> Index:
    splits = archive.good(bad_images(records))
    labels = [some for split in splits if (some := archive.labels_of(split)) is not None]
    return writer.finish(
        records,
        labels,
        name=archive.name,
        shape=(3, size, size),
        dtype="uint8",
        num_levels=256,
        class_names=archive.class_names,
        fingerprint=fingerprint,
    )
