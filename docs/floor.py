"""The floor of Fashion-MNIST: writes docs/results/floor.svg and prints the numbers of floor.md.

python docs/floor.py [RUN/eval.json ...]

All 60,000 training images are noised and compared with all, which takes minutes on two cores;
what is computed is kept in runs/floor, and the same command resumes. The loss by noise level of
evaluated runs is drawn beside the floor.
"""

import argparse
import math
from collections.abc import Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from elbos.evaluation.result import Evaluation
from elbos.floor import NUM_NOISED, Floor, floor_losses
from elbos.likelihood import eps_loss
from elbos.oracles import FiniteSet
from elbos.progress import Start, begin, progress
from elbos.report.colors import COLORS, DASHES
from elbos.runs.store import Part, Store
from elbos.training.data import Fashion, to_unit
from elbos.training.randomness import generator

LOGSNR = torch.linspace(-14, 6, 61, dtype=torch.float64)
FIGURE = Path(__file__).parent / "results" / "floor.svg"
NUM_TEST = 512  # test images, for the denoiser that memorizes the training images


def training_images() -> FiniteSet:
    """All 60,000, of which a run trains on 58,000."""
    data = Fashion().load()
    assert data.train.labels is not None and data.val.labels is not None
    x, labels = torch.cat([data.train.x, data.val.x]), [data.train.labels, data.val.labels]
    return FiniteSet(x, data.num_levels, torch.cat(labels))


def floor(data: FiniteSet, name: str, start: Start, *, given_label: bool, size: int) -> Floor:
    """The floor of all images, or of the first so many in a random order."""
    chosen = torch.randperm(len(data), generator=generator(0))[:size]
    labels = None if data.labels is None else data.labels[chosen]
    some = FiniteSet(data.x[chosen], data.num_levels, labels)
    advance = start(name, size, "images")

    def losses(part: int, rows: Tensor) -> dict[str, Tensor]:
        g = generator(1, part)
        return {"loss": floor_losses(some, rows, LOGSNR, given_label=given_label, generator=g)}

    parts = (
        Part(f"{part:05d}", len(rows), partial(losses, part, rows))
        for part, rows in enumerate(torch.split(torch.arange(size), NUM_NOISED))
    )
    store = Store(Path("runs/floor") / name.replace(" ", "-"))
    found = store.concatenated(parts, advance)["loss"]
    return Floor.from_losses(LOGSNR, found, size, is_subset=size < len(data))


def memorizer_losses(data: FiniteSet, start: Start) -> Float64[Tensor, " m"]:
    """The mean loss on test images of the denoiser that has memorized the training images."""
    test = Fashion().load().test
    x = to_unit(test.x[:NUM_TEST], data.num_levels).double()
    advance = start("memorizer on test images", len(LOGSNR), "levels")

    def losses(i: int) -> dict[str, Tensor]:
        levels = LOGSNR[i].expand(len(x))
        return {"loss": eps_loss(data, x, levels, generator=generator(2, i)).mean()[None]}

    parts = (Part(f"{i:02d}", 1, partial(losses, i)) for i in range(len(LOGSNR)))
    return Store(Path("runs/floor/memorizer")).concatenated(parts, advance)["loss"]


def linear_losses(data: FiniteSet) -> Float64[Tensor, " m"]:
    """The loss of the best linear denoiser, from the variances of the principal components."""
    variances = torch.linalg.eigvalsh(data.points(slice(None)).T.cov(correction=0)).clamp(min=0)
    return 0.5 * torch.sigmoid(LOGSNR[:, None] + variances.log()).mean(1)
