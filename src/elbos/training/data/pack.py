"""Packing of images: several threads decode all images once into shards.

A shard is written beside its place, renamed, and noted as complete: the same call again makes the
missing shards, and those whose images have changed since. Pillow releases Python's lock for nine
tenths of the time of a JPEG, so that threads suffice for some eight cores.
"""

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from elbos.base.codec import digest
from elbos.base.progress import Advance, Start, silent
from elbos.training.data.images import Archive, BadPicture, decode
from elbos.training.data.making import Making, Part, Piece, pieces
from elbos.training.data.shards import Index

_NUM_IN_MEMORY = 256  # decoded images


class Packable(Protocol):
    """Interface of a configuration of encoded images, which can be packed into shards."""

    @property
    def size(self) -> int: ...

    @property
    def skip_bad(self) -> bool: ...

    def archive(self) -> Archive:
        """Open the encoded images of the dataset."""


@dataclass(frozen=True)
class Packer:
    """Packer of encoded images into a folder of shards.

    Attributes:
        data: The images, their size, and whether bad images are left out.
        out: The folder of the shards, created if missing.
    """

    data: Packable
    out: Path

    def pack(self, *, jobs: int | None = None, start: Start = silent) -> Index:
        """Decode images into the missing shards of the output folder; return the folder's index.

        Args:
            jobs: Number of threads. Default: one per core.
            start: Starts a progress bar.

        Returns:
            The index of the complete folder.

        Raises:
            ValueError: If the images cannot be divided, images are bad, or `out` belongs to other
                data.
            OSError: If a file cannot be read or written.
        """
        archive = self.data.archive()
        making = self.making(archive)
        if (index := making.index()) is not None:
            return index
        with making.claimed():
            size, skip_bad = self.data.size, self.data.skip_bad
            advance = start(f"packing {archive.name}", sum(map(len, archive.splits)), "pictures")
            parts = make_parts(making, archive, size, advance, skip_bad=skip_bad, jobs=jobs)
            archive.require_good(bad_images(parts), "--skip-bad", skip_bad)
            return finish(making, archive, size, parts)

    def making(self, archive: Archive) -> Making:
        """Return the output folder as a `Making`, identified by the images and their size."""
        size = self.data.size
        identity = {"pictures": archive.place, **archive.identity(size), "size": str(size)}
        return Making(self.out, identity)


def make_parts(
    making: Making,
    archive: Archive,
    size: int,
    advance: Advance,
    *,
    skip_bad: bool,
    jobs: int | None = None,
) -> dict[str, Part]:
    """Write the missing shards; return the records of all shards by name.

    Unless `skip_bad`, shards with bad images are written again: the images may have been repaired.
    """
    parts = {}
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for piece in pieces(archive.splits, 3 * size**2):
            # computed before the images are read, since images may change meanwhile
            states = [[archive.describe(i), *archive.state(i)] for i in piece.rows.tolist()]
            key = digest(states)
            part = making.part(piece, key)
            if part is None or (part.bad and not skip_bad):
                bad: dict[str, str] = {}
                contents = _decoded(archive, size, piece, pool, bad, advance)
                part = making.write(piece, key, contents, bad)
            else:
                advance(len(piece.rows), True)
            parts[piece.name] = part
    return parts


def _decoded(
    archive: Archive,
    size: int,
    piece: Piece,
    pool: ThreadPoolExecutor,
    bad: dict[str, str],
    advance: Advance,
) -> Iterator[bytes]:
    """Iterate over the decoded images of a shard as bytes; add errors of bad images to `bad`."""

    def decoded(number: int) -> bytes | str:
        try:
            return decode(archive.content(number), size).tobytes()
        except BadPicture as error:
            return str(error)

    numbers = piece.rows.tolist()
    for first in range(0, len(numbers), _NUM_IN_MEMORY):
        some = numbers[first : first + _NUM_IN_MEMORY]
        for number, found in zip(some, pool.map(decoded, some), strict=True):
            if isinstance(found, str):
                bad[archive.describe(number)] = found
            else:
                yield found
            advance(1)


def bad_images(parts: dict[str, Part]) -> dict[str, str]:
    """Return the errors of the bad images in all shards, by the image's description."""
    return {name: reason for part in parts.values() for name, reason in part.bad.items()}


def finish(making: Making, archive: Archive, size: int, parts: dict[str, Part]) -> Index:
    """Write the labels and the index, which complete a folder of shards; return the index."""
    splits = archive.good(bad_images(parts))
    labels = [some for split in splits if (some := archive.labels_of(split)) is not None]
    classes = archive.class_names
    if classes is None and archive.num_classes is not None:
        classes = tuple(map(str, range(archive.num_classes)))
    return making.finish(
        parts,
        labels,
        name=archive.name,
        shape=(3, size, size),
        dtype="uint8",
        num_levels=256,
        class_names=classes,
    )
