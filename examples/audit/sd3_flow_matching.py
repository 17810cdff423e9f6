"""Stable Diffusion 3's flow matching, as the diffusers training scripts do it.

    elbos audit examples/audit/sd3_flow_matching.py:loss --shape 16 32 32
    elbos audit examples/audit/sd3_flow_matching.py:unshifted --shape 16 32 32

The script's flags hide two things. The logit-normal number is an *index* into a table that runs
from noise to data, so a positive logit_mean means less noise, not more. And the table is that of
the checkpoint's scheduler, whose config has shift 3.0: `loss` draws the paper's noise levels,
shifted by -2 ln 3 in log-SNR; `unshifted` draws them without the shift.
"""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import (
    compute_density_for_timestep_sampling,
    compute_loss_weighting_for_sd3,
)

WEIGHTING_SCHEME, LOGIT_MEAN, LOGIT_STD = "logit_normal", 0.0, 1.0


def get_sigmas(scheduler, timesteps, n_dim):
    step_indices = [(scheduler.timesteps == t).nonzero().item() for t in timesteps]
    return scheduler.sigmas[step_indices].reshape(-1, *[1] * (n_dim - 1))


def train_step(transformer, model_input, noise_scheduler):
    """Run one step of the script, without its text encoders."""
    noise = torch.randn_like(model_input)
    u = compute_density_for_timestep_sampling(
        WEIGHTING_SCHEME, len(model_input), logit_mean=LOGIT_MEAN, logit_std=LOGIT_STD
    )
    indices = (u * noise_scheduler.config.num_train_timesteps).long()
    timesteps = noise_scheduler.timesteps[indices]
    sigmas = get_sigmas(noise_scheduler, timesteps, model_input.ndim)
    noisy_model_input = (1.0 - sigmas) * model_input + sigmas * noise
    model_pred = transformer(hidden_states=noisy_model_input, timestep=timesteps).sample
    weighting = compute_loss_weighting_for_sd3(WEIGHTING_SCHEME, sigmas)
    target = noise - model_input
    error = weighting.float() * (model_pred.float() - target.float()) ** 2
    return error.reshape(len(target), -1).mean(1).mean()


def loss(transformer, model_input):
    """With the scheduler of Stable Diffusion 3's config."""
    return train_step(transformer, model_input, FlowMatchEulerDiscreteScheduler(shift=3.0))


def unshifted(transformer, model_input):
    """With a scheduler that does not shift."""
    return train_step(transformer, model_input, FlowMatchEulerDiscreteScheduler(shift=1.0))
