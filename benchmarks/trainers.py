r"""Trainers' own sampling and weighting functions, executed beside what the adapters read.

    python benchmarks/trainers.py FOLDER [--only kohya] [--num-samples 4000]

`FOLDER` holds a snapshot of each trainer's source, in a folder of its adapter's name. Of each file
only imports, functions, classes and constants are run, so that a trainer's dependencies need not be
there (foreign.py); they are foreign code, to be read before. A case is one set of settings, of
models and flags that override each other (trainer_cases.py, framework_cases.py).

The trainer's function draws noise levels and weighs them; the adapter gives a distribution and a
coefficient for the same settings. Printed for each trainer is the largest difference of all cases,
of the cumulative distribution of log-SNR, as a multiple of $n^{-1/2}$ (1.95 is exceeded by chance
in one case of 1,000), and of the coefficient: the standard deviation of the log of the ratio over
the samples (`audit.matching.distance`).
"""

import argparse
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import framework_cases
import numpy as np
import torch
import trainer_cases
from foreign import Draws

from elbos.adapters.trainers import TRAINERS, Settings
from elbos.audit import DeclaredLoss

SOURCES = trainer_cases.SOURCES | framework_cases.SOURCES


def difference(trainer: str, source: Any, draws: Draws) -> tuple[float, float]:
    """Return the differences of the noise levels, in units of $n^{-1/2}$, and of the coefficient.

    Distributions are compared between the levels of a table, or at 999 quantiles of the samples.
    """
    loss = TRAINERS[trainer].loss(Settings(source))
    levels = np.sort(draws.logsnr.double().numpy())
    first = draws.logsnr[: len(draws.coefficient)].double()
    if isinstance(loss, DeclaredLoss):
        at = np.unique(np.quantile(levels[np.isfinite(levels)], np.arange(1, 1000) / 1000))
        ours = 1 - loss.schedule.time(torch.from_numpy(at)).numpy()
        coefficient = loss.coefficient(first)
    else:
        order = loss.logsnr.argsort()
        table, p = loss.logsnr[order], loss.probability[order].cumsum(0).numpy()
        is_gap = (table.diff() > 1e-4).numpy()
        middle = ((table[1:] + table[:-1]) / 2).clamp(-1e9, 1e9)  # the ends may be infinite
        at, ours = middle.numpy()[is_gap], p[:-1][is_gap]
        nearest = (torch.nan_to_num(table)[None] - torch.nan_to_num(first)[:, None]).abs().argmin(1)
        coefficient = loss.coefficient[order][nearest]
    theirs = np.searchsorted(levels, at, side="right") / len(levels)
    is_weighted = (coefficient > 0) & (draws.coefficient > 0) & first.isfinite()
    log_ratio = (draws.coefficient.double() / coefficient)[is_weighted].log()
    off = log_ratio.std(correction=0).item() if len(log_ratio) else math.inf
    return float(np.abs(theirs - ours).max() * len(levels) ** 0.5), off


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", choices=SOURCES)
    parser.add_argument("--num-samples", type=int, default=4000)
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # of the trainers
    warnings.simplefilter("ignore")
    print(
        "| trainer | version read | cases | levels, n^-1/2 | coefficient |\n|---|---|---|---|---|"
    )
    for trainer in [args.only] if args.only else SOURCES:
        torch.manual_seed(0)
        cases = SOURCES[trainer](args.folder / trainer, args.num_samples)
        found = [difference(trainer, source, draws) for source, draws in cases]
        levels, off = (max(column) for column in zip(*found, strict=True))
        version = TRAINERS[trainer].version
        print(f"| {trainer} | {version} | {len(found)} | {levels:.2f} | {off:.2%} |", flush=True)


if __name__ == "__main__":
    main()
