r"""How often a comparison of equal objectives claims a difference, which differences it finds, and
how often intervals of a `Validator` hold the truth.

    python benchmarks/coverage.py [--num-tables 2000] [--seed 0]

A table is a report of 15 objectives, five planned pairs, as of the default ones, and three main
metrics, whose errors are independent. All true means are equal, so that any significant difference,
of a planned pair or from the best objective, is a false claim. An objective that scatters more is
one of planned pairs. The second table is of fewer objectives, in the worst of these cases.

The power is of a difference $\delta$ in units of the standard deviation of one score, if all
objectives scatter alike: the $\delta$ that is found in 80 % of reports. Beside it is that of
Student's paired t-test of each pair by itself, adjusted alike.

The last table is of validations of new data each, by the exact denoiser: the share of 95 %
intervals that hold the truth, and the bias in units of the scatter. The truth is the entropy, or
the mean over all repetitions where data are continuous. A target ends a validation at its error.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from elbos import Validator
from elbos.comparison.statistics import differences
from elbos.theory.oracles import GaussianMixture

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from oracles import quantized

NUM_OBJECTIVES, NUM_SCORES = 15, 3
PLANNED = [(0, 1), (2, 3), (2, 4), (5, 6), (7, 8)]
POWER = 0.8

Errors = Callable[[np.random.Generator, Any], Any]


def normal(factor: float = 1, *objectives: int, num_scores: int = NUM_SCORES) -> Errors:
    """Normal errors, those of some objectives and scores larger by a factor."""

    def errors(rng: np.random.Generator, size: Any) -> Any:
        found = rng.normal(size=size)
        found[:num_scores, list(objectives)] *= factor
        return found

    return errors


def spread(rng: np.random.Generator, size: Any) -> Any:
    """Normal errors of standard deviations from 0.3 to 3, in a random order."""
    return rng.normal(size=size) * rng.permutation(np.geomspace(0.3, 3, size[1]))[:, None]


def correlated(rng: np.random.Generator, size: Any) -> Any:
    """Normal errors that correlate by 0.95 between scores, those of five objectives larger."""
    found = 0.95**0.5 * rng.normal(size=size[1:]) + 0.05**0.5 * rng.normal(size=size)
    found[:, FIVE] *= 10
    return found


FIVE = [0, 2, 5, 7, 9]
CASES: dict[str, Errors] = {
    "all alike": normal(),
    "one scatters 10 times as much": normal(10, 0),
    "one 10 times, in two of the metrics": normal(10, 0, num_scores=2),
    "one 10 times, in one of the metrics": normal(10, 0, num_scores=1),
    "one 30 times": normal(30, 0),
    "three 4 times": normal(4, 0, 2, 5),
    "spread evenly from 0.3 to 3": spread,
    "Student's t, 3 degrees of freedom": lambda rng, size: rng.standard_t(3, size),
    "lognormal": lambda rng, size: rng.lognormal(size=size),
    "five 10 times, metrics that correlate by 0.95": correlated,
    "five 10 times, a single metric": lambda rng, size: normal(10, *FIVE)(rng, (1, *size[1:])),
}

FEWER = (2, 3, 4, 5, 7)
WORST = ("one scatters 10 times as much", "one 10 times, in two of the metrics", "one 30 times")


def false_claims(
    errors: Errors, num_seeds: int, num_tables: int, seed: int, num_objectives: int = NUM_OBJECTIVES
) -> float:
    """The share of reports with any false claim."""
    rng = np.random.default_rng([seed, num_seeds])
    planned = [pair for pair in PLANNED if max(pair) < num_objectives]
    size = NUM_SCORES, num_objectives, num_seeds
    return float(np.mean([_any_claim(errors(rng, size), planned) for _ in range(num_tables)]))


def _any_claim(scores: Any, planned: list[tuple[int, int]]) -> bool:
    return any(
        one.is_significant[one.best(is_lower_better=True)].any()
        or any(one.is_significant[pair] for pair in planned)
        for one in differences(scores, planned)
        if one is not None
    )


def found_differences(num_seeds: int, num_tables: int, seed: int) -> dict[str, float]:
    """The difference that is found with the power, in standard deviations: of planned pairs, of
    others, and of planned pairs by Student's t-test of each by itself.
    """
    rng = np.random.default_rng([seed, num_seeds])
    level = 0.025 / NUM_SCORES / len(PLANNED) / 2
    quantile = float(student.isf(level, num_seeds - 1))
    needed: dict[str, list[Any]] = {"planned": [], "others": [], "alone": []}
    others = [(i, j) for i in range(9, 15) for j in range(i)]
    for _ in range(num_tables):
        scores = rng.normal(size=(NUM_SCORES, NUM_OBJECTIVES, num_seeds))
        for values, one in zip(scores, differences(scores, PLANNED), strict=True):
            assert one is not None
            for name, pairs in (("planned", PLANNED), ("others", others)):
                i, j = np.transpose(pairs)
                needed[name].append(one.half_widths[i, j] - (one.means[i] - one.means[j]))
            apart = np.array([values[i] - values[j] for i, j in PLANNED])
            width = quantile * apart.std(1, ddof=1) / math.sqrt(num_seeds)
            needed["alone"].append(width - apart.mean(1))
    return {
        name: float(np.quantile(np.concatenate(values), POWER)) for name, values in needed.items()
    }


@dataclass(frozen=True)
class Validations:
    """Repeated validations of data that are drawn anew each time."""

    name: str
    data: GaussianMixture
    num_levels: int | None
    num_images: int
    num_evaluations: int
    target_se: float | None = None

    def row(self, num_repeats: int, seed: int) -> str:
        draw = torch.Generator().manual_seed(seed)
        found = [self.validation(one, draw) for one in range(num_repeats)]
        means = np.array([one.bits.mean for one in found])
        truth = means.mean()
        if self.num_levels:
            weights = self.data.weights
            truth = -(weights * weights.log2()).sum().item() / self.data.means.shape[1]
        held = [low < truth < high for low, high in (one.bits.interval for one in found)]
        evaluations = np.mean([one.num_evaluations for one in found]) / self.num_images
        return (
            f"| {self.name} | {self.num_images} | {evaluations:.1f} | {self.target_se or ''} | "
            f"{np.mean(held):.1%} | {(means.mean() - truth) / means.std(ddof=1):+.2f} |"
        )

    def validation(self, seed: int, draw: torch.Generator) -> Any:
        validator = Validator(
            self.data.sample(self.num_images, draw)[0],
            num_levels=self.num_levels,
            num_evaluations=self.num_evaluations,
            seed=seed,
            logsnr_min=-8.0,
            logsnr_max=11.0,
        )
        return validator(self.data, batch_size=4000, target_se=self.target_se)


UNLIKE = GaussianMixture(
    weights=torch.tensor([0.8, 0.2], dtype=torch.float64),
    means=torch.zeros(2, 16, dtype=torch.float64),
    stds=torch.tensor([1.0, 0.05], dtype=torch.float64),
)
PLANAR = quantized(6, 0.2, 0.6)
VALIDATIONS = (
    Validations("two kinds of images of 16 dimensions", UNLIKE, None, 40, 8),
    Validations("points in the plane of 6 values each", PLANAR, 6, 40, 8),
    Validations("the same", PLANAR, 6, 40, 32),
    Validations("the same", PLANAR, 6, 250, 8),
    Validations("the same", PLANAR, 6, 40, 4, target_se=0.25),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--num-tables", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    num, seed = options.num_tables, options.seed
    print("| errors of 15 equal objectives | 3 seeds | 5 seeds |\n|---|---:|---:|")
    for name, errors in CASES.items():
        shares = [false_claims(errors, num_seeds, num, seed) for num_seeds in (3, 5)]
        print(f"| {name} | {' | '.join(f'{share:.1%}' for share in shares)} |", flush=True)
    print("\n| objectives, errors | 2 seeds | 3 seeds | 5 seeds |\n|---|---:|---:|---:|")
    for num_objectives in FEWER:
        for name in WORST:
            shares = [false_claims(CASES[name], n, num, seed, num_objectives) for n in (2, 3, 5)]
            line = " | ".join(f"{share:.1%}" for share in shares)
            print(f"| {num_objectives}, {name} | {line} |", flush=True)
    print("\n| seeds | planned pair | another pair | planned pair, alone |\n|---|---:|---:|---:|")
    for num_seeds in (2, 3, 4, 5, 10):
        found = found_differences(num_seeds, max(num // 4, 1), seed)
        print(f"| {num_seeds} | {' | '.join(f'{value:.1f}' for value in found.values())} |")
    print("\n| data | number | evaluations of each | target | covered | bias |")
    print("|---|---:|---:|---:|---:|---:|")
    for validations in VALIDATIONS:
        print(validations.row(num, seed), flush=True)


if __name__ == "__main__":
    main()
