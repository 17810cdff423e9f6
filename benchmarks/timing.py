"""What the benchmarks of speed share: pieces of work, timed in turns, and the machine's peak."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

SIZES = (1024, 1536, 2048, 3072)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to time, and how much it is."""

    name: str
    run: Callable[[], object]
    num_flops: int
    num_images: int = 0
    num_parameters: int = 0


def matmul(size: int) -> Work:
    a, b = torch.randn(2, size, size).bfloat16()
    repeats = max(1, round(2 * (2048 / size) ** 3))

    def run() -> None:
        for _ in range(repeats):
            a @ b

    return Work(name=f"matmul {size}", run=run, num_flops=repeats * 2 * size**3)


def peaks() -> list[Work]:
    """Matrix products, the fastest of which is the machine's peak."""
    return [matmul(size) for size in SIZES]


def measure(works: list[Work], num_rounds: int) -> list[float]:
    """Median seconds of each, taken in turns; a first round warms up and is dropped."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(1 + num_rounds):
        for work, column in zip(works, seconds, strict=True):
            start = time.perf_counter()
            work.run()
            column.append(time.perf_counter() - start)
    return [statistics.median(column[1:]) for column in seconds]


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
