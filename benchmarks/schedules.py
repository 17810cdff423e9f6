r"""Images and seconds to a given quality under several noise schedules and one objective.

    python benchmarks/schedules.py [--workers 2]    # the same command goes on
    python docs/results/schedules/make.py           # the tables and the picture

A network is trained on digits to predict v under the weighting sigmoid(2 - log-SNR). The loss is
divided by the density $p(\lambda)$ of the noise levels, so that a schedule changes the variance of
the gradient and nothing else. All are truncated to the same log-SNRs, and draw at the same
low-discrepancy times.

InfoNoise (Raya et al., 2026) draws noise levels where noisy data lose information fastest. By the
I-MMSE relation the conditional entropy of clean data changes with log-SNR at the rate of the
unweighted loss, and the rate is gated at the clean end, at $\tilde\sigma = e^{-\lambda/2}$:

$$p(\lambda) \propto g(\lambda)\,\tfrac12\,\mathbb E\|\hat\epsilon - \epsilon\|^2, \qquad
  g = \frac{\tilde\sigma^n}{\tilde\sigma^n + c^n} = \mathrm{sigmoid}\Bigl(-n \ln c
  - \frac n2 \lambda\Bigr).$$

`Adaptive` follows $w$ times that loss: both follow the loss, under another weight of the levels.

At each checkpoint the averaged weights are measured: bits/dim and weighted loss of the test images,
on the same noise for all, and the kernel distance of samples to the training images. The protocol
is docs/results/schedules/README.md#protocol.

References:
    Raya et al. (2026), https://arxiv.org/abs/2602.18647
"""

import argparse
import copy
import itertools
import json
import math
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from elbos import Denoiser, Validator
from elbos.evaluation.features import Lite0, extract
from elbos.evaluation.metrics import KERNEL_DISTANCE, FeatureSets
from elbos.evaluation.reference import reference
from elbos.models.samplers import Heun
from elbos.theory.adaptive import Adaptive
from elbos.theory.schedules import Cosine, Linear, Normal, Schedule
from elbos.training.checkpoint import State
from elbos.training.config import Output
from elbos.training.data import to_unit
from elbos.training.data.dataset import Dataset, to_levels
from elbos.training.loop import train
from elbos.training.presets import PRESETS
from elbos.training.sampling import Sampling, sample

PRESET = PRESETS["digits"]
PRESET_RATE, RATES = PRESET.optimizer.learning_rate, (1e-3, 2e-3, 4e-3)
PILOT_SEEDS, SEEDS = (0, 1), (20, 21, 22, 23, 24)
NUM_CHECKPOINTS = 8
GATE_EXPONENT, GATE_SIGMA = 3, 0.15  # n, and c for images, as reimplementations have them
SCORES = Path(__file__).parents[1] / "docs" / "results" / "schedules" / "scores.jsonl"


class InfoNoise(Adaptive):
    """Noise schedule that follows the gated rate of conditional entropy."""

    def update(self, logsnr: Float[Tensor, " b"], loss: Float[Tensor, " b"]) -> None:
        """Update the density by losses of the preset's weighting, which is divided out."""
        gate = torch.sigmoid(-GATE_EXPONENT * (math.log(GATE_SIGMA) + logsnr / 2))
        super().update(logsnr, loss * gate / PRESET.weighting(logsnr))


ENDS = {name: getattr(PRESET.schedule, name) for name in ("logsnr_min", "logsnr_max")}
SCHEDULES: dict[str, Schedule] = {
    "cosine": Cosine(**ENDS),
    "adaptive": Adaptive(**ENDS),
    "InfoNoise": InfoNoise(**ENDS),
    "EDM": Normal.edm(**ENDS),
    "logit-normal": Normal.logit_normal(**ENDS),
    "uniform": Linear(**ENDS),
}


@dataclass(frozen=True)
class Job:
    """A run, which its fields identify."""

    schedule: str
    learning_rate: float
    seed: int
    num_images: int
    num_samples: int
    num_checkpoints: int


def measured(job: Job) -> dict[str, object]:
    """Train and measure at each checkpoint; seconds are of one core, of training steps alone."""
    torch.set_num_threads(1)
    config = replace(
        PRESET,
        network=replace(PRESET.network, channels=(32, 64)),
        optimizer=replace(PRESET.optimizer, learning_rate=job.learning_rate),
        num_images=job.num_images,
        precision="fp32",
        seed=job.seed,
    )
    output = Output(log_every=10**9, validate_every=10**9, save_minutes=1e9)
    data, config = config.data.load(), replace(config, output=output)
    ends = np.linspace(0, config.num_steps, job.num_checkpoints + 1).round()[1:]
    initial, states, curve = State.initial, [], []
    seconds, since = 0.0, time.process_time()

    def with_schedule(*arguments: Any) -> State:  # a config holds the library's classes only
        states.append(replace(initial(*arguments), schedule=SCHEDULES[job.schedule]))
        return states[0]

    def on_images(num_images: int) -> None:
        nonlocal seconds, since
        seconds += time.process_time() - since
        if num_images // config.batch_size in ends:
            denoiser = Denoiser(states[0].ema.network, config.parameterization)
            results = scores(denoiser, data, job.num_samples)
            curve.append({"images": num_images, "seconds": seconds, **results})
        since = time.process_time()

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(State, "initial", with_schedule),
        mock.patch.dict(SCHEDULES, copy.deepcopy(SCHEDULES)),
    ):
        train(config, folder, on_images, data=data)
    curves = {name: [point[name] for point in curve] for name in curve[0]}
    return {**vars(job), **curves}


def scores(denoiser: Denoiser, data: Dataset, num_samples: int) -> dict[str, float]:
    """Return bound and weighted loss of the test images, and the kernel distance of samples."""
    test, num_levels, cpu = data.test, data.num_levels, torch.device("cpu")
    validator = Validator(to_unit(test.x[:], num_levels), num_levels=num_levels, **ENDS)
    validation = validator(denoiser, cond=test.labels, batch_size=len(validator))
    sampling, labels = Sampling(sampler=Heun(), num_steps=18), torch.arange(num_samples) % 10
    how = {"num": num_samples, "shape": data.shape, "seed": 0, "device": cpu, "cond": labels}
    x = torch.cat([*sample(denoiser, sampling, Linear(**ENDS), **how)])
    extractor = Lite0().load(cpu)
    real = reference(data, "train+val", extractor)
    features = extract(extractor, to_levels(x, num_levels), num_levels=num_levels)
    sets = FeatureSets(features, real, extractor.is_inception)
    return {
        "bits_per_dim": validation.bits_per_dim,
        "weighted_loss": validation.weighted(PRESET.weighting).mean,
        "kernel_distance": KERNEL_DISTANCE.compute(sets).value,
    }


def stored(file: Path) -> dict[Job, dict[str, list[float]]]:
    """Return the curves of all finished runs."""
    names = [field.name for field in fields(Job)]
    lines = map(json.loads, file.read_text().splitlines() if file.exists() else ())
    return {Job(**{name: line[name] for name in names}): line for line in lines}


def tuned(file: Path, schedule: str) -> float:
    """Return the learning rate whose bound, a mean over the pilot's seeds, is lowest at the end."""
    ends: dict[float, list[float]] = {}
    for job, curve in stored(file).items():
        if job.schedule == schedule and job.num_checkpoints == 1:
            ends.setdefault(job.learning_rate, []).append(curve["bits_per_dim"][-1])
    return min(ends, key=lambda rate: np.mean(ends[rate]))


def finish(file: Path, jobs: Iterable[Job], workers: int) -> None:
    """Run what is not stored yet, and store each run as it ends."""
    known = stored(file)
    missing = [job for job in dict.fromkeys(jobs) if job not in known]
    for i, line in enumerate(results(missing, workers), 1):
        with file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        print(f"{i} of {len(missing)}: {json.dumps(line)}", flush=True)


def results(jobs: Sequence[Job], workers: int) -> Iterator[dict[str, object]]:
    """Yield what the runs measure, as they end."""
    if workers == 1:
        yield from map(measured, jobs)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(measured, job) for job in jobs]):
            yield future.result()


def main() -> None:
    """Run the pilot, and then each schedule at the preset's learning rate and at its own best."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=SCORES)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--schedules", nargs="+", choices=SCHEDULES, default=[*SCHEDULES])
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--pilot-seeds", type=int, nargs="+", default=PILOT_SEEDS)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--num-images", type=int, default=40_000)
    parser.add_argument("--num-samples", type=int, default=500)
    given = parser.parse_args()
    size = given.num_images, given.num_samples
    pilot = itertools.product(given.schedules, given.rates, given.pilot_seeds)
    finish(given.out, [Job(*which, *size, 1) for which in pilot], given.workers)
    rates = {name: (PRESET_RATE, tuned(given.out, name)) for name in given.schedules}
    runs = [(name, rate, seed) for seed in given.seeds for name in rates for rate in rates[name]]
    finish(given.out, [Job(*which, *size, NUM_CHECKPOINTS) for which in runs], given.workers)


if __name__ == "__main__":
    main()
