"""Losses of OneTrainer, written out as its keys make them, in our own words."""

import math

import torch
from trainer_losses_kohya import ALPHA_BAR, mode, rescaled, shift, wide


def diffusion(weight, steps, *, is_v, table=ALPHA_BAR):
    """Stable Diffusion's loss: the weight is of the SNR of the table that is trained on."""

    def loss(network, x):
        i = steps(len(x))
        alpha, sigma = wide(table[i].sqrt().float()), wide((1 - table[i]).sqrt().float())
        eps = torch.randn_like(x)
        target = alpha * eps - sigma * x if is_v else eps
        error = (network(alpha * x + sigma * eps, i) - target).square().mean((1, 2, 3))
        return (error * weight(table[i] / (1 - table[i])).float()).mean()

    return loss


def flow(steps, weight=torch.ones_like):
    def loss(network, x):
        i = steps(len(x))
        t = (i + 1) / 1000
        eps = torch.randn_like(x)
        u = network((1 - wide(t)) * x + wide(t) * eps, i)
        return ((u - (eps - x)).square().mean((1, 2, 3)) * weight(t)).mean()

    return loss


def cut(u, *, low=0, high=1000, s=1.0):
    """Whole steps, of times that are stretched to a range and then shifted."""
    return (1000 * shift((low + (high - low) * u) / 1000, s)).int()


def weighed(weights):
    return lambda n: torch.multinomial(weights, n, replacement=True)


def cos_map(s):
    line = torch.linspace(0, 1, 1000)
    u = line / (s - s * line + line)
    return s / (s + line - line * s) ** 2 * 2 / (math.pi * (1 - 2 * u + 2 * u**2))


DYNAMIC = math.exp(0.5 + 0.65 * (64 * 64 - 256) / (4096 - 256))
V = {"model_type": "STABLE_DIFFUSION_XL_10_BASE", "force_v_prediction": True}
FLUX = {"model_type": "FLUX_DEV_1"}

ONETRAINER = [
    (V | {"loss_weight_fn": "MIN_SNR_GAMMA"}, diffusion(lambda snr: snr.clamp(max=5) / (snr + 1),
        lambda n: cut(torch.rand(n)), is_v=True)),
    (V | {"loss_weight_fn": "DEBIASED_ESTIMATION", "max_noising_strength": 0.8},
        diffusion(lambda snr: 1 / (snr.clamp(max=1000) + 1).sqrt(),
        lambda n: cut(torch.rand(n), high=800), is_v=True)),
    ({"loss_weight_fn": "P2", "loss_weight_strength": 0.5, "timestep_shift": 2.0},
        diffusion(lambda snr: (1 + snr) ** -0.5, lambda n: cut(torch.rand(n), s=2.0), is_v=False)),
    ({"rescale_noise_scheduler_to_zero_terminal_snr": True, "loss_weight_fn": "MIN_SNR_GAMMA",
        "loss_weight_strength": 1.0}, diffusion(lambda snr: snr.clamp(max=1) / (snr + 1),
        lambda n: cut(torch.rand(n)), is_v=True, table=rescaled(ALPHA_BAR))),
    (FLUX | {"timestep_distribution": "HEAVY_TAIL", "noising_weight": 0.6, "timestep_shift": 2},
        flow(lambda n: cut(mode(n, 0.6).clamp(max=0.9999), s=2.0))),
    (FLUX | {"timestep_distribution": "LOGIT_NORMAL", "noising_bias": 0.3, "noising_weight": 0.5}
        | {"dynamic_timestep_shifting": True, "resolution": "1024"},
        flow(lambda n: cut(torch.sigmoid(0.3 + 1.5 * torch.randn(n)), s=DYNAMIC))),
    (FLUX | {"timestep_distribution": "BETA", "noising_weight": 0.6, "noising_bias": 1.0},
        flow(lambda n: cut(torch.rand(n) ** (1 / 0.6)))),
    (FLUX | {"timestep_distribution": "COS_MAP", "timestep_shift": 1.5, "loss_weight_fn": "SIGMA"},
        flow(weighed(cos_map(1.5)), weight=lambda t: t)),
]  # fmt: skip
