"""The script of diffusers, audited as code and as declared configuration: the two agree."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.training_utils import compute_snr

from elbos import audit
from elbos.adapters.diffusers import Training, loss_table

X = 2 * torch.rand(256, 4, 8, 8, generator=torch.Generator().manual_seed(1)) - 1
ZERO_SNR = DDIMScheduler(
    rescale_betas_zero_snr=True,
    prediction_type="v_prediction",
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
)
# Predicting x weighs the clean end 1e15 times as little as the noisy one, and both count.
WIDE = DDPMScheduler(
    num_train_timesteps=4000,
    beta_schedule="squaredcos_cap_v2",
    prediction_type="sample",
    clip_sample=False,
)


@pytest.mark.parametrize(
    ("scheduler", "training", "tail"),
    [(ZERO_SNR, Training(snr_gamma=5.0), 0.01), (WIDE, Training(prediction="x"), 0.001)],
    ids=["zero SNR, v, Min-SNR", "wide, x"],
)
def test_code_and_configuration_agree(scheduler, training, tail):
    def loss(network, x):
        noise = torch.randn_like(x)
        timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (len(x),))
        is_v = scheduler.config.prediction_type == "v_prediction"
        target = scheduler.get_velocity(x, noise, timesteps) if is_v else x
        prediction = network(scheduler.add_noise(x, noise, timesteps), timesteps).sample
        error = F.mse_loss(prediction, target, reduction="none").mean(dim=[1, 2, 3])
        if training.snr_gamma is not None:
            snr = compute_snr(scheduler, timesteps)
            error = error * snr.clamp(max=training.snr_gamma) / (snr + 1)
        return error.mean()

    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    declared = audit.from_table(loss_table(config, training))
    measured = audit.probe(loss, X, 20_000)
    assert measured.parameterization == declared.parameterization
    below = declared.density.cumsum(0) / declared.density.sum()
    levels = declared.logsnr[(below > tail) & (below < 1 - tail)]
    difference = (measured.weighting(levels) / declared.weighting(levels)).log()
    assert (difference - difference.median()).abs().max() < 0.02
    assert measured.is_monotone == declared.is_monotone
    assert measured.coefficient_name == declared.coefficient_name
    assert abs(measured.share_pure_noise - declared.share_pure_noise) < 4 * (0.001 / 20_000) ** 0.5
