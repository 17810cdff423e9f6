"""Training losses as three public trainers compute them for given settings, in our own words.

Nothing here imports elbos. Each function is what the trainer does with a batch `x` of latents,
from the draw of its times to the mean of its squared error. Versions are those that
`elbos.adapters.trainers` names.
"""

import math

import torch
import torch.nn.functional as F
from trainer_losses_kohya import ALPHA_BAR, rescaled, shift, wide


def shift_of(side):
    """e^mu, mu linear in the number of 16x16-pixel patches of a square image."""
    return math.exp(0.5 + 0.65 * ((side // 16) ** 2 - 256) / (4096 - 256))


def flow_error(network, x, t):
    """The squared error of noise minus data at times t [b], unreduced."""
    noise = torch.randn_like(x)
    at = wide(t)
    return (network((1 - at) * x + at * noise, 1000 * t) - (noise - x)).square()


def discrete_error(network, x, step, alphas_cumprod, prediction):
    """The squared error at steps of a table [b], unreduced."""
    alpha = wide(alphas_cumprod[step].sqrt()).float()
    sigma = wide((1 - alphas_cumprod[step]).sqrt()).float()
    noise = torch.randn_like(x)
    target = noise if prediction == "epsilon" else alpha * noise - sigma * x
    return (network(alpha * x + sigma * noise, step) - target).square()


def snr_at(step, alphas_cumprod=ALPHA_BAR):
    return (alphas_cumprod / (1 - alphas_cumprod))[step].float()


# ---------------------------------------------------------------------------------- SimpleTuner


def simpletuner_flux(network, x):
    """`model_family` flux and no more: sigmoid of a normal number, shifted by 3."""
    t = shift(torch.sigmoid(1.0 * torch.randn(len(x))), 3.0)
    return flow_error(network, x, t).mean()


def simpletuner_auto_shift(network, x):
    """`flow_schedule_auto_shift`, `flow_sigmoid_scale` .7, 768x768 pixels."""
    t = shift(torch.sigmoid(0.7 * torch.randn(len(x))), shift_of(768))
    return flow_error(network, x, t).mean()


def simpletuner_beta(network, x):
    """`flow_use_beta_schedule` with (2, 3), `flow_schedule_shift` 1.5."""
    t = torch.distributions.Beta(2.0, 3.0).sample((len(x),))
    return flow_error(network, x, shift(t, 1.5)).mean()


def segments(weights, batch_size):
    """Segments of 1,000 steps, noisy ones first: neighbours share a step, which the normalization
    of the first segment has made rarer in the second.
    """
    weights, found = weights.clone(), []
    size = 1000 // batch_size
    for i in range(batch_size):
        last = 999 - i * size
        first = 0 if i == batch_size - 1 else max(last - size, 0)
        inside = weights[first : last + 1]
        inside /= inside.sum()
        found.append((first, inside.clone()))
    return found


SEGMENTS_OF_4 = segments(torch.ones(1000), 4)


def simpletuner_sdxl_v(network, x):
    """`model_family` sdxl, `prediction_type` v_prediction, `snr_gamma` 5, batches of 4.

    The weight divides by SNR + 1 only where the model's own file says v_prediction; SDXL's does
    not.
    """
    num = len(x) // 4
    step = torch.cat(
        [first + torch.multinomial(p, num, replacement=True) for first, p in SEGMENTS_OF_4]
    )
    error = discrete_error(network, x, step, ALPHA_BAR, "v_prediction")
    snr = snr_at(step)
    return (error * wide(snr.clamp(max=5) / snr)).mean()


def simpletuner_sd2x(network, x):
    """`model_family` sd2x, `snr_gamma` 5, `train_batch_size` 1, later steps thrice as often; its
    table always ends at zero SNR.
    """
    weights = torch.ones(1000)
    weights[-250:] *= 3
    step = torch.multinomial(weights / weights.sum(), len(x), replacement=True)
    error = discrete_error(network, x, step, rescaled(ALPHA_BAR), "v_prediction")
    snr = snr_at(step, rescaled(ALPHA_BAR))
    return (error * wide(snr.clamp(max=5) / (snr + 1))).mean()


def simpletuner_wan_high_noise(network, x):
    """The noisier network of Wan 2.2: a shift of 5, though 3 is given; normal numbers around .4."""
    return flow_error(network, x, shift(torch.sigmoid(torch.randn(len(x)) + 0.4), 5.0)).mean()


# ----------------------------------------------------------------------------------- ai-toolkit


def ai_toolkit_sigmoid(network, x):
    """`noise_scheduler` flowmatch and no more: 1,000 fresh draws, sorted, all but the last."""
    table = (1 - torch.sigmoid(torch.randn(1000))).sort(descending=True).values
    t = table[torch.randint(0, 999, (len(x),))]
    return flow_error(network, x, t).mean()


LINEAR_1000 = torch.linspace(1000, 1, 1000) / 1000


def ai_toolkit_bell(network, x):
    """`linear_timesteps`: a bell whose minimum is 0, of the number of the step."""
    bell = torch.exp(-2 * ((torch.arange(1000) - 500) / 1000) ** 2)
    bell = bell - bell.min()
    bell = bell * 1000 / bell.sum()
    step = torch.randint(0, 999, (len(x),))
    return (flow_error(network, x, LINEAR_1000[step]) * wide(bell[step])).mean()


def ai_toolkit_half_bell(network, x):
    """`linear_timesteps2`: as before, flat at its top in the half with less noise."""
    bell = torch.exp(-2 * ((torch.arange(1000) - 500) / 1000) ** 2)
    bell = bell - bell.min()
    bell[500:] = bell[500:].max()
    step = torch.randint(0, 999, (len(x),))
    return (flow_error(network, x, LINEAR_1000[step]) * wide(bell[step])).mean()


def ai_toolkit_flux_shift(network, x):
    """`is_flux`, `timestep_type` flux_shift, `resolution` 1024."""
    t = shift(torch.linspace(1, 0.001, 1000), shift_of(1024))
    return flow_error(network, x, t[torch.randint(0, 999, (len(x),))]).mean()


def ai_toolkit_lost_shift(network, x):
    """`arch` lumina2, `timestep_type` shift: the shift of 6 does not reach the scheduler."""
    return flow_error(network, x, LINEAR_1000[torch.randint(0, 999, (len(x),))]).mean()


def ai_toolkit_content(network, x):
    """`content_or_style` content, `timestep_type` linear."""
    step = (torch.rand(len(x)) ** 3 * 1000).long().clamp(0, 999)
    return flow_error(network, x, LINEAR_1000[step]).mean()


def ai_toolkit_style_sigmoid(network, x):
    """`content_or_style` style, with the sorted draws of `timestep_type` sigmoid."""
    table = (1 - torch.sigmoid(torch.randn(1000))).sort(descending=True).values
    step = ((1 - torch.rand(len(x)) ** 3) * 1000).long().clamp(0, 999)
    return flow_error(network, x, table[step]).mean()


def ai_toolkit_lognorm_blend(network, x):
    """`timestep_type` lognorm_blend: 750 draws over the largest, and 250 even steps, rounded."""
    draws = torch.exp(0.333 * torch.randn(750))
    times = torch.cat([(1 - draws / draws.max()) * 1000, torch.linspace(1000, 1, 250)])
    table = times.sort(descending=True).values.to(torch.int)
    return flow_error(network, x, table[torch.randint(0, 999, (len(x),))] / 1000).mean()


def ai_toolkit_sd(network, x):
    """Stable Diffusion with `noise_scheduler` ddpm, `min_snr_gamma` 5."""
    step = 999 - torch.randint(1, 998, (len(x),))
    error = discrete_error(network, x, step, ALPHA_BAR, "epsilon").mean(dim=(1, 2, 3))
    return (error * (5 / snr_at(step)).clamp(max=1)).mean()


def ai_toolkit_sd_fixed(network, x):
    """Stable Diffusion with `snr_gamma` 5, which has no minimum."""
    step = 999 - torch.randint(1, 998, (len(x),))
    error = discrete_error(network, x, step, ALPHA_BAR, "epsilon").mean(dim=(1, 2, 3))
    return (error * 5 / snr_at(step)).mean()


# -------------------------------------------------------------------------------- diffusion-pipe


def diffusion_pipe_flux(network, x):
    """flux, `flux_shift`, `sigmoid_scale` 1.2, 640x640 pixels."""
    t = shift(torch.sigmoid(1.2 * torch.randn(len(x))), shift_of(640))
    return flow_error(network, x, t).mean()


def diffusion_pipe_lumina(network, x):
    """lumina_2, `shift` 3, uniform times; the target has the other sign."""
    t = wide(shift(torch.rand(len(x)), 3.0))
    noise = torch.randn_like(x)
    return F.mse_loss(network((1 - t) * x + t * noise, 1 - t.flatten()), x - noise)


def diffusion_pipe_wan(network, x):
    """wan, `shift` 3, `min_t` .2, `max_t` .875: of 10,000 quantiles, those within."""
    quantiles = torch.linspace(1e-4, 1 - 1e-4, 10_000)
    table = shift(torch.sigmoid(torch.special.ndtri(quantiles)), 3.0)
    table = table[(table >= 0.2) & (table < 0.875)]
    return flow_error(network, x, table[torch.randint(0, len(table), (len(x),))]).mean()


def diffusion_pipe_sdxl_v(network, x):
    """sdxl, `v_pred`, `min_snr_gamma` 5: zero-terminal noise, SNR of the table before it."""
    step = torch.randint(0, 1000, (len(x),))
    error = discrete_error(network, x, step, rescaled(ALPHA_BAR), "v").mean(dim=(1, 2, 3))
    snr = snr_at(step)
    return (error * snr.clamp(max=5) / (snr + 1)).mean()


def diffusion_pipe_sdxl_debiased(network, x):
    """sdxl, `debiased_estimation_loss`."""
    step = torch.randint(0, 1000, (len(x),))
    error = discrete_error(network, x, step, ALPHA_BAR, "epsilon").mean(dim=(1, 2, 3))
    return (error / snr_at(step).clamp(max=1000).sqrt()).mean()


def diffusion_pipe_cosmos(network, x):
    """cosmos: EDM's preconditioning and weight with sigma_data .5 and ln sigma ~ N(0, 1)."""
    sigma = torch.exp(torch.randn(len(x)))
    s = wide(sigma)
    z = x + s * torch.randn_like(x)
    norm = s**2 + 0.25
    output = network(z / norm.sqrt(), sigma.log() / 4)
    x_hat = 0.25 / norm * z + s * 0.5 / norm.sqrt() * output
    return ((x_hat - x).square() * norm / (s * 0.5) ** 2).mean()
