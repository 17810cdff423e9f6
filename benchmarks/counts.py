r"""What a training step makes its host wait for, and how it stores images: counted without a GPU.

    python benchmarks/counts.py [--presets fashion ...] [--steps 30]

Of each preset the trainer runs on random images:

- **waits** of one step on `meta`, which stands in for a GPU: copies between host and device that
  are not asynchronous, and values that are asked for. The one wait of a step, for its losses, comes
  after the update is launched, and is an event: it is not among them.
- **copies** that the host starts in a step: noise levels there, losses and norm back, and a batch;
- **channels last**: convolutions of a step whose input is in channels-last memory, and all;
- **graphs**: those that are compiled in the first step, and in all later ones (by torch's tracer,
  without code for the machine).

The same with several processes is in tests/training: test_memory_format, test_compilation.
"""

import argparse
import contextlib
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from step_cost import WORK
from torch._dynamo.utils import counters

from elbos.base.processes import Processes
from elbos.training.config import Execution
from elbos.training.data import Dataset, InMemory, Split
from elbos.training.directory import RunDirectory
from elbos.training.presets import PRESETS
from elbos.training.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from transfers import META, Convolutions, Transfers

DEFAULT = ["fashion-small", "fashion", "fashion-vit"]
BATCH_SIZE = 4


@contextlib.contextmanager
def on_meta() -> Any:
    """Replace what has no form on `meta`: the fused optimizer, autocast, events."""
    adamw = torch.optim.AdamW.__init__

    def foreach(self: Any, *words: Any, fused: bool = False, **settings: Any) -> None:
        adamw(self, *words, foreach=True, **settings)

    with (
        mock.patch.object(torch.optim.AdamW, "__init__", foreach),
        mock.patch("elbos.training.execution.autocast", lambda *_: contextlib.nullcontext()),
        mock.patch("torch.Event", mock.MagicMock()),
    ):
        yield


def trainer(preset: str, folder: Path, device: torch.device, execution: Execution) -> Trainer:
    """The trainer of a preset on random images."""
    shape, num_classes, _ = WORK[preset]
    config = replace(PRESETS[preset], batch_size=BATCH_SIZE, execution=execution, precision="fp32")
    images = 2 * torch.rand(4 * BATCH_SIZE, *shape) - 1
    labels = None if num_classes is None else torch.arange(len(images)) % num_classes
    split = Split(InMemory(images), labels, None)
    data = Dataset("random", split, split, split, num_classes, None)
    return Trainer(config, RunDirectory(folder), data, Processes(0, 1, device))


def row(preset: str, num_steps: int, folder: Path) -> list[str]:
    """The counts of a preset."""
    with on_meta(), Transfers() as transfers:
        one = trainer(preset, folder, META, Execution())
        one.step()  # which also makes the optimizer's state
        transfers.copies, transfers.found = [], []
        one.step()
    cpu = torch.device("cpu")
    with Convolutions() as convolutions:
        trainer(preset, folder, cpu, Execution()).step()
    torch._dynamo.reset()
    counters.clear()
    with mock.patch("torch.compile", partial(torch.compile, backend="eager")):
        one = trainer(preset, folder, cpu, Execution(compile="on"))
        graphs = []
        for _ in range(num_steps):
            one.step()
            graphs.append(counters["stats"]["unique_graphs"])
    return [
        f"{len(transfers.found)}",
        f"{len(transfers.copies)}",
        f"{sum(convolutions.found)} of {len(convolutions.found)}",
        f"{graphs[0]}",
        f"{graphs[-1] - graphs[0]}",
    ]


def main() -> None:
    """Print a line of counts of each preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=list(WORK), default=DEFAULT)
    parser.add_argument("--steps", type=int, default=30, help="steps in which graphs are counted")
    arguments = parser.parse_args()
    heads = ("waits", "copies", "channels last", "graphs", "later graphs")
    print(f"{'':24}" + "".join(f"{head:>16}" for head in heads))
    for preset in arguments.presets:
        with tempfile.TemporaryDirectory() as folder:
            cells = row(preset, arguments.steps, Path(folder))
        print(f"{preset:24}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    main()
