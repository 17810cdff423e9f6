r"""The floating-point rate of evaluating a run, against the machine's peak.

    python benchmarks/evaluation.py RUN [--rounds 7] [--tiny]

Everything is timed in one run, in turns, and reported as the median over the rounds:

- the peak: the fastest product of two square matrices, of several sizes, in bfloat16 or float32;
- sampling: a batch of 250 samples, 16 evaluations each, from noise to levels of pixels;
- likelihood: a batch of 250 test images at 4 noise levels each, with their prior and decoder, by
  `elbos.Validator`; and as many forward passes of the network alone, at one noise level.

The ODE likelihood is not here: it is measured in float32, on a hundred images.

FLOPs are those of the network's convolutions and matrix products as torch counts them, 2 per
multiply-add; all else costs time and counts nothing. Zeros at the borders of a convolution count,
though a library may leave them out: 9 % of a 3x3 convolution on 14x14 pixels, 18 % on 7x7. So a
rate may come out above the peak.
"""

import argparse
import statistics
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from timing import Work, cpu_model, measure, peak, peaks
from torch.utils.flop_counter import FlopCounterMode

from elbos.runs.run import Run
from elbos.training.data import to_unit
from elbos.training.data.dataset import to_levels
from elbos.training.sampling import sample
from elbos.validation import Validator
from elbos.validation.diagnostics import TimeIgnoredWarning
from elbos.validation.validator import ROUND_TIMES

BATCH_SIZE = 250
PASSES = "forward passes"


def counted(name: str, run: Callable[[], object]) -> Work:
    """A piece of work with its FLOPs."""
    with FlopCounterMode(display=False) as counter:
        run()
    return Work(name=name, run=run, num_flops=counter.get_total_flops())


def works(run: Run, batch_size: int) -> list[Work]:
    schedule, num_levels = run.config.schedule, run.dataset.num_levels
    test = run.dataset.test
    x = to_unit(test.x[:batch_size], num_levels)
    labels = test.labels[:batch_size] if run.has_labels and test.labels is not None else None
    sampling = replace(run.config.sampling, num_steps=16)

    def sampled() -> None:
        (z,) = sample(
            run.denoiser,
            sampling,
            schedule,
            num=batch_size,
            shape=run.dataset.shape,
            seed=0,
            device=run.device,
            cond=labels,
        )
        to_levels(z, num_levels)

    validator = Validator(
        x,
        num_levels=num_levels,
        logsnr_min=schedule.logsnr_min,
        logsnr_max=schedule.logsnr_max,
        num_evaluations=ROUND_TIMES,
    )

    def measured() -> None:
        warnings.simplefilter("ignore", TimeIgnoredWarning)  # speed is that of an untrained network
        validator(run.denoiser, cond=labels, batch_size=batch_size)

    z, logsnr = torch.randn_like(x), torch.zeros(len(x))

    def passed() -> None:
        with torch.no_grad():
            for _ in range(ROUND_TIMES):
                run.network(z, logsnr, labels)

    return [counted("sampling", sampled), counted("likelihood", measured), counted(PASSES, passed)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, of which the median")
    parser.add_argument("--tiny", action="store_true", help="seconds, to see that it runs")
    arguments = parser.parse_args()
    run = Run(arguments.run)
    matmuls = peaks(arguments.tiny)
    with run.autocast():
        measured = works(run, 2 if arguments.tiny else BATCH_SIZE)
        times = measure([*matmuls, *measured], arguments.rounds)
    best = peak(times[: len(matmuls)])
    print(f"{cpu_model()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{run.config.data!r}, {run.config.network!r}, {run.config.precision}")
    print(f"median of {arguments.rounds} rounds; peak: {best.work.name}\n")
    print(f"{'':20}{'ms':>8}{'GFLOP/s':>9}{'of peak':>9}")
    for timed in times:
        share = timed.rate / best.fastest_rate
        print(f"{timed.work.name:20}{1e3 * timed.median:8.0f}{timed.rate / 1e9:9.0f}{share:9.2f}")
    *_, likelihood, passes = (timed.seconds for timed in times)
    ratio = statistics.median(a / b for a, b in zip(likelihood, passes, strict=True))
    print(f"\nlikelihood: {ratio:.3f} times as many forward passes of the network")


if __name__ == "__main__":
    main()
