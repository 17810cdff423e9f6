"""Losses of sd-scripts and musubi-tuner, written out as their flags make them, in our own words.

Each is what the trainer does between the clean latents and the loss, with its own table, times and
coefficients, and beside it the flags.
"""

import math

import torch

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHA_BAR = torch.cumprod(1 - BETAS, 0)


def rescaled(alpha_bar):
    """The table whose last step is pure noise, and whose first stays."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


def wide(values):
    return values[:, None, None, None]


def diffusion(weight, *, is_v, table=ALPHA_BAR, low=0, high=1000):
    """Stable Diffusion's loss, with a weight that is a function of the SNR of its own table."""

    def loss(network, x):
        step = torch.randint(low, high, (len(x),))
        alpha, sigma = wide(table[step].sqrt().float()), wide((1 - table[step]).sqrt().float())
        eps = torch.randn_like(x)
        target = alpha * eps - sigma * x if is_v else eps
        error = (network(alpha * x + sigma * eps, step) - target).square().mean((1, 2, 3))
        snr = ALPHA_BAR / (1 - ALPHA_BAR)
        return (error * weight(snr[step]).float()).mean()

    return loss


def flow(draw, *, output="raw", weight=torch.ones_like, sign=1):
    """Flow matching at times that are drawn, whose output is taken as a flag says."""

    def loss(network, x):
        t = draw(len(x))
        eps = torch.randn_like(x)
        z = (1 - wide(t)) * x + wide(t) * eps
        u = network(z, t * 1000)
        if output == "additive":
            u = u + z
        if output == "sigma_scaled":
            u = z - wide(t) * u
        error = (u - sign * (eps - x)).square().mean((1, 2, 3))
        return (error * weight(t)).mean()

    return loss


def sd3(draw, weight):
    """SD3's loss: the data are regressed."""

    def loss(network, x):
        t = draw(len(x))
        z = wide(t) * torch.randn_like(x) + (1 - wide(t)) * x
        x_hat = z - wide(t) * network(z, t * 1000)
        return ((x_hat - x).square().mean((1, 2, 3)) * weight(t)).mean()

    return loss


def shift(t, s):
    return s * t / (1 + (s - 1) * t)


def normal_times(scale=1.0, s=1.0):
    return lambda n: shift(torch.sigmoid(scale * torch.randn(n)), s)


def from_noise(u, s=1.0):
    """The steps of a scheduler, which counts them from noise to data."""
    table = shift(torch.arange(1000, 0, -1) / 1000, s)
    return table[(u * 1000).long()]


def cosmap(t):
    return 2 / (math.pi * (1 - 2 * t + 2 * t**2))


def mode(n, scale):
    u = torch.rand(n)
    return 1 - u - scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)


MU_512 = 0.5 + 0.65 * (32 * 32 - 256) / (4096 - 256)  # 512 x 512 pixels, patches of 16
MU_QWEN = 0.5 + 0.4 * (64 * 48 - 256) / (8192 - 256)

KOHYA = {
    "--min_snr_gamma 5": diffusion(lambda snr: snr.clamp(max=5) / snr, is_v=False),
    "--min_snr_gamma 3 --v_parameterization --zero_terminal_snr":
        diffusion(lambda snr: snr.clamp(max=3) / (snr + 1), is_v=True, table=rescaled(ALPHA_BAR)),
    "--debiased_estimation_loss --scale_v_pred_loss_like_noise_pred --v_parameterization":
        (diffusion(lambda snr: snr / (snr + 1) ** 2, is_v=True)),
    "--v_pred_like_loss 0.5 --min_timestep 200 --max_timestep 900":
        diffusion(lambda snr: 1 + 0.5 * (snr + 1) / snr, is_v=False, low=200, high=900),
    "flux_train_network.py --timestep_sampling flux_shift --resolution 512":
        flow(normal_times(s=math.exp(MU_512)), output="sigma_scaled"),
    "--timestep_sampling shift --model_prediction_type additive --sigmoid_scale 0.7":
        flow(normal_times(0.7, 3.0), output="additive"),
    "flux_train.py --weighting_scheme cosmap --discrete_flow_shift 2":
        flow(lambda n: from_noise(torch.rand(n), 2), output="sigma_scaled", weight=cosmap),
    "lumina_train.py --timestep_sampling uniform": flow(torch.rand, sign=-1),
    "anima_train.py --weighting_scheme cosmap": flow(normal_times(), weight=cosmap),
    "sd3_train.py --weighting_scheme logit_normal --logit_std 0.8 --training_shift 3":
        sd3(lambda n: (shift(torch.sigmoid(0.8 * torch.randn(n)), 3.0) * 1000).long() / 1000,
        torch.ones_like),
}  # fmt: skip


def nearest_step(t):
    """The scheduler's step that is nearest to 1000 t + 1."""
    return (t * 1000 + 1).round().clamp(max=1000) / 1000


MUSUBI = {
    "qwen_image_train_network.py --timestep_sampling qwen_shift --resolution 1024,768":
        flow(normal_times(s=math.exp(MU_QWEN))),
    "--timestep_sampling uniform --weighting_scheme cosmap": flow(torch.rand,
        weight=lambda t: cosmap(nearest_step(t))),
    "--timestep_sampling logsnr --logit_mean -6 --logit_std 2":
        flow(lambda n: torch.sigmoid((6 - 2 * torch.randn(n)) / 2)),
    "--timestep_sampling shift --discrete_flow_shift 5 --min_timestep 100 --max_timestep 800":
        flow(lambda n: 0.1 + 0.7 * normal_times(s=5.0)(n)),
    "zimage_train.py --weighting_scheme mode --mode_scale 0.8": flow(lambda n: from_noise(mode(n,
        0.8)), sign=-1),
}  # fmt: skip
