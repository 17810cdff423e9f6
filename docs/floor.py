"""The floor of Fashion-MNIST: writes docs/results/floor.svg and prints the table of floor.md.

python docs/floor.py [RUN/eval.json ...]

All 60,000 training images are noised and compared with all, which takes minutes on two cores;
what is computed is kept in runs/floor, and the same command resumes. The loss by noise level of
evaluated runs, on whatever images it was measured, is drawn beside the floor.
"""

import math
import sys
from collections.abc import Iterator
from functools import partial
from itertools import cycle
from pathlib import Path

import torch
from figures import TOP, Axes, stroke, write
from jaxtyping import Float64
from torch import Tensor

from elbos.base.progress import Start, begin, progress
from elbos.base.store import Part, Store
from elbos.evaluation.result import Evaluation
from elbos.models.likelihood import eps_loss
from elbos.theory.floor import NUM_NOISED, Floor, floor_losses
from elbos.theory.oracles import FiniteSet
from elbos.training.data import Fashion, to_unit
from elbos.training.randomness import generator

LOGSNR = torch.linspace(-14, 6, 61, dtype=torch.float64)
NUM_TEST = 100  # test images, for the denoiser that memorizes the training images
SOLID = ("#777777", "#ff7f0e", "#9467bd", "#d62728")
DASHED = ("#9ecae1", "#4292c6", "#08519c", "#2ca02c")
Curve = tuple[Tensor, Tensor]  # log-SNR and loss


def training_images() -> FiniteSet:
    """All 60,000, of which a run trains on 58,000."""
    data = Fashion().load()
    assert data.train.labels is not None and data.val.labels is not None
    x, labels = torch.cat([data.train.x[:], data.val.x[:]]), [data.train.labels, data.val.labels]
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


def run_curves(paths: list[str]) -> Iterator[tuple[str, Curve]]:
    """The loss by noise level of each condition of evaluated runs."""
    for path in paths:
        result = Evaluation.load(path)
        for name, one in result.results.items():
            curve = one.curve.logsnr, one.curve.nats_per_dim
            name = f"{Path(result.run).name}, {result.split}, {name.replace('_', ' ')}"
            yield name, (torch.tensor(curve[0]).double(), torch.tensor(curve[1]).double())


def figure(curves: dict[str, tuple[Curve, str]]) -> list[str]:
    """Curves with their style, and a legend beside them."""
    axes = Axes(left=60, width=520, logsnr=(-14.0, 6.0), ticks=range(-14, 7, 4), decades=(-7, 0))
    parts = axes.drawn("loss in nats per dimension; dashed: floors, below which no denoiser is")
    for i, (name, ((logsnr, loss), style)) in enumerate(curves.items()):
        x, y = axes.left + axes.width + 14, TOP + 14 + 24 * i
        parts += [
            axes.line(logsnr, loss, style),
            f'<path d="M{x} {y}h32" {style}/>',
            f'<text x="{x + 40}" y="{y + 4}">{name}</text>',
        ]
    return parts


def computed(data: FiniteSet, start: Start) -> tuple[dict[str, Floor], dict[str, Tensor]]:
    """Floors, and losses of two denoisers that nobody trained."""
    floors = {
        name: floor(data, name, start, given_label="label" in name, size=int(name.split()[0]))
        for name in ("600 images", "6000 images", "60000 images", "60000 images given label")
    }
    memorizer = memorizer_losses(data, start)
    return floors, {"best linear": linear_losses(data), "memorizer, test images": memorizer}


def main() -> None:
    """Compute what is missing, draw it, and print it."""
    with progress() as bar:
        floors, others = computed(training_images(), partial(begin, bar))
    curves = {name: (LOGSNR, loss) for name, loss in others.items()} | dict(
        run_curves(sys.argv[1:])
    )
    solid = zip(curves.items(), cycle(SOLID), strict=False)
    styled = {name: (curve, stroke(color, is_dashed=False)) for (name, curve), color in solid}
    for (name, one), color in zip(floors.items(), DASHED, strict=True):
        curve = LOGSNR, torch.tensor(one.loss).double()
        styled[f"floor of {name}"] = curve, stroke(color, is_dashed=True)
    write("results/floor.svg", 830, figure(styled))
    print_table(floors, others)


def print_table(floors: dict[str, Floor], others: dict[str, Tensor]) -> None:
    """Every sixth noise level, and the areas under the floors."""
    print("| log-SNR |", " | ".join([*floors, *others]), "|")
    print("|---" * (1 + len(floors) + len(others)) + "|")
    for i in range(0, len(LOGSNR), 6):
        cells = [
            f"{one.loss[i]:.3g} ± {one.standard_error[i]:.1g}" if one.loss[i] > 1e-9 else "0"
            for one in floors.values()
        ]
        cells += [f"{loss[i].item():.3g}" for loss in others.values()]
        print(f"| {LOGSNR[i].item():.0f} |", " | ".join(cells), "|")
    for name, one in floors.items():
        area = torch.trapezoid(torch.tensor(one.loss).double(), LOGSNR).item()
        print(f"area under the floor of {name}: {area / math.log(2):.5f} bits/dim")


if __name__ == "__main__":
    main()
