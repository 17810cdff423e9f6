r"""The floating-point rate of evaluating a run, against the machine's peak.

    python benchmarks/evaluation.py RUN [--rounds 7]

Everything is timed in one run, in turns, and reported as the median over the rounds:

- the peak: the best median over several sizes of a square bfloat16 matrix product;
- sampling: a batch of 250 samples, 16 evaluations each, from noise to levels of pixels;
- likelihood: a batch of 250 test images at 4 noise levels each, with their prior and decoder.

The ODE likelihood is not here: it is measured in float32, on a hundred images.

FLOPs are those of the network's convolutions and matrix products as torch counts them, 2 per
multiply-add; all else costs time and counts nothing.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from timing import Work, cpu_model, measure, peaks
from torch.utils.flop_counter import FlopCounterMode

from elbos.likelihood import decoder_loss, losses_at, prior_loss, stratified_times
from elbos.training.data import to_levels, to_unit
from elbos.training.sampling import sample
from elbos.training.trained import TrainedRun

BATCH_SIZE = 250


def counted(name: str, run: Callable[[], object]) -> Work:
    """A piece of work with its FLOPs."""
    with FlopCounterMode(display=False) as counter:
        run()
    return Work(name=name, run=run, num_flops=counter.get_total_flops())


def works(run: TrainedRun) -> list[Work]:
    schedule, num_levels = run.config.schedule, run.dataset.num_levels
    test = run.dataset.test
    x = to_unit(test.x[:BATCH_SIZE], num_levels)
    labels = test.labels[:BATCH_SIZE] if run.has_labels and test.labels is not None else None
    sampling = replace(run.config.sampling, num_steps=16)

    def sampled() -> None:
        (z,) = sample(
            run.denoiser,
            sampling,
            schedule,
            num=BATCH_SIZE,
            shape=run.dataset.shape,
            seed=0,
            device=run.device,
            cond=labels,
        )
        to_levels(z, num_levels)

    def measured() -> None:
        with torch.no_grad():
            losses_at(run.denoiser, x, schedule.logsnr(stratified_times(len(x), 4)), cond=labels)
            prior_loss(x, schedule.logsnr_min)
            decoder_loss(x, schedule.logsnr_max, num_levels)

    return [counted("sampling", sampled), counted("likelihood", measured)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, of which the median")
    arguments = parser.parse_args()
    run = TrainedRun.load(arguments.run)
    with run.autocast():
        everything = [*peaks(), *works(run)]
        seconds = measure(everything, arguments.rounds)
    rates = [work.num_flops / second for work, second in zip(everything, seconds, strict=True)]
    peak = max(rates[: len(peaks())])
    print(f"{cpu_model()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{run.config.data!r}, {run.config.network!r}; median of {arguments.rounds} rounds\n")
    print(f"{'':20}{'ms':>8}{'GFLOP/s':>9}{'of peak':>9}")
    for work, second, rate in zip(everything, seconds, rates, strict=True):
        print(f"{work.name:20}{1e3 * second:8.0f}{rate / 1e9:9.0f}{rate / peak:9.2f}")


if __name__ == "__main__":
    main()
