"""Min-SNR for v-prediction with a diffusers scheduler: four formulas for one `--snr_gamma` flag.

All four were in public trainers, each under the same flag. Audit them and compare:

    elbos audit examples/audit/diffusers_v_prediction.py:correct --shape 4 32 32
    elbos audit examples/audit/diffusers_v_prediction.py:plus_one --shape 4 32 32
    elbos audit examples/audit/diffusers_v_prediction.py:snr_plus_one --shape 4 32 32
    elbos audit examples/audit/diffusers_v_prediction.py:eps_weight --shape 4 32 32

Only `correct` is the Min-SNR paper's min(snr, gamma) on the x-loss, which is the v-loss divided by
snr + 1. At low SNR the other coefficients of the v-loss tend to a constant; in terms of the
eps-loss that is a weight which grows like 1 / snr towards pure noise.
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

SNR_GAMMA = 5.0

noise_scheduler = DDPMScheduler(
    num_train_timesteps=1000,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="v_prediction",
)


def train_step(unet, latents, mse_loss_weights):
    """Run one step of the script; `mse_loss_weights` maps the SNR of each sample to its weight."""
    noise = torch.randn_like(latents)
    timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(latents),))
    noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps)
    target = noise_scheduler.get_velocity(latents, noise, timesteps)
    model_pred = unet(noisy_latents, timesteps, encoder_hidden_states=None).sample
    loss = F.mse_loss(model_pred.float(), target.float(), reduction="none")
    loss = loss.mean(dim=list(range(1, len(loss.shape))))
    return (loss * mse_loss_weights(compute_snr(noise_scheduler, timesteps))).mean()


def correct(unet, latents):
    """Weights min(snr, gamma) / (snr + 1)."""
    return train_step(unet, latents, lambda snr: snr.clamp(max=SNR_GAMMA) / (snr + 1))


def plus_one(unet, latents):
    """Weights min(snr, gamma) / snr + 1: the one is added outside of the fraction."""
    return train_step(unet, latents, lambda snr: snr.clamp(max=SNR_GAMMA) / snr + 1)


def snr_plus_one(unet, latents):
    """Weights min(snr + 1, gamma) / (snr + 1): the one is added inside of the minimum, too."""
    return train_step(unet, latents, lambda snr: (snr + 1).clamp(max=SNR_GAMMA) / (snr + 1))


def eps_weight(unet, latents):
    """Weights min(snr, gamma) / snr: those of the eps-loss."""
    return train_step(unet, latents, lambda snr: snr.clamp(max=SNR_GAMMA) / snr)
