r"""What a validation number is worth: its error, its rankings, and whether it tracks the samples.

    python benchmarks/validation.py errors RUN [--num-images 250] [--num-seeds 20]
    python benchmarks/validation.py quality RUN... [--num-images 1000] [--num-samples 1000]

`errors` takes the last two checkpoints of a run and, seed after seed, estimates the diffusion term
of the bound on the same test images with eight evaluations of each, in several ways. The truth for
these images is the mean of ours over all seeds. Of a protocol at fixed noise levels the estimate is
the midpoint rule: its losses, each times the width of the cell of its level in
$[\lambda_\min, \lambda_\max]$, so that its error is a bias besides the noise. Then each of these
numbers, and the protocols' own means, rank the neighbours among all checkpoints; the truth is the
difference of `elbos.Validator` at 32 evaluations an image.

`quality` measures every checkpoint of several runs by every number, and by the Fréchet and the
kernel distance of samples, and correlates their ranks. What was measured is kept in the runs.
"""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from protocols import FixedLevels, equispaced_times, fixed_steps
from scipy.stats import spearmanr
from torch import Tensor

from elbos import Run, Validator
from elbos.base import files
from elbos.evaluation.config import OdeConfig
from elbos.models.likelihood import eps_loss
from elbos.theory import weightings
from elbos.theory.denoiser import Denoise
from elbos.theory.schedules import low_discrepancy_times
from elbos.training import checkpoint
from elbos.training.data import to_unit
from elbos.training.randomness import generator

NUM_TIMES = 8  # evaluations of an image
EQUISPACED, FIXED_STEPS = equispaced_times(), fixed_steps()
PER_BIT = math.log(2)
NUM_RESAMPLES = 2000
ANEW = "independent uniform levels, anew for every checkpoint"


@dataclass(frozen=True)
class Images:
    """Test images, and the noise levels between which a network is measured on them."""

    validator: Validator
    labels: Tensor | None

    @classmethod
    def of_run(cls, run: Run, num: int) -> "Images":
        test, schedule = run.dataset.test, run.config.schedule
        rows = torch.randperm(len(test), generator=generator(0))[:num]
        labels = test.labels[rows] if run.has_labels and test.labels is not None else None
        validator = Validator(
            to_unit(test.x[rows], run.dataset.num_levels),
            num_levels=run.dataset.num_levels,
            logsnr_min=schedule.logsnr_min,
            logsnr_max=schedule.logsnr_max,
        )
        return cls(validator, labels)

    def of_seed(self, seed: int, num_evaluations: int = NUM_TIMES) -> Validator:
        return replace(self.validator, num_evaluations=num_evaluations, seed=seed)

    @property
    def width(self) -> float:
        return self.validator.logsnr_max - self.validator.logsnr_min

    def losses_at(self, denoiser: Denoise, times: Float[Tensor, "n m"], seed: int) -> Tensor:
        """The loss of each image at levels of its own, uniform for times in [0, 1]."""
        levels = self.validator.logsnr_min + self.width * times
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            found = [
                eps_loss(denoiser, self.validator.data, one, cond=self.labels, generator=draw)
                for one in levels.float().T
            ]
        return torch.stack(found, 1).double()


Estimator = Callable[[Images, Denoise, int], float]  # bits/dim, from a seed


def independent(images: Images, denoiser: Denoise, seed: int) -> float:
    times = torch.rand(
        len(images.validator), NUM_TIMES, generator=torch.Generator().manual_seed(seed)
    )
    return images.losses_at(denoiser, times, seed).mean().item() * images.width / PER_BIT


def low_discrepancy(images: Images, denoiser: Denoise, seed: int) -> float:
    """VDM's levels, shared by all images in each of the passes."""
    draw, num = torch.Generator().manual_seed(seed), len(images.validator)
    passes = [
        low_discrepancy_times(torch.rand((), generator=draw).item(), num)[
            torch.randperm(num, generator=draw)
        ]
        for _ in range(NUM_TIMES)
    ]
    times = torch.stack(passes, 1)
    return images.losses_at(denoiser, times, seed).mean().item() * images.width / PER_BIT


def by_cells(protocol: FixedLevels, images: Images, denoiser: Denoise, seed: int) -> float:
    """The midpoint rule with a protocol's noise levels."""
    losses = _of_protocol(protocol, images, denoiser, seed)
    levels = torch.tensor(protocol.logsnr, dtype=torch.float64)
    order = levels.argsort()
    middle = (levels[order][1:] + levels[order][:-1]) / 2
    ends = images.validator.logsnr_min, images.validator.logsnr_max
    edges = torch.cat([middle.new_tensor(ends[:1]), middle, middle.new_tensor(ends[1:])])
    return (losses[order] * edges.diff()).sum().item() / PER_BIT


def as_reported(protocol: FixedLevels, images: Images, denoiser: Denoise, seed: int) -> float:
    """A protocol's own mean."""
    losses = _of_protocol(protocol, images, denoiser, seed)
    return (losses * torch.tensor(protocol.weights, dtype=torch.float64)).sum().item()


def _of_protocol(protocol: FixedLevels, images: Images, denoiser: Denoise, seed: int) -> Tensor:
    """The mean loss at each of its levels, of as many evaluations as the others have."""
    levels = protocol.logsnr * (NUM_TIMES // len(protocol.logsnr))
    losses = images.of_seed(seed).at_levels(denoiser, levels, cond=images.labels, batch_size=250)
    return losses.mean(0).reshape(-1, len(protocol.logsnr)).mean(0)


def even(images: Images, denoiser: Denoise, seed: int) -> float:
    found = images.of_seed(seed)(denoiser, cond=images.labels, batch_size=250)
    return found.diffusion.mean().item() / PER_BIT


def tuned(like: Validator, images: Images, denoiser: Denoise, seed: int) -> float:
    """Ours with the density and the control variate of another validator."""
    found = replace(like, seed=seed)(denoiser, cond=images.labels, batch_size=250)
    return found.diffusion.mean().item() / PER_BIT


def errors(path: Path, num_images: int, num_seeds: int, num_ranking_seeds: int) -> None:
    steps = list(checkpoint.kept(path / "checkpoints"))
    runs = [Run(path, step=step) for step in steps]
    images = Images.of_run(runs[-1], num_images)
    with runs[-1].autocast():
        pilot = images.validator.pilot(runs[-2].denoiser, cond=images.labels, batch_size=250)
        like = images.validator.tuned(pilot)
        estimators: dict[str, Estimator] = {
            "independent uniform levels": independent,
            "VDM's low-discrepancy levels": low_discrepancy,
            "8 equispaced times, by cells": partial(by_cells, EQUISPACED),
            "4 fixed steps, by cells": partial(by_cells, FIXED_STEPS),
            "`Validator`": even,
            "`Validator.tuned`": partial(tuned, like),
        }
        found = {
            name: np.array(
                [
                    [one(images, run.denoiser, seed) for run in runs[-2:]]
                    for seed in range(num_seeds)
                ]
            )
            for name, one in estimators.items()
        }
    print(f"{path}, steps {steps[-2]} and {steps[-1]}: {num_images} images, {num_seeds} seeds\n")
    report_errors(found)
    ranked: dict[str, Estimator] = {
        "8 equispaced times, as reported": partial(as_reported, EQUISPACED),
        "4 fixed steps, as reported": partial(as_reported, FIXED_STEPS),
        ANEW: independent,
        "`Validator`": even,
        "`Validator.tuned`": estimators["`Validator.tuned`"],
    }
    with runs[-1].autocast():
        rankings(images, runs, ranked, num_ranking_seeds)


def report_errors(found: dict[str, Float[np.ndarray, "s 2"]]) -> None:
    """Errors of the last checkpoint's number, and of the difference of the two."""
    ours = found["`Validator.tuned`"]
    truth, true_gain = ours[:, 1].mean(), (ours[:, 0] - ours[:, 1]).mean()
    num = len(ours)
    print(f"truth: {truth:.4f} ± {ours[:, 1].std(ddof=1) / num**0.5:.4f} bits/dim; ", end="")
    print(f"gain {true_gain:.5f} ± {np.ptp(ours, 1).std(ddof=1) / num**0.5:.5f}\n")
    print("| estimator | mean | bias | noise | error | error of the gain | error / ours |")
    print("|---|---|---|---|---|---|---|")
    best = rms(ours[:, 1] - truth)
    for name, values in found.items():
        last, gain = values[:, 1], values[:, 0] - values[:, 1]
        error, gain_error = rms(last - truth), rms(gain - true_gain)
        print(
            f"| {name} | {last.mean():.4f} | {last.mean() - truth:+.4f} | {last.std(ddof=1):.4f} | "
            f"{error:.4f} | {gain_error:.5f} | {error / best:.1f} |"
        )


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values**2)))


def rankings(
    images: Images, runs: Sequence[Run], estimators: dict[str, Estimator], num_seeds: int
) -> None:
    """How often each number ranks neighbouring checkpoints as the bound does."""
    precise = images.of_seed(10**6, num_evaluations=32)
    bounds = [precise(run.denoiser, cond=images.labels, batch_size=250) for run in runs]
    gains = [precise.compare(a, b) for a, b in pairwise(bounds)]
    z = np.array([gain.mean / gain.measurement_error for gain in gains])
    print(f"\n{len(gains)} pairs of neighbours; |z| of the true difference: ", end="")
    print(f"{np.sort(np.abs(z))[0]:.1f} at least, {np.median(np.abs(z)):.1f} in the median\n")
    print(f"| number | right of {len(gains)} pairs, mean of {num_seeds} seeds | by seed |")
    print("|---|---|---|")
    for name, one in estimators.items():
        step = 1 if name == ANEW else 0  # of the seed from one checkpoint to the next
        values = np.array(
            [
                [one(images, run.denoiser, 1000 * seed + step * i) for i, run in enumerate(runs)]
                for seed in range(num_seeds)
            ]
        )
        right = ((values[:, :-1] > values[:, 1:]) == (z > 0)).sum(1)
        print(f"| {name} | {right.mean():.1f} | {', '.join(map(str, right))} |")


NUMBERS: dict[str, str] = {
    "bits": "bits/dim",
    "sigmoid": "loss under sigmoid(2)",
    "edm": "loss under EDM's weighting",
    "equispaced": "8 equispaced times",
    "fixed": "4 fixed steps",
}
DISTANCES = {"frechet_distance": "Fréchet distance", "kernel_distance": "kernel distance"}


def quality(paths: Sequence[Path], num_images: int, num_samples: int) -> None:
    table = []
    for path in paths:
        rows = []
        for step in checkpoint.kept(path / "checkpoints"):
            rows.append(measured(path, step, num_images, num_samples))
            print(path.name, step, {k: round(v, 5) for k, v in rows[-1].items()}, flush=True)
        table.append(rows)
    values = {
        name: np.array([[row[name] for row in rows] for rows in table])
        for name in (*NUMBERS, *DISTANCES)
    }
    print(f"\n{len(paths)} trainings, {num_images} test images, {num_samples} samples; Spearman's")
    print("rank correlation and its 95 % interval over checkpoints\n")
    for distance, title in DISTANCES.items():
        print(f"| {title} | within a training | over all | over the second halves |")
        print("|---|---|---|---|")
        for name, text in NUMBERS.items():
            a, b = values[name], values[distance]
            half = a.shape[1] // 2
            cells = [
                with_interval(a, b, within),
                with_interval(a, b, pooled),
                with_interval(a[:, half:], b[:, half:], pooled),
            ]
            print(f"| {text} | {' | '.join(cells)} |")
        print()


def measured(path: Path, step: int, num_images: int, num_samples: int) -> dict[str, float]:
    """Every number of a checkpoint, kept in its run."""
    file = path / "evaluation" / f"numbers-{step}-{num_images}-{num_samples}.json"
    if file.exists():
        found: dict[str, float] = json.loads(files.read(file))
        return found
    run = Run(path, step=step)
    images = Images.of_run(run, num_images)
    with run.autocast():
        result = images.of_seed(0)(run.denoiser, cond=images.labels, batch_size=250)
        equispaced, fixed = (
            as_reported(one, images, run.denoiser, 0) for one in (EQUISPACED, FIXED_STEPS)
        )
    samples = run.evaluate(
        num_images=64, num_samples=num_samples, ode=OdeConfig(num_images=0)
    ).quality
    assert samples is not None
    found = {
        "bits": result.bits_per_dim,
        "sigmoid": result.weighted(weightings.Sigmoid(k=2.0)).mean,
        "edm": result.weighted(weightings.EDM()).mean,
        "equispaced": equispaced,
        "fixed": fixed,
        **{name: samples.samples.mean[name] for name in DISTANCES},
    }
    file.parent.mkdir(exist_ok=True)
    files.write(file, json.dumps(found).encode())
    return found


Correlation = Callable[[np.ndarray, np.ndarray], float]


def within(a: Float[np.ndarray, "r c"], b: Float[np.ndarray, "r c"]) -> float:
    """The mean over the trainings of the correlation in each."""
    return float(np.mean([pooled(*rows) for rows in zip(a, b, strict=True)]))


def pooled(a: np.ndarray, b: np.ndarray) -> float:
    return float(spearmanr(a.ravel(), b.ravel()).statistic)


def with_interval(a: np.ndarray, b: np.ndarray, correlation: Correlation) -> str:
    """A correlation with the percentiles of resampled checkpoints."""
    draw = np.random.default_rng(0)
    columns = draw.integers(a.shape[1], size=(NUM_RESAMPLES, a.shape[1]))
    resampled = [correlation(a[:, some], b[:, some]) for some in columns]
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return f"{correlation(a, b):+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("errors")
    one.add_argument("run", type=Path)
    one.add_argument("--num-images", type=int, default=250)
    one.add_argument("--num-seeds", type=int, default=20)
    one.add_argument("--num-ranking-seeds", type=int, default=3)
    several = commands.add_parser("quality")
    several.add_argument("runs", type=Path, nargs="+")
    several.add_argument("--num-images", type=int, default=1000)
    several.add_argument("--num-samples", type=int, default=1000)
    given = parser.parse_args()
    if given.command == "errors":
        errors(given.run, given.num_images, given.num_seeds, given.num_ranking_seeds)
    else:
        quality(given.runs, given.num_images, given.num_samples)


if __name__ == "__main__":
    main()
