"""Packed pictures: how long packing and opening take, and whether a step waits for its batch.

Pictures are made in a folder, some hundred bytes each, and packed. What is shown of opening is the
seconds until the data and their identifier are there, for more and more pictures. A step is
stood in for by a pause in which the processor is free, as it is while a GPU computes; the pages of
the files are dropped from memory before, so that every batch comes from the disk. With a fault,
one read in twenty takes ten steps.

    python benchmarks/data.py --nums 2000 20000 200000
"""

import argparse
import os
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from elbos.base.items import Batch
from elbos.training.data import Images, Packed
from elbos.training.data.batches import Batches, StoredBatch
from elbos.training.data.dataset import Split
from elbos.training.data.packed import INDEX

SIZE = 32
BATCH_SIZE = 256
STEP_SEC, NUM_SLOW = 0.04, 10  # of a step, and steps that a fault takes
NUM_ROUNDS = 5


def make_pictures(folder: Path, num: int) -> None:
    """Write pictures of 8x8 blocks in ten classes, those that are not there yet."""
    blocks = np.random.default_rng(0).integers(0, 256, (1000, 4, 4, 3), dtype=np.uint8)
    for i in range(num):
        path = folder / str(i % 10) / f"{i}.png"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            levels = blocks[i % 1000] ^ np.uint8(i // 1000)
            levels = levels.repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)
            Image.fromarray(levels).save(path, compress_level=1)


def pack(root: Path, out: Path, jobs: int) -> None:
    """Pack the pictures, if they are not, and say how fast."""
    if (out / INDEX).exists():
        return
    begin, cpu = time.perf_counter(), os.times()
    Images(path=str(root), size=SIZE).pack(out, jobs=jobs)
    seconds, used = time.perf_counter() - begin, os.times()
    num = sum(map(len, Packed(path=out).load().splits))
    cpu_sec = sum(used[:4]) - sum(cpu[:4])
    print(
        f"packed    {num:8,} pictures in {seconds:6.1f} s, {num / seconds:6,.0f} a second, "
        f"{1e3 * cpu_sec / num:.2f} ms of a core each"
    )


def show_opening(out: Path) -> None:
    """Say how long it takes until the data and their identifier are there."""
    times = []
    for _ in range(NUM_ROUNDS):
        drop_from_memory(out)
        begin = time.perf_counter()
        dataset = Packed(path=out).load()
        middle = time.perf_counter()
        dataset.fingerprint()
        times.append((middle - begin, time.perf_counter() - begin))
    load, whole = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    num = len(dataset.train) + len(dataset.val) + len(dataset.test)
    print(f"opened    {num:8,} pictures in {load:6.1f} ms, with their identifier {whole:6.1f} ms")


def drop_from_memory(folder: Path) -> None:
    """Let the system forget the pages of all files in a folder."""
    for path in folder.iterdir():
        if path.is_file():
            file = os.open(path, os.O_RDONLY)
            os.fsync(file)
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(file)


class Faulty(Split):
    """Samples whose reading takes ten steps, one time in twenty."""

    num_reads = 0

    def stored(self, rows: torch.Tensor) -> Batch:
        Faulty.num_reads += 1
        if Faulty.num_reads % 20 == 0:
            time.sleep(NUM_SLOW * STEP_SEC)
        return super().stored(rows)


def wait_for_batches(out: Path, num_steps: int) -> None:
    """Say what share of a training's time is waited for batches, ahead and in turn."""
    for name in ("cold pages", "with faults"):
        for is_ahead in (False, True):
            drop_from_memory(out)
            begin = time.perf_counter()
            waits = list(waiting(batches(out, num_steps, name == "with faults", is_ahead)))
            seconds = time.perf_counter() - begin
            how = "ahead" if is_ahead else "in turn"
            print(
                f"{name:12} made {how:8}: {100 * sum(waits) / seconds:5.1f} % of the time waited, "
                f"median {1e3 * statistics.median(waits):6.2f} ms a step, after the first "
                f"at most {1e3 * max(waits[1:]):6.1f} ms"
            )


def batches(out: Path, num_steps: int, has_faults: bool, is_ahead: bool) -> Iterator[StoredBatch]:
    """The batches of a training."""
    dataset = Packed(path=out).load()
    if has_faults:
        dataset = replace(dataset, train=Faulty(**vars(dataset.train)))
    made = Batches(dataset.train, BATCH_SIZE, 0, slice(0, BATCH_SIZE))
    return made.prefetched(0, num_steps) if is_ahead else map(made.__getitem__, range(num_steps))


def waiting(batches: Iterator[StoredBatch]) -> Iterator[float]:
    """The seconds that each step waits for its batch; then it computes."""
    while True:
        begin = time.perf_counter()
        if next(batches, None) is None:
            return
        yield time.perf_counter() - begin
        time.sleep(STEP_SEC)


def main() -> None:
    """Pack and open more and more pictures, and train on the last ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nums", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--folder", type=Path, default=Path("runs/data-benchmark"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--num-steps", type=int, default=200)
    args = parser.parse_args()
    for num in args.nums:
        root, out = args.folder / f"pictures-{num}", args.folder / f"packed-{num}"
        make_pictures(root, num)
        pack(root, out, args.jobs)
        show_opening(out)
    wait_for_batches(out, args.num_steps)


if __name__ == "__main__":
    main()
