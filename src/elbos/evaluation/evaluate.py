r"""Measure a trained run: bits per dimension with its standard error, and the loss by noise level.

The numbers come with their protocol: how the data were decoded, between which noise levels, with
how many evaluations, on which images, from which weights.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.checks import require_positive
from elbos.likelihood import Bound, LossCurve, losses_by_level
from elbos.schedules import Linear
from elbos.training.data import Split, Toy, to_unit
from elbos.training.randomness import generator
from elbos.training.trained import TrainedRun
from elbos.training.validation import BATCH_SIZE, split_bound

NUM_LEVELS = 33


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured."""

    split: Literal["test", "val", "train"] = "test"
    """Which images."""

    num_images: int | None = None
    """How many of them, the first ones; at least 2. Default: all."""

    num_times: int = 16
    """Noise levels per image in the bound, stratified; one network evaluation each."""

    num_curve_images: int = 500
    """Images in the loss by noise level; 33 network evaluations each."""

    seed: int = 0
    """Seed of noise and noise levels."""

    def __post_init__(self) -> None:
        require_positive(num_times=self.num_times)
        for name, num in (
            ("num_images", self.num_images),
            ("num_curve_images", self.num_curve_images),
        ):
            if num is not None and num < 2:
                raise ValueError(f"{name} is {num}: give at least 2, or leave it out.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: give a whole number from 0.")


def evaluate(
    run: TrainedRun, evaluation: Evaluation, on_images: Callable[[int], None]
) -> dict[str, Any]:
    """Measure a run; the result is what eval.json holds.

    Args:
        run: The run.
        evaluation: What to measure.
        on_images: Called with the number of images done, now and then; see `num_evaluated_images`.

    Raises:
        ValueError: If the split has fewer images than asked for, or than 2.
    """
    split, num_images = _images(run, evaluation)
    schedule = Linear(
        logsnr_min=run.config.schedule.logsnr_min, logsnr_max=run.config.schedule.logsnr_max
    )
    num_curve = min(evaluation.num_curve_images, num_images)
    results = {}
    for name, labels in _conditions(run, split).items():
        with run.autocast():
            bound = split_bound(
                run.denoiser,
                split.x[:num_images],
                schedule,
                num_levels=run.dataset.num_levels,
                num_times=evaluation.num_times,
                labels=labels,
                device=run.device,
                seed=evaluation.seed,
                on_batch=on_images,
            )
            curve = _curve(run, split.x[:num_curve], labels, schedule, evaluation.seed, on_images)
        exact = _exact(run, split.x[:num_images], None if labels is None else labels[:num_images])
        results[name] = {**_summary(bound), **exact, "curve": _as_json(curve)}
    return {
        "run": str(run.directory.path),
        "step": run.step,
        "images_seen": run.step * run.config.batch_size,
        "split": evaluation.split,
        "num_images": num_images,
        "num_evaluations": len(results)
        * (num_images * evaluation.num_times + num_curve * NUM_LEVELS),
        "results": results,
        "protocol": {
            "quantity": "variational bound on -log p(x): decoder + diffusion + prior",
            "decoder": (
                "Gaussian density"
                if run.dataset.num_levels is None
                else f"softmax over {run.dataset.num_levels} levels; no dequantization"
            ),
            "weights": "exponential moving average",
            "logsnr_min": schedule.logsnr_min,
            "logsnr_max": schedule.logsnr_max,
            "noise_levels": f"{evaluation.num_times} per image, stratified, uniform in log-SNR",
            "num_curve_images": num_curve,
            "standard_error": "standard deviation over images / sqrt(n), noise included",
            "precision": run.config.precision,
            "seed": evaluation.seed,
            "device": run.device.type,
            "versions": {name: version(name) for name in ("elbos", "torch")},
        },
    }


def num_evaluated_images(run: TrainedRun, evaluation: Evaluation) -> int:
    """How many images `evaluate` will report through `on_images` in all."""
    split, num_images = _images(run, evaluation)
    num_curve = min(evaluation.num_curve_images, num_images)
    return len(_conditions(run, split)) * (num_images + num_curve)


def _images(run: TrainedRun, evaluation: Evaluation) -> tuple[Split, int]:
    """The split, and how many of its images are measured."""
    split: Split = getattr(run.dataset, evaluation.split)
    num_images = evaluation.num_images or len(split)
    if not 2 <= num_images <= len(split):
        raise ValueError(
            f"The {evaluation.split} split has {len(split)} images: "
            f"{num_images} of them cannot be measured with a standard error."
        )
    return split, num_images


def _conditions(run: TrainedRun, split: Split) -> dict[str, Tensor | None]:
    """What the network is told, by name: what it was told in training."""
    if not run.has_labels:
        return {"unconditional": None}
    conditions: dict[str, Tensor | None] = {}
    if run.config.label_dropout > 0:
        conditions["unconditional"] = None
    if run.config.label_dropout < 1:
        conditions["given_label"] = split.labels
    return conditions


def _summary(bound: Bound) -> dict[str, float]:
    """Means over images, in bits and nats per dimension."""
    per_bit, n = math.log(2), len(bound.total)
    return {
        "bits_per_dim": bound.total.mean().item() / per_bit,
        "standard_error": bound.total.std().item() / math.sqrt(n) / per_bit,
        "nats_per_dim": bound.total.mean().item(),
        "decoder_bpd": bound.decoder.mean().item() / per_bit,
        "diffusion_bpd": bound.diffusion.mean().item() / per_bit,
        "prior_bpd": bound.prior.mean().item() / per_bit,
    }


def _curve(
    run: TrainedRun,
    x: Tensor,
    labels: Tensor | None,
    schedule: Linear,
    seed: int,
    on_images: Callable[[int], None],
) -> LossCurve:
    logsnr = torch.linspace(schedule.logsnr_min, schedule.logsnr_max, NUM_LEVELS)
    losses: list[Float[Tensor, "n b"]] = []
    for batch, start in enumerate(range(0, len(x), BATCH_SIZE)):
        stop = min(start + BATCH_SIZE, len(x))
        levels = to_unit(x[start:stop], run.dataset.num_levels).to(run.device)
        cond = None if labels is None else labels[start:stop].to(run.device)
        g = generator(seed, 1, batch)
        with torch.no_grad():
            losses.append(losses_by_level(run.denoiser, levels, logsnr, cond=cond, generator=g))
        on_images(len(levels))
    return LossCurve.of(logsnr, torch.cat(losses, 1).cpu())


def _as_json(curve: LossCurve) -> dict[str, list[float]]:
    return {
        "logsnr": curve.logsnr.tolist(),
        "nats_per_dim": curve.loss.tolist(),
        "standard_error": curve.standard_error.tolist(),
    }


def _exact(run: TrainedRun, x: Tensor, labels: Tensor | None) -> dict[str, float]:
    """For toys, the exact value that the bound is above, given the component if it was told."""
    if not isinstance(run.config.data, Toy):
        return {}
    mixture = run.config.data.mixture
    nats = -mixture.log_prob(x.double(), component=labels) / x.shape[1]
    return {"exact_bits_per_dim": nats.mean().item() / math.log(2)}
