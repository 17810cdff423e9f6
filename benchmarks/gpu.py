r"""The trainer's whole step on a GPU, as a share of its peak.

    python benchmarks/gpu.py [--presets imagenet64-adm ...] [--compile off] [--steps 20]

One process and one GPU (without one, the processor). Of each preset the trainer runs on random
images, in bfloat16, with the batch that one GPU gets (`step_cost.WORK`): batch, noise levels,
noise, network, loss, optimizer, averages and adaptive schedule. In turns with products of large
matrices, the fastest of which is the peak, are measured:

- FLOPs of convolutions and matrix products of the network, forward and backward, as counted on
  `meta` (`roofline`), over the median time of a step;
- the least time of the step's kernels on an H100, `step_cost`'s, beside it;
- the most memory.

The first round compiles, and is dropped.
"""

import argparse
import gc
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from roofline import Cost, cost
from step_cost import WORK
from timing import Work, matmul, measure

from elbos.base.processes import Processes
from elbos.training.config import Execution
from elbos.training.data import Dataset, InMemory, Split
from elbos.training.directory import RunDirectory
from elbos.training.execution import machine
from elbos.training.presets import PRESETS
from elbos.training.trainer import Trainer

IMAGES = [name for name, (shape, *_) in WORK.items() if len(shape) == 3]
DEFAULT = ["fashion", "fashion-vit", "imagenet64-adm", "imagenet256-latents-vit"]
SIZES = (4096, 8192)


def trainer(preset: str, batch_size: int, execution: Execution, folder: Path) -> Trainer:
    """The trainer of a preset on random images."""
    shape, num_classes, _ = WORK[preset]
    config = replace(PRESETS[preset], batch_size=batch_size, execution=execution, precision="bf16")
    images = 2 * torch.rand(4 * batch_size, *shape) - 1
    labels = None if num_classes is None else torch.arange(len(images)) % num_classes
    split = Split(InMemory(images), labels, None)
    data = Dataset("random", split, split, split, num_classes, None)
    return Trainer(config, RunDirectory(folder), data, Processes.joined())


def row(preset: str, arguments: argparse.Namespace, matmuls: list[Work]) -> list[str]:
    """The cells of a preset, whose memory is free again afterwards."""
    shape, num_classes, num = WORK[preset]
    num = arguments.batch_size or num
    counted: Cost = cost(PRESETS[preset].network, shape, num_classes, num)
    gc.collect()  # the trainer before, which knows itself
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        one = trainer(preset, num, Execution(compile=arguments.compile), Path(folder))
        work = Work(
            name=preset,
            run=lambda: [one.step() for _ in range(arguments.steps)],
            num_flops=arguments.steps * counted.num_flops,
        )
        *peaks, timed = measure([*matmuls, work], arguments.rounds)
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    seconds = timed.median / arguments.steps
    return [
        f"{num}",
        f"{1e3 * seconds:.2f}",
        f"{num / seconds:,.0f}",
        f"{timed.rate / 1e12:.2f}",
        f"{timed.rate / max(each.fastest_rate for each in peaks):.2f}",
        f"{1e3 * counted.seconds:.2f}",
        f"{memory / 2**30:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=IMAGES, default=DEFAULT)
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--batch-size", type=int, help="default: what one GPU gets")
    parser.add_argument("--steps", type=int, default=20, help="steps in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="to see that it runs")
    arguments = parser.parse_args()

    device = Processes.joined().device
    sizes = (64,) if arguments.tiny else SIZES
    matmuls = [matmul(size, torch.bfloat16, device) for size in sizes]
    print(f"{machine(device)['device']}, torch {torch.__version__}\n")
    heads = ("images", "ms/step", "images/s", "TFLOP/s", "of peak", "H100's ms", "GiB")
    print(f"{'':24}" + "".join(f"{head:>11}" for head in heads))
    for preset in arguments.presets:
        print(f"{preset:24}" + "".join(f"{cell:>11}" for cell in row(preset, arguments, matmuls)))


if __name__ == "__main__":
    main()
