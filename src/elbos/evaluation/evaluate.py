r"""Measure a trained run: its likelihood, what it learned at every noise level, and its samples.

The numbers come with their protocol: how the data were decoded, between which noise levels, with
how many evaluations, on which images, from which weights. Everything is measured batch by batch
into the run's `evaluation` folder, so that an interrupted evaluation goes on where it was.
"""

import math
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Annotated, Any, Literal

import torch
import tyro
from jaxtyping import Float, Int64
from torch import Tensor

from elbos.checks import require_finite, require_positive
from elbos.evaluation.likelihood import (
    ROUND_TIMES,
    Condition,
    Measured,
    conditions,
    measure,
    num_pilot_times,
)
from elbos.evaluation.ode import Ode, measure_ode
from elbos.evaluation.samples import Judge, Quality, draw_set, measure_quality
from elbos.evaluation.stores import run_store
from elbos.evaluation.sweep import sweep
from elbos.evaluation.theorem import check
from elbos.likelihood import Estimate, warn_if_unresolved
from elbos.likelihood.measurements import NUM_BINS
from elbos.progress import Start
from elbos.training.data import Split, Toy, to_unit
from elbos.training.pictures import png
from elbos.training.randomness import generator
from elbos.training.sampling import Sampling
from elbos.training.state import require_guidable
from elbos.training.trained import TrainedRun

PER_BIT = math.log(2)
NUM_SHOWN = 100


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured."""

    split: Literal["test", "val", "train"] = "test"
    """Which images."""

    num_images: int | None = None
    """How many of them, drawn once and for all; at least 2. Default: all."""

    num_rounds: int = 2
    """Rounds of 4 network evaluations per image, at least 2: they show how precise the bound is."""

    target_se: float | None = None
    """Go on until the standard error of the bound, in bits/dim, is this; or as near as the images
    allow, whose own scatter is a floor."""

    num_pilot_images: int = 500
    """Images in the first pass, of 32 evaluations each, which finds the levels that matter. Fewer
    than 38 images have more evaluations each."""

    seed: int = 0
    """Seed of noise and noise levels, and of the first set of samples."""

    ode: Ode = field(default_factory=Ode)
    quality: Annotated[Quality, tyro.conf.arg(name="")] = field(default_factory=Quality)

    def __post_init__(self) -> None:
        require_finite(self)
        if self.target_se is not None:
            require_positive(target_se=self.target_se)
        for name in ("num_images", "num_rounds", "num_pilot_images"):
            num = getattr(self, name)
            if num is not None and num < 2:
                raise ValueError(f"{name} is {num}: give at least 2, or leave it out.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: give a whole number from 0.")


def evaluate(
    run: TrainedRun, evaluation: Evaluation, sampling: Sampling, start: Start
) -> dict[str, Any]:
    """Measure a run; the result is what eval.json holds.

    Args:
        run: The run.
        evaluation: What to measure.
        sampling: How to draw its samples.
        start: Told of each piece of work.

    Raises:
        ValueError: If the split has fewer images than asked for, or than 2, a loss is not finite,
            or the network cannot be guided as `sampling` asks.
    """
    require_guidable(run.config, run.data, sampling)
    warn_if_unresolved(run.config.schedule.logsnr_max, run.data.num_levels)
    sampling.logsnrs(run.config.schedule)  # raises if there are none
    rows = chosen_images(run, evaluation)
    judge = _judge(run, evaluation.quality, start)  # first: its files may be missing
    results, num_evaluations = {}, 0
    for condition in conditions(run, getattr(run.dataset, evaluation.split), rows):
        measured = measure_condition(run, condition, evaluation, start)
        num_evaluations += measured.num_evaluations
        results[condition.name] = {
            **summary(measured, evaluation.target_se),
            **_exact(run, condition),
            **by_level(measured),
            "weightings": check(measured, run.config.weighting),
            "ode": _ode(run, condition, measured, evaluation, start),
        }
    return {
        "run": str(run.directory.path),
        "step": run.step,
        "images_seen": run.step * run.config.batch_size,
        "trained": trained(run),
        "split": evaluation.split,
        "num_images": len(rows),
        "num_evaluations": num_evaluations,
        "results": results,
        **_samples(judge, evaluation, sampling, start),
        "protocol": _protocol(run, evaluation, len(rows)),
    }


def trained(run: TrainedRun) -> dict[str, Any]:
    """What the run was trained with, as far as its numbers depend on it."""
    config = run.config
    return {
        "weighting": repr(config.weighting),
        "schedule": repr(config.schedule),
        "parameterization": repr(config.parameterization),
        "network": repr(config.network),
        "num_parameters": sum(p.numel() for p in run.denoiser.network.parameters()),
        "optimizer": repr(config.optimizer),
        "images_seen": run.step * config.batch_size,
        "batch_size": config.batch_size,
        "precision": config.precision,
        "data": repr(config.data),
        "seed": config.seed,
    }


def samples_picture(run: TrainedRun, evaluation: Evaluation, sampling: Sampling) -> bytes | None:
    """Some of the samples that were measured, as PNG, a class in each column."""
    quality = evaluation.quality
    if quality.num_samples == 0 or run.dataset.num_levels is None:
        return None
    x = draw_set(run, sampling, quality.num_samples, evaluation.seed, lambda *_: lambda *_: None)
    num_columns = run.dataset.num_classes if run.has_labels else None
    return png(to_unit(x[:NUM_SHOWN], run.dataset.num_levels), num_columns=num_columns)


def chosen_images(run: TrainedRun, evaluation: Evaluation) -> Int64[Tensor, " n"]:
    """Which images of the split, in an order at random that is the same for every run."""
    split: Split = getattr(run.dataset, evaluation.split)
    num_images = evaluation.num_images or len(split)
    if not 2 <= num_images <= len(split):
        raise ValueError(
            f"The {evaluation.split} split has {len(split)} images: "
            f"{num_images} of them cannot be measured with a standard error."
        )
    return torch.randperm(len(split), generator=generator(0))[:num_images]


def measure_condition(
    run: TrainedRun, condition: Condition, evaluation: Evaluation, start: Start
) -> Measured:
    """The losses of a condition at many noise levels."""
    num_pilot = min(evaluation.num_pilot_images, len(condition))
    images = [evaluation.split, len(condition), num_pilot, num_pilot_times(num_pilot)]
    target = evaluation.target_se
    return measure(
        run,
        condition,
        run_store(run, condition.name, images=images, seed=evaluation.seed),
        num_pilot=num_pilot,
        num_rounds=evaluation.num_rounds,
        target_se=None if target is None else target * PER_BIT,
        seed=evaluation.seed,
        start=start,
    )


def summary(measured: Measured, target_se: float | None) -> dict[str, Any]:
    """The bound and its terms, in bits and nats per dimension."""
    bound = Estimate.of(measured.bound)
    standard_error = bound.standard_error / PER_BIT
    return {
        "bits_per_dim": bound.mean / PER_BIT,
        "standard_error": standard_error,
        "measurement_error": bound.measurement_error / PER_BIT,
        "floor": bound.floor / PER_BIT,
        "target_se": target_se,
        "is_target_reached": None if target_se is None else standard_error <= target_se,
        "nats_per_dim": bound.mean,
        "decoder_bpd": measured.decoder.mean().item() / PER_BIT,
        "diffusion_bpd": measured.diffusion.mean().item() / PER_BIT,
        "prior_bpd": measured.prior.mean().item() / PER_BIT,
        "num_rounds": measured.bound.shape[1],
        "num_evaluations": measured.num_evaluations,
    }


def _exact(run: TrainedRun, condition: Condition) -> dict[str, float]:
    """For toys, the exact value that the bound is above, given the component if it was told."""
    if not isinstance(run.config.data, Toy):
        return {}
    log_prob = run.config.data.mixture.log_prob(condition.x.double(), component=condition.labels)
    nats = -log_prob / condition.x.shape[1]
    return {"exact_bits_per_dim": nats.mean().item() / PER_BIT}


def by_level(measured: Measured) -> dict[str, dict[str, list[float]]]:
    """The loss by noise level, and its integral, the loss of the ELBO at every noise level."""
    rounds = measured.rounds
    edges = torch.linspace(
        rounds.schedule.logsnr_min, rounds.schedule.logsnr_max, NUM_BINS + 1, dtype=torch.float64
    )
    middle, width = (edges[1:] + edges[:-1]) / 2, (edges[1] - edges[0]).item()
    losses = [Estimate.of(rounds.curve(level, width)) for level in middle.tolist()]
    elbos = [Estimate.of(rounds.elbo(level, measured.prior)) for level in edges.tolist()]
    return {"curve": _curve(middle, losses), "elbo": _curve(edges, elbos)}


def _curve(logsnr: Float[Tensor, " k"], estimates: list[Estimate]) -> dict[str, list[float]]:
    return {
        "logsnr": logsnr.tolist(),
        "nats_per_dim": [estimate.mean for estimate in estimates],
        "standard_error": [estimate.standard_error for estimate in estimates],
        "measurement_error": [estimate.measurement_error for estimate in estimates],
    }


def _ode(
    run: TrainedRun,
    condition: Condition,
    measured: Measured,
    evaluation: Evaluation,
    start: Start,
) -> dict[str, Any] | None:
    num = min(evaluation.ode.num_images, len(condition))
    if num == 0:
        return None
    images = [evaluation.split, len(condition), condition.name]
    return measure_ode(
        run,
        condition,
        measured.bound.mean(1),
        evaluation.ode,
        run_store(
            run, "ode", images=images, precision="fp32", ode=evaluation.ode, seed=evaluation.seed
        ),
        evaluation.seed,
        start(f"{condition.title}, ODE", num, "images"),
    )


def _judge(run: TrainedRun, quality: Quality, start: Start) -> Judge | None:
    """What samples are compared with; of points there is no quality."""
    if quality.num_samples == 0 or run.dataset.num_levels is None:
        return None
    return Judge.of(run, quality.extractor, start)


def _samples(
    judge: Judge | None, evaluation: Evaluation, sampling: Sampling, start: Start
) -> dict[str, Any]:
    if judge is None:
        return {}
    quality, seed = evaluation.quality, evaluation.seed
    measured = {"quality": measure_quality(judge, quality, sampling, seed, start)}
    if quality.sweep:
        measured["sweep"] = sweep(judge, quality, sampling, seed, start)
    return measured


def _protocol(run: TrainedRun, evaluation: Evaluation, num_images: int) -> dict[str, Any]:
    num_levels, data = run.dataset.num_levels, run.dataset.fingerprint()
    num_pilot = min(evaluation.num_pilot_images, num_images)
    return {
        "quantity": "variational bound on -log p(x): decoder + diffusion + prior",
        "decoder": (
            "Gaussian density"
            if num_levels is None
            else f"softmax over {num_levels} levels; no dequantization"
        ),
        "data": f"{data['name']}, sha256 {data['sha256'][:12]}",
        "weights": f"average, of relative width {run.config.averaging.relative_width} (EDM2)",
        "logsnr_min": run.config.schedule.logsnr_min,
        "logsnr_max": run.config.schedule.logsnr_max,
        "noise_levels": (
            f"rounds of {ROUND_TIMES} per image, stratified over all images, from a density fitted "
            f"to {num_pilot_times(num_pilot)} levels of {num_pilot} images; control variate"
        ),
        "standard_error": "of the mean over all images there could be: images, noise, noise levels",
        "measurement_error": "of the mean over these images: noise and noise levels",
        "precision": run.config.precision,
        "seed": evaluation.seed,
        "device": run.device.type,
        "versions": {name: version(name) for name in ("elbos", "torch")},
    }
