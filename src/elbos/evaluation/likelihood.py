r"""Losses of a model at many noise levels: the variational bound, and a check of the ELBO theorem.

`elbos.Validator` makes two measurements with independent noise. The **pilot** measures a few images
at levels uniform in log-SNR: it decides how the rest is measured, and later gives the right side of
the theorem. The **rounds** measure all images.

The theorem checks them,

$$\int w\,\ell\,d\lambda
  = \int -w'(\lambda)\, L(\lambda)\, d\lambda
  + w(\lambda_\max) L(\lambda_\max) - w(\lambda_\min) L(\lambda_\min).$$

The left side is a weighted loss, from the rounds. The right side is a mixture of ELBOs: $L$ at a
thousand noise levels, integrated from the losses of the pilot. Both sides share images, weighting
and network, but no code except the loss at a noise level: an error in a density, a control variate
or an end term makes them differ.
"""

import math
import warnings
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from elbos.base.progress import Advance, Start
from elbos.evaluation.config import EvaluationConfig
from elbos.evaluation.model import Model, model_store
from elbos.evaluation.ode import measure_ode
from elbos.evaluation.result import Likelihood, TheoremCheck
from elbos.theory import weightings
from elbos.theory.elbo import is_monotone
from elbos.theory.weightings import WeightFunction
from elbos.training.data.dataset import Split
from elbos.training.randomness import generator
from elbos.training.sampling import BATCH_SIZE
from elbos.validation import Measurements, Validation, Validator
from elbos.validation.diagnostics import TimeIgnoredWarning
from elbos.validation.result import NATS_PER_BIT

NUM_ELBOS = 1001

CHECKED: dict[str, WeightFunction] = {
    "ELBO": weightings.ELBO(),
    "sigmoid(2)": weightings.Sigmoid(k=2.0),
    "v-cosine": weightings.Exponential(rate=0.5),
    "EDM": weightings.EDM(),
    "EDM-monotonic": weightings.Monotone(weightings.EDM()),
    "Min-SNR(5)": weightings.MinSNR(gamma=5.0),
}
"""The weightings for which the theorem is checked: monotone and non-monotone, flat and steep."""


def chosen_images(model: Model, config: EvaluationConfig) -> tuple[Split, Int64[Tensor, " n"]]:
    """Return the split, and the indices of the images to evaluate, in an order common to models."""
    split: Split = getattr(model.dataset, config.split or model.split)
    num_images = config.num_images or len(split)
    if not 2 <= num_images <= len(split):
        raise ValueError(
            f"num_images is {num_images}: give 2 to {len(split)}, since the "
            f"{config.split or model.split} split has {len(split)} images."
        )
    return split, torch.randperm(len(split), generator=generator(0))[:num_images]


def conditions(model: Model, config: EvaluationConfig) -> dict[str, Split]:
    """Return the images with and without class labels, as far as the network supports it."""
    split, images = chosen_images(model, config)
    x, num_levels = split.x[images], model.dataset.num_levels
    labels = None if split.labels is None else split.labels[images]
    cond = {"unconditional": None, "given_label": labels}
    return {name: Split(x, cond[name], num_levels) for name in model.conditions}


def measure(
    model: Model, condition: str, images: Split, config: EvaluationConfig, start: Start
) -> Likelihood:
    """Tune the noise levels on a few images, measure the losses of all, and check the theorem."""
    validator = Validator(
        images,
        num_levels=images.num_levels,
        logsnr_min=model.schedule.logsnr_min,
        logsnr_max=model.schedule.logsnr_max,
        seed=config.seed,
    )
    num_pilot = min(config.num_pilot_images, len(images))
    key = [config.split, len(images), num_pilot]

    def titled(what: str, total: int, unit: str) -> Advance:
        return start(f"{condition.replace('_', ' ')}, {what}", total, unit)

    settings: dict[str, Any] = {
        "batch_size": BATCH_SIZE,
        "device": model.device,
        "is_shared": model.processes.num > 1,
        "parts": model_store(model, condition, images=key, seed=config.seed),
        "start": titled,
    }
    with model.autocast(), warnings.catch_warnings():
        warnings.simplefilter("ignore", TimeIgnoredWarning)  # barely trained networks may do so
        pilot = validator.pilot(model.denoiser, num_samples=num_pilot, **settings)
        tuned = validator.tuned(pilot)
        rounds = tuned(model.denoiser, target_se=config.target_se, **settings)
    bits, target_se = rounds.bits, config.target_se
    return Likelihood(
        bits_per_dim=bits.mean,
        standard_error=bits.standard_error,
        measurement_error=bits.measurement_error,
        sampling_error=bits.sampling_error,
        target_se=target_se,
        is_target_reached=None if target_se is None else bits.standard_error <= target_se,
        decoder_bpd=rounds.decoder.mean().item() / NATS_PER_BIT,
        diffusion_bpd=rounds.diffusion.mean().item() / NATS_PER_BIT,
        prior_bpd=rounds.prior.mean().item() / NATS_PER_BIT,
        num_evaluations=pilot.loss.numel() + rounds.num_evaluations,
        curve=rounds.by_level,
        elbo=rounds.elbo_by_level,
        weightings=check_theorem(pilot, rounds, model.weighting),
        ode=measure_ode(model, condition, images, rounds.bound.mean(1), config, start),
        rounds=rounds,
    )


def mixed_elbos(
    measurements: Measurements, weighting: WeightFunction, prior: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    r"""Compute the weighted loss of each image as a mixture of ELBOs, which the theorem says it is.

    `prior` is $L(\lambda_\min)$ of each image.
    """
    schedule, num_times = measurements.schedule, measurements.logsnr.shape[2]
    levels = torch.linspace(
        schedule.logsnr_min, schedule.logsnr_max, NUM_ELBOS, dtype=torch.float64
    )
    logsnr, loss = measurements.logsnr[:, 0], measurements.loss[:, 0]
    cell = torch.searchsorted(levels, logsnr).clamp(1, NUM_ELBOS - 1)  # counts from this level on
    gains = torch.zeros(len(loss), NUM_ELBOS, dtype=torch.float64)
    gains.scatter_add_(1, cell, loss / schedule.density(logsnr) / num_times)
    elbos = prior[:, None] + gains.cumsum(1)  # L at every level
    w = weighting(levels)
    between = (elbos[:, 1:] + elbos[:, :-1]) / 2
    return w[-1] * elbos[:, -1] - w[0] * elbos[:, 0] - (between * w.diff()).sum(1)


def check_theorem(
    pilot: Measurements, rounds: Validation, trained: WeightFunction | None
) -> tuple[TheoremCheck, ...]:
    """Test for several weightings whether the weighted loss equals the mixture of ELBOs."""
    named = dict(CHECKED)
    if trained is not None and trained not in CHECKED.values():
        named[repr(trained)] = trained
    num, schedule = len(pilot), rounds.measurements.schedule
    ends = schedule.logsnr_min, schedule.logsnr_max
    checks = []
    for name, weighting in named.items():
        loss = rounds.measurements.integral(weighting)[:num].mean(1)
        mixture = mixed_elbos(pilot, weighting, rounds.prior[:num])
        difference = loss - mixture
        error = difference.std().item() / math.sqrt(num)
        check = TheoremCheck(
            name=name,
            is_monotone=is_monotone(weighting, *ends),
            loss=loss.mean().item(),
            mixture=mixture.mean().item(),
            difference_se=error,
            z=difference.mean().item() / error,
        )
        checks.append(check)
    return tuple(checks)
