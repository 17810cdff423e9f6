"""What the benchmarks of speed share: pieces of work, timed in turns, and the machine's peak."""

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from elbos.training.execution import best_precision

SIZES = (1024, 1536, 2048, 3072)
TINY_SIZES = (64,)


def elapsed(run: Callable[[], object]) -> float:
    """Seconds that it takes, on a GPU, too."""
    start = time.perf_counter()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something to time, how much it is, and which of its seconds count."""

    name: str
    run: Callable[[], object]
    num_flops: int
    num_images: int = 0
    num_parameters: int = 0
    seconds: Callable[[Callable[[], object]], float] = elapsed


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The seconds that a piece of work took in each round."""

    work: Work
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """FLOP/s in the median."""
        return self.work.num_flops / self.median

    @property
    def image_rate(self) -> float:
        """Images a second in the median."""
        return self.work.num_images / self.median

    @property
    def fastest_rate(self) -> float:
        return self.work.num_flops / min(self.seconds)


def matmul(size: int, dtype: torch.dtype) -> Work:
    a, b = torch.randn(2, size, size).to(dtype)
    repeats = min(16, max(1, round(2 * (2048 / size) ** 3)))

    def run() -> None:
        for _ in range(repeats):
            a @ b

    name = f"{str(dtype).removeprefix('torch.')} matmul {size}"
    return Work(name=name, run=run, num_flops=repeats * 2 * size**3)


def dtypes() -> tuple[torch.dtype, ...]:
    """The types that the processor computes in: where it imitates bfloat16, a hundred times slower
    than float32, that would take an hour.
    """
    is_bf16 = best_precision(torch.device("cpu")) == "bf16"
    return (torch.bfloat16, torch.float32) if is_bf16 else (torch.float32,)


def peaks(is_tiny: bool) -> list[Work]:
    """Matrix products, the fastest of which is the machine's peak."""
    sizes = TINY_SIZES if is_tiny else SIZES
    return [matmul(size, dtype) for dtype in dtypes() for size in sizes]


def peak(matmuls: list[Timed]) -> Timed:
    """The fastest in any round, whatever its size and dtype."""
    return max(matmuls, key=lambda timed: timed.fastest_rate)


def measure(works: list[Work], num_rounds: int) -> list[Timed]:
    """Times of each, taken in turns; a first round warms up and is dropped."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(1 + num_rounds):
        for work, column in zip(works, seconds, strict=True):
            column.append(work.seconds(work.run))
    return [
        Timed(work=work, seconds=column[1:]) for work, column in zip(works, seconds, strict=True)
    ]


def cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
