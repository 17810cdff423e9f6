"""How exact the audit is, and how long it takes.

Accuracy: every recipe of `elbos.recipes`, as people write it (the losses of
tests/audit/training_losses.py), is audited with 20,000 samples of 3x8x8 numbers. The error of the
weighting, up to a constant, is taken over the noise levels of the central 98 % of the samples; the
true weighting is the recipe's closed form, in the limit of many steps. "wrong" counts a prediction
type or nearest weighting that is not the recipe's.

Time: EDM's loss, audited with data of three shapes, against the loss itself: the same number of
samples in the same batches, forward and backward, with a network that costs nothing. In turns, the
median of several rounds.

    python benchmarks/audit.py [--seeds 0 1 2] [--rounds 5] [--tiny]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/audit"))
from audit_errors import relative_errors
from training_losses import CASES, Case, edm

from elbos import audit
from elbos.codec import code
from elbos.recipes import RECIPES

NUM_SAMPLES = 20_000
SHAPES = {(3, 8, 8): 256, (3, 32, 32): 64, (4, 64, 64): 16}  # and samples of a batch


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="seconds, to see that it runs")
    arguments = parser.parse_args()
    cases, num_samples = (CASES[:1], 1_000) if arguments.tiny else (CASES, NUM_SAMPLES)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    accuracy(cases, arguments.seeds, num_samples)
    times(arguments.rounds, num_samples)


def data(shape: tuple[int, ...], num: int) -> Tensor:
    return 2 * torch.rand(num, *shape, generator=torch.Generator().manual_seed(1)) - 1


def accuracy(cases: list[Case], seeds: list[int], num_samples: int) -> None:
    """The worst of the seeds, for each loss."""
    print("| loss | p | median error | p95 | wrong | seconds |\n|---|---|---|---|---|---|")
    rows = []
    for case in cases:
        rows.append([one(case, seed, num_samples) for seed in seeds])
        kinds, medians, tails, wrongs, seconds = zip(*rows[-1], strict=True)
        figures = f"{max(medians):.3%} | {max(tails):.3%} | {sum(wrongs)} of {len(seeds)}"
        kind = ", ".join(sorted(set(kinds)))
        typical = statistics.median(seconds)
        print(f"| {case.loss.__name__} | {kind} | {figures} | {typical:.2f} |", flush=True)
    everything = [result for row in rows for result in row]
    _, medians, tails, wrongs, seconds = zip(*everything, strict=True)
    print(
        f"\n{len(cases)} losses, {len(seeds)} seeds: worst median {max(medians):.2%}, worst p95 "
        f"{max(tails):.2%}, {sum(wrongs)} wrong; {statistics.median(seconds):.2f} s each in the "
        f"median, {max(seconds):.2f} s at most"
    )


def one(case: Case, seed: int, num_samples: int) -> tuple[str, float, float, bool, float]:
    start = time.perf_counter()
    result = audit.probe(case.loss, data((3, 8, 8), 256), num_samples, seed)
    seconds = time.perf_counter() - start
    truth = RECIPES[case.recipe].closed_form
    errors = relative_errors(result, case.weighting or truth).abs()
    is_right = result.parameterization == case.parameterization
    is_right = is_right and result.closest[0].name == code(truth)
    return (
        result.density_kind,
        errors.median().item(),
        errors.quantile(0.95).item(),
        not is_right,
        seconds,
    )


class Costless(nn.Module):
    """A network that scales its input."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, z: Tensor, *_conditions: Tensor) -> Tensor:
        return self.scale * z


def trained(x: Tensor, num_samples: int) -> None:
    """The loss on as many samples as the audit draws, with gradients."""
    network = Costless()
    for _ in range(-(-num_samples // len(x))):
        edm(network, x).mean().backward()


def audited_loss(x: Tensor, num_samples: int) -> None:
    audit.probe(edm, x, num_samples)


def times(rounds: int, num_samples: int) -> None:
    """Seconds, and the ratio of the audit's to the loss's own."""
    print("\n| data | audit, s | the loss itself, s | ratio |\n|---|---|---|---|")
    for shape, num in SHAPES.items():
        audited, alone = (
            partial(function, data(shape, num), num_samples) for function in (audited_loss, trained)
        )
        pairs = [(seconds_of(audited), seconds_of(alone)) for _ in range(rounds)]
        audits, losses = zip(*pairs, strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        print(
            f"| {'x'.join(map(str, shape))} | {statistics.median(audits):.2f} | "
            f"{statistics.median(losses):.2f} | {ratio:.1f} |"
        )


def seconds_of(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
