"""diffusers' schedulers, audited as code and as declared configuration: the two agree."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
)
from diffusers.training_utils import (
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
    compute_snr,
)

from elbos import audit
from elbos.adapters.diffusers import Training, loss_table

X = 2 * torch.rand(256, 4, 8, 8, generator=torch.Generator().manual_seed(1)) - 1
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def betas_loss(scheduler: Any, snr_gamma: float | None = None) -> Callable[..., Any]:
    """The loss of diffusers' text-to-image scripts."""

    def loss(network, x):
        noise = torch.randn_like(x)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(x),))
        noisy = scheduler.add_noise(x, noise, timesteps)
        kind = scheduler.config.prediction_type
        if kind == "epsilon":
            target = noise
        elif kind == "sample":
            target = x
        else:
            target = scheduler.get_velocity(x, noise, timesteps)
        error = F.mse_loss(network(noisy, timesteps).sample, target, reduction="none")
        error = error.mean(dim=[1, 2, 3])
        if snr_gamma is None:
            return error.mean()
        snr = compute_snr(scheduler, timesteps)
        weight = torch.stack([snr, snr_gamma * torch.ones_like(snr)], dim=1).min(dim=1)[0]
        if kind == "epsilon":
            weight = weight / snr
        elif kind == "v_prediction":
            weight = weight / (snr + 1)
        return (error * weight).mean()

    return loss


def flow_loss(scheduler: Any, training: Training) -> Callable[..., Any]:
    """The loss of diffusers' Stable Diffusion 3 scripts."""

    def loss(network, x):
        noise = torch.randn_like(x)
        u = compute_density_for_timestep_sampling(
            weighting_scheme=training.weighting_scheme,
            batch_size=len(x),
            logit_mean=training.logit_mean,
            logit_std=training.logit_std,
            mode_scale=training.mode_scale,
        )
        indices = (u * scheduler.config.num_train_timesteps).long()
        timesteps = scheduler.timesteps[indices]
        sigmas = scheduler.sigmas[indices].reshape(-1, 1, 1, 1)
        noisy = (1.0 - sigmas) * x + sigmas * noise
        prediction = network(noisy, timesteps, return_dict=False)[0]
        target = noise - x
        weighting = compute_loss_weighting_for_sd3(training.weighting_scheme, sigmas)
        error = (weighting.float() * (prediction.float() - target.float()) ** 2).flatten(1)
        return error.mean(1).mean()

    return loss


def flow_case(shift, **flags):
    scheduler, training = FlowMatchEulerDiscreteScheduler(shift=shift), Training(**flags)
    return scheduler, flow_loss(scheduler, training), training


ZERO_SNR = DDIMScheduler(rescale_betas_zero_snr=True, prediction_type="v_prediction", **SCALED)
CASES = {
    "zero SNR, v, Min-SNR": (ZERO_SNR, betas_loss(ZERO_SNR, 5.0), Training(snr_gamma=5.0)),
    "flow logit-normal": flow_case(
        1.0, weighting_scheme="logit_normal", logit_mean=0.5, logit_std=0.6
    ),
}


@pytest.mark.parametrize(("scheduler", "loss", "training"), CASES.values(), ids=CASES)
def test_code_and_configuration_agree(scheduler, loss, training):
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    declared = audit.from_table(loss_table(config, training))
    measured = audit.probe(loss, X, 20_000)
    assert measured.parameterization == declared.parameterization
    below = declared.density.cumsum(0) / declared.density.sum()
    kept = (below > 0.01) & (below < 0.99)
    levels = declared.logsnr[kept]
    difference = (measured.weighting(levels) / declared.weighting(levels)).log()
    difference -= difference.median()
    # two per cent; where probabilities of steps are read off from samples, at most levels
    share = 1.0 if measured.density_kind == "table" else 0.95
    assert difference.abs().quantile(share) < 0.02
    assert measured.is_monotone == declared.is_monotone
    assert measured.coefficient_name == declared.coefficient_name
    assert abs(measured.share_pure_noise - declared.share_pure_noise) < 4 * (0.001 / 20_000) ** 0.5


def test_weights_are_right_over_all_orders_of_magnitude():
    """Predicting x weighs the clean end 1e15 times as little as the noisy one, and both count."""
    scheduler = DDPMScheduler(
        num_train_timesteps=4000,
        beta_schedule="squaredcos_cap_v2",
        prediction_type="sample",
        clip_sample=False,
    )
    config = {**scheduler.config, "_class_name": "DDPMScheduler"}
    declared = audit.from_table(loss_table(config, Training(prediction="x")))
    measured = audit.probe(betas_loss(scheduler), X, 20_000)
    below = declared.density.cumsum(0) / declared.density.sum()
    levels = declared.logsnr[(below > 0.001) & (below < 0.999)]
    assert levels[0] < -12 and levels[-1] > 9
    difference = (measured.weighting(levels) / declared.weighting(levels)).log()
    assert (difference - difference.median()).abs().max() < 0.02
