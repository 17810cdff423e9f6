"""Packing: pictures, decoded once and for all into shards, by several processes.

A shard is made by one process from a stretch of a split's names. It is written beside its place and
renamed, and noted as done: the same call again makes what is left, and again what was made of
pictures that have changed since.
"""

import hashlib
import math
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from elbos.base import files
from elbos.base.codec import digest
from elbos.base.errors import Interrupted
from elbos.base.progress import Advance, Start, silent
from elbos.base.user_code import no_modules_here
from elbos.training.data.decode import BadPicture, decode
from elbos.training.data.listing import (
    SPLITS,
    Picture,
    bad_pictures,
    class_labels,
    require_training_pictures,
)
from elbos.training.data.making import Making, Part, num_in_shard, split_index
from elbos.training.data.pictures import Packable, Pictures
from elbos.training.data.shards import Index, shard_name
from elbos.training.data.source import digest_of

_POLL_SEC = 0.2


@dataclass(frozen=True)
class Piece:
    """What a shard is made of.

    Attributes:
        split: The name of its split.
        number: The number of the shard in it.
        pictures: In order.
    """

    split: str
    number: int
    pictures: list[Picture]

    def key(self, pictures: Pictures) -> str:
        """The identifier of its pictures, as they are now, by a look at each one's file."""
        return digest([[name, *pictures.state(name)] for name, _ in self.pictures])


@dataclass(frozen=True)
class Packer:
    """Packs pictures.

    Attributes:
        data: What is packed, such as `Folder`; whether bad pictures are left out is its to say.
        out: The folder of the shards, made if it is not there.
    """

    data: Packable
    out: Path

    def pack(self, *, jobs: int = 1, start: Start = silent) -> Index:
        """Make what is not there yet.

        Args:
            jobs: Number of processes.
            start: Begins the progress.

        Returns:
            The index of what is there then.

        Raises:
            ValueError: If the folder cannot be divided, pictures are bad, or `out` is of something
                else.
            OSError: If something cannot be read or written.
        """
        pictures = self.data.pictures()
        making = self.making(pictures)
        if (index := making.index()) is not None:
            return index
        splits = pictures.splits()
        with making.claimed():
            pieces = [
                piece
                for name, split in zip(SPLITS, splits, strict=True)
                for piece in self._pieces(name, split)
            ]
            left = [piece for piece in pieces if not self._is_done(making, pictures, piece)]
            num = sum(map(len, splits))
            advance = start(f"packing {pictures.name}", num, "pictures")
            advance(num - sum(len(piece.pictures) for piece in left), True)
            if min(jobs, len(left)) > 1:
                with no_modules_here():
                    _make_in_processes(self, making, left, min(jobs, len(left)), advance)
            else:
                for piece in left:
                    make_shard(making, pictures, self.data.size, piece, advance)
            return self._finished(making, pictures, splits, pieces)

    def making(self, pictures: Pictures) -> Making:
        """What is done of it."""
        return Making(self.out, {**pictures.source, "size": str(self.data.size)})

    def _pieces(self, name: str, split: list[Picture]) -> Iterator[Piece]:
        num = num_in_shard(3 * self.data.size**2)
        for number in range(math.ceil(len(split) / num)):
            yield Piece(name, number, split[number * num : (number + 1) * num])

    def _is_done(self, making: Making, pictures: Pictures, piece: Piece) -> bool:
        """Whether a shard is there, of the pictures as they are; bad ones may be repaired."""
        part = making.part(piece.split, piece.number)
        if part is None or (part.bad and not self.data.skip_bad):
            return False
        return part.key == piece.key(pictures)

    def _finished(
        self,
        making: Making,
        pictures: Pictures,
        splits: list[list[Picture]],
        pieces: list[Piece],
    ) -> Index:
        parts = {}
        for piece in pieces:
            part = making.part(piece.split, piece.number)
            assert part is not None, piece
            parts[piece.split, piece.number] = part
        bad = {name: why for part in parts.values() for name, why in part.bad.items()}
        if bad:
            num = sum(map(len, splits))
            line = bad_pictures(bad, pictures.place, num, "--skip-bad", self.data.skip_bad)
            warnings.warn(line, stacklevel=2)
        good = [[p for p in split if p.name not in bad] for split in splits]
        require_training_pictures(Path(pictures.place), good)
        classes = pictures.classes(good[0])
        train, val, test = (
            split_index([part for (name, _), part in parts.items() if name == split])
            for split in SPLITS
        )
        labels = [some for split in good if (some := class_labels(split, classes)) is not None]
        index = Index(
            name=pictures.name,
            shape=(3, self.data.size, self.data.size),
            dtype="uint8",
            num_levels=256,
            class_names=classes,
            splits=(train, val, test),
            source=making.source,
            labels_sha256=tuple(digest_of([some]) for some in labels),
        )
        making.finish(index, labels)
        return index


def make_shard(
    making: Making, pictures: Pictures, size: int, piece: Piece, advance: Callable[[int], None]
) -> None:
    """Decode the pictures of a shard, and write it."""
    key = piece.key(pictures)  # before they are read: they may change meanwhile
    path, hashed, bad = making.folder / shard_name(piece.split, piece.number), hashlib.sha256(), {}
    with files.writing(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for picture in piece.pictures:
            try:
                content = decode(pictures.content(picture.name), size).tobytes()
            except BadPicture as error:
                bad[picture.name] = str(error)
            else:
                hashed.update(content)
                with files.named_errors(path):
                    file.write(content)
            advance(1)
    num = len(piece.pictures) - len(bad)
    part = Part(key=key, num=num, sha256=hashed.hexdigest(), bad=bad)
    making.keep(piece.split, piece.number, part)


# --- several processes ---------------------------------------------------------------------------

_shared: dict[str, Any] = {}  # of a worker: the pictures, how many are done, whether to stop


def _make_in_processes(
    packer: Packer, making: Making, pieces: list[Piece], jobs: int, advance: Advance
) -> None:
    """Make shards in processes, which end when this one does, however it ends."""
    context = multiprocessing.get_context("spawn")
    done, is_stopping, shown = context.Value("q", 0), context.Value("b", 0), 0
    pool = ProcessPoolExecutor(jobs, context, _begin_worker, (packer.data, done, is_stopping))
    left: set[Future[None]] = set()
    try:
        left = {pool.submit(_make_in_worker, making, packer.data.size, piece) for piece in pieces}
        while left:
            ended, left = wait(left, _POLL_SEC, FIRST_EXCEPTION)
            now = done.value
            advance(now - shown)
            shown = now
            for future in ended:
                future.result()
    except BrokenProcessPool as error:
        raise ValueError(
            "A process that decodes was killed, for want of memory perhaps: the same command with "
            "fewer --jobs goes on."
        ) from error
    finally:
        is_stopping.value = 1
        pool.shutdown(cancel_futures=True)


def _begin_worker(data: Packable, done: Any, is_stopping: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # left to the process that started this one
    _shared.update(pictures=data.pictures(), done=done, is_stopping=is_stopping)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


def _make_in_worker(making: Making, size: int, piece: Piece) -> None:
    def advance(num: int) -> None:
        with _shared["done"].get_lock():
            _shared["done"].value += num
        if _shared["is_stopping"].value:
            raise Interrupted

    make_shard(making, _shared["pictures"], size, piece, advance)
