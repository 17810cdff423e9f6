"""What a training step of each preset costs on a GPU: computation, memory, and the least time.

    python benchmarks/step_cost.py [--presets fashion ...] [--markdown]
    python benchmarks/step_cost.py --host [--steps 300]

Counted, not measured, and so on any machine: see `roofline`. The batch is what one GPU gets.

With --host, what `fit` costs its host beside a bare loop with the same objective, optimizer and
adaptive schedule, for a network that costs next to nothing: operations that torch starts, and
processor time in the median, of one step of each in turn.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from roofline import BANDWIDTH, PEAK, Cost, cost
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import elbos
from elbos.theory import parameterizations, schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.schedules import Schedule
from elbos.training.config import Output
from elbos.training.presets import PRESETS

WORK: dict[str, tuple[tuple[int, ...], int | None, int]] = {
    "toy": ((2,), 8, 512),
    "digits": ((1, 8, 8), 10, 64),
    "fashion": ((1, 28, 28), 10, 32),
    "fashion-small": ((1, 28, 28), 10, 32),
    "fashion-vit": ((1, 28, 28), 10, 64),
    "imagenet64-adm": ((3, 64, 64), 1000, 32),
    "imagenet128-uvit": ((3, 128, 128), 1000, 32),
    "imagenet256-latents-vit": ((4, 32, 32), 1000, 32),
}
"""Shape of a sample, number of classes and samples per GPU of each preset."""

HEAD = (
    *("preset", "parameters", "batch", "GFLOPs/image", "MB/image", "kept MB/image", "in float32"),
    *("kernels", "ms/step", "matmul", "images/s"),
)


def row(name: str) -> list[str]:
    """The cells of a preset."""
    shape, num_classes, num = WORK[name]
    found: Cost = cost(PRESETS[name].network, shape, num_classes, num)
    kept = sum(found.saved.values())
    return [
        name,
        f"{found.num_parameters / 1e6:.1f} M",
        f"{num}",
        f"{found.num_flops / num / 1e9:.2f}",
        f"{found.num_bytes / num / 1e6:.2f}",
        f"{kept / num / 1e6:.2f}",
        f"{found.saved['float32'] / kept:.0%}",
        f"{found.num_kernels}",
        f"{1e3 * found.seconds:.2f}",
        f"{found.matmul_seconds / found.seconds:.0%}",
        f"{num / found.seconds:,.0f}",
    ]


class Tiny(nn.Module):
    """98 weights, for points in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """The output at `z`."""
        y: Tensor = self.last(torch.tanh(self.first(torch.cat([z, logsnr[:, None] / 10], 1))))
        return y


class Operations(TorchDispatchMode):
    """Counts what torch starts."""

    num = 0

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.num += 1
        return op(*args, **(kwargs or {}))


def host(schedule: Schedule, num_steps: int) -> dict[str, tuple[int, float]]:
    """Operations and seconds of a step of `fit` and of a bare loop."""
    points, batch_size = 2 * torch.rand(1000, 2) - 1, 64
    objective = elbos.Objective(
        weighting=weightings.Sigmoid(k=2.0),
        schedule=schedule,
        parameterization=parameterizations.V(),
    )
    network = Tiny()
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)

    def bare() -> None:
        logsnr = schedule.sample(batch_size)
        x = points[torch.randint(len(points), (batch_size,))]
        loss = objective.loss(network, x, logsnr=logsnr)
        loss.mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.update(logsnr, loss)

    seconds: dict[str, list[float]] = {"fit": [], "bare": []}
    operations = {"fit": Operations(), "bare": Operations()}
    started: list[float] = []

    def after_a_step(_: int) -> None:
        if started:
            seconds["fit"].append(time.thread_time() - started[0])
        begin = time.thread_time()
        bare()
        seconds["bare"].append(time.thread_time() - begin)
        started[:] = [time.thread_time()]

    def trained(num: int, on_images: Callable[[int], None]) -> None:
        with tempfile.TemporaryDirectory() as run, contextlib.redirect_stderr(io.StringIO()):
            elbos.fit(
                Tiny(),
                points,
                objective,
                run=f"{run}/tiny",
                num_images=num * batch_size,
                batch_size=batch_size,
                output=Output(log_every=100 * batch_size),
                precision="fp32",
                on_images=on_images,
            )

    def count(num_images: int) -> None:
        if num_images == 2 * batch_size:
            operations["fit"].__enter__()
        elif num_images == 3 * batch_size:
            operations["fit"].__exit__(None, None, None)
            with operations["bare"]:
                bare()

    trained(4, count)
    trained(num_steps, after_a_step)
    return {name: (each.num, statistics.median(seconds[name])) for name, each in operations.items()}


def print_host(num_steps: int) -> None:
    """Print what `fit` costs beside a bare loop, with a fixed and with an adaptive schedule."""
    torch.set_num_threads(1)
    ends = {"logsnr_min": -10.0, "logsnr_max": 10.0}
    print(f"{'':10}{'operations':>22}{'ms of processor':>22}{'ratio':>8}")
    for schedule in (schedules.Cosine(**ends), Adaptive(**ends)):
        found = host(schedule, num_steps)
        (num, seconds), (bare_num, bare_seconds) = found["fit"], found["bare"]
        print(
            f"{type(schedule).__name__:10}{f'{num} against {bare_num}':>22}"
            f"{f'{1e3 * seconds:.2f} against {1e3 * bare_seconds:.2f}':>22}"
            f"{seconds / bare_seconds:>8.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=list(WORK), default=list(WORK))
    parser.add_argument("--markdown", action="store_true", help="as a table of Markdown")
    parser.add_argument("--host", action="store_true", help="fit beside a bare loop, on this CPU")
    parser.add_argument("--steps", type=int, default=300, help="of each, for --host")
    arguments = parser.parse_args()
    if arguments.host:
        print_host(arguments.steps)
        return
    rows = [list(HEAD), *(row(name) for name in arguments.presets)]
    if arguments.markdown:
        rows.insert(1, ["---"] * len(HEAD))
        print("\n".join(f"| {' | '.join(cells)} |" for cells in rows))
        return
    print(f"forward and backward; {PEAK / 1e12:.0f} TFLOP/s, {BANDWIDTH / 1e12:.2f} TB/s\n")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)))


if __name__ == "__main__":
    main()
