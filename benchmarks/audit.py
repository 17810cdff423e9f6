"""How exact the audit is, how often its verdicts are false, and how long it takes.

Accuracy: audits with 20,000 samples of 3x8x8 numbers, of four classes of losses: every recipe of
`elbos.recipes` as people write it (tests/audit/training_losses.py); losses whose levels are drawn
in every way (level_losses.py); on latents that are sampled in the loss (latent_losses.py); and
mixtures drawn at random, one for each seed and number. The error of the weighting, up to a
constant, is taken over the noise levels of the central 98 % of the samples; the true weighting is a
closed form, in the limit of many steps.

A verdict is false if it is "monotone" and the true weighting rises by more than 5 % on the inner
99 % of the samples, or if an interval on which w is said to rise is one on which the true one
falls. "covered" is the share
of the inner levels at which the error is below two standard errors, of losses whose weighting is
estimated, not read off.

Time: EDM's loss, audited with data of three shapes, against the loss itself: the same number of
samples in the same batches, forward and backward, with a network that costs nothing. In turns, the
median of several rounds.

"held-out" are losses of kinds that an earlier audit took for others (held_out_losses.py): their
answer is a weighting, or that there is none.

    python benchmarks/audit.py [--seeds 0 1 2] [--drawn 100] [--jobs 2] [--rounds 5] [--tiny]
        [--kinds levels latents drawn recipe held-out time]
"""

import argparse
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/audit"))
from audit_errors import central
from held_out_losses import HELD_OUT
from latent_losses import LOSSES as LATENT_LOSSES
from latent_losses import sampled
from level_losses import CASES as LEVEL_CASES
from level_losses import drawn_case
from training_losses import CASES, edm

from elbos import audit
from elbos.theory.extrema import rises
from elbos.theory.names import code
from elbos.theory.recipes import RECIPES

NUM_SAMPLES = 20_000
SHAPES = {(3, 8, 8): 256, (3, 32, 32): 64, (4, 64, 64): 16}  # and samples of a batch
KINDS = ("levels", "latents", "drawn", "recipe", "held-out")
MIN_ERROR = 1e-3  # of a weighting that counts as estimated


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--kinds", choices=(*KINDS, "time"), nargs="+", default=[*KINDS, "time"])
    parser.add_argument("--drawn", type=int, default=100, help="mixtures drawn at random, a seed")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="seconds, to see that it runs")
    arguments = parser.parse_args()
    num_samples = 1_000 if arguments.tiny else NUM_SAMPLES
    keys = {
        "levels": list(LEVEL_CASES),
        "latents": range(len(LATENT_LOSSES)),
        "drawn": range(arguments.drawn),
        "recipe": range(len(CASES)),
        "held-out": list(HELD_OUT),
    }
    few = slice(1 if arguments.tiny else None)
    names = [
        f"{kind}:{key}" for kind in KINDS if kind in arguments.kinds for key in keys[kind][few]
    ]
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}\n")
    accuracy(names, arguments.seeds, num_samples, arguments.jobs)
    if "time" in arguments.kinds:
        times(list(SHAPES)[few], arguments.rounds, num_samples)


def data(shape: tuple[int, ...], num: int) -> Tensor:
    return 2 * torch.rand(num, *shape, generator=torch.Generator().manual_seed(1)) - 1


@dataclass(frozen=True)
class Outcome:
    """One audit beside the truth."""

    name: str
    verdict: str
    median: float | None  # None where there is no weighting
    p95: float | None
    covered: float | None  # None where the weighting is read off
    is_false_monotone: bool
    is_false_rise: bool
    is_misnamed: bool
    seconds: float  # of the processor


def accuracy(names: list[str], seeds: list[int], num_samples: int, jobs: int) -> None:
    """One row for each loss, the worst of the seeds; classes together below."""
    tasks = [(name, seed, num_samples) for name in names for seed in seeds]
    if not tasks:
        return
    rows: dict[str, list[Outcome]] = defaultdict(list)
    print("| loss | verdicts | median error | p95 | covered | s |\n|---|---|---|---|---|---|")
    with ProcessPoolExecutor(jobs) as executor:
        for outcome in executor.map(one, *zip(*tasks, strict=True)):
            rows[outcome.name].append(outcome)
            if len(rows[outcome.name]) == len(seeds):
                print(row(outcome.name, rows[outcome.name]), flush=True)
    print()
    for kind in KINDS:
        some = [one for name, row in rows.items() if name.startswith(kind) for one in row]
        if not some:
            continue
        print(row(f"{kind}: {len(some)} audits", some))
        monotone, rise = (
            sum(o.is_false_monotone for o in some),
            sum(o.is_false_rise for o in some),
        )
        misnamed = sum(o.is_misnamed for o in some)
        print(f"  false monotone {monotone}, false rises {rise}, misnamed or unseen {misnamed}")


def row(name: str, outcomes: list[Outcome]) -> str:
    counts = {verdict: [o.verdict for o in outcomes].count(verdict) for verdict in VERDICTS}
    verdicts = ", ".join(f"{num} {verdict}" for verdict, num in counts.items() if num)
    covered = [o.covered for o in outcomes if o.covered is not None]
    cover = f"{statistics.mean(covered):.1%}" if covered else "-"
    errors = [(o.median, o.p95) for o in outcomes if o.median is not None and o.p95 is not None]
    worst = " | ".join(f"{max(column):.2%}" for column in zip(*errors, strict=True)) or "- | -"
    seconds = statistics.median(o.seconds for o in outcomes)
    return f"| {name} | {verdicts} | {worst} | {cover} | {seconds:.1f} |"


VERDICTS = ("monotone", "not monotone", "undecided", "no weighting")


def one(name: str, seed: int, num_samples: int) -> Outcome:
    """An audit of a loss, and what is wrong with it."""
    torch.set_num_threads(1)
    kind, key = name.split(":")
    is_right = lambda result: True  # noqa: E731
    x = data((3, 8, 8), 256)
    if kind == "recipe":
        case = CASES[int(key)]
        loss, weighting = case.loss, RECIPES[case.recipe].weighting
        name = f"recipe: {loss.__name__}"
        is_right = lambda r: (  # noqa: E731
            r.parameterization == case.parameterization and r.closest[0].name == code(weighting)
        )
    elif kind == "latents":
        function, scale, prediction, _, weighting = LATENT_LOSSES[int(key)]
        loss, name = sampled(function, scale), f"latents: {function.__name__}"
        is_right = lambda r: r.parameterization == prediction  # noqa: E731
    elif kind == "held-out":
        held = HELD_OUT[key]
        loss, weighting, x = held.loss, held.weighting, data(held.shape, 64)
        x = held.low + (1 - held.low) * (x + 1) / 2
        is_right = lambda r: (  # noqa: E731
            held.parameterization in (None, r.parameterization)
            and held.kind in (None, *(found.kind for found in r.diagnostics))
            and r.is_weighted_elbo is (held.weighting is not None)
        )
    else:
        drawn = LEVEL_CASES[key] if kind == "levels" else drawn_case(1000 * seed + int(key))
        loss, weighting = drawn.loss, drawn.weighting
    start = time.process_time()
    result = audit.probe(loss, x, num_samples, seed)
    seconds = time.process_time() - start
    if weighting is None:
        is_false = result.verdict == "monotone"
        is_rise = result.verdict == "not monotone"
        wrong = not is_right(result)
        return Outcome(name, result.verdict, None, None, None, is_false, is_rise, wrong, seconds)
    true = torch.as_tensor(weighting(result.logsnr)).log().numpy()
    kept, inner = central(result).numpy(), central(result, 0.99).numpy()
    off = (result.weight.log().numpy() - true)[kept]
    error, stated = np.expm1(off - np.median(off)), result.weight_error.numpy()[kept]
    is_estimated = np.median(stated) > MIN_ERROR
    true_rises = rises(true[inner], lambda i, others: np.array(0.05))
    at = np.interp(np.array(result.rising).reshape(-1, 2), result.logsnr.numpy(), true)
    return Outcome(
        name,
        result.verdict,
        float(np.median(np.abs(error))),
        float(np.quantile(np.abs(error), 0.95)),
        float((np.abs(off - np.median(off)) < 2 * stated).mean()) if is_estimated else None,
        result.verdict == "monotone" and bool(true_rises),
        bool((at[:, 1] < at[:, 0] + 1e-4).any()),
        not is_right(result),
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


def times(shapes: list[tuple[int, ...]], rounds: int, num_samples: int) -> None:
    """Seconds, and the ratio of the audit's to the loss's own."""
    print("\n| data | audit, s | the loss itself, s | ratio |\n|---|---|---|---|")
    for shape in shapes:
        audited, alone = (
            partial(function, data(shape, SHAPES[shape]), num_samples)
            for function in (audited_loss, trained)
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
