"""Losses of public trainers, written out as their settings make them, in our own words.

Each is what the trainer does between the clean latents and the loss, with its own table, times and
coefficients, and beside it the settings, as its users write them. Nothing here imports elbos.
"""

import math

import numpy as np
import scipy
import torch

BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
ALPHA_BAR = torch.cumprod(1 - BETAS, 0)


def rescaled(alpha_bar):
    """The table whose last step is pure noise, and whose first stays."""
    root = alpha_bar.sqrt()
    return ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2


ZERO_TERMINAL = rescaled(ALPHA_BAR)


def wide(values):
    return values[:, None, None, None]


def between(low, high):
    return lambda n: torch.randint(low, high, (n,))


ANY = between(0, 1000)


def diffusion(weight, steps=ANY, *, is_v=False, table=ALPHA_BAR, snr_table=ALPHA_BAR):
    """Stable Diffusion's loss, with a weight that is a function of the SNR of some table."""

    def loss(network, x):
        step = steps(len(x))
        alpha, sigma = wide(table[step].sqrt().float()), wide((1 - table[step]).sqrt().float())
        eps = torch.randn_like(x)
        target = alpha * eps - sigma * x if is_v else eps
        error = (network(alpha * x + sigma * eps, step) - target).square().mean((1, 2, 3))
        snr = snr_table[step] / (1 - snr_table[step])
        return (error * weight(snr).float()).mean()

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


def shift(t, s):
    return s * t / (1 + (s - 1) * t)


def shift_of(tokens, tokens_high=4096, mu_high=1.15):
    """The shift e^mu, mu linear in the number of 16x16-pixel patches."""
    return math.exp(0.5 + (mu_high - 0.5) * (tokens - 256) / (tokens_high - 256))


def normal_times(scale=1.0, s=1.0, mean=0.0):
    return lambda n: shift(torch.sigmoid(scale * torch.randn(n) + mean), s)


def cosmap(t):
    return 2 / (math.pi * (1 - 2 * t + 2 * t**2))


def mode(n, scale):
    u = torch.rand(n)
    return 1 - u - scale * (torch.cos(math.pi * u / 2) ** 2 - 1 + u)


# --- kohya's two trainers -------------------------------------------------------------------------


def sd3(network, x):
    """Shifted, rounded times of SD3, whose loss regresses the data."""
    t = (shift(torch.sigmoid(0.8 * torch.randn(len(x))), 3.0) * 1000).long() / 1000
    z = wide(t) * torch.randn_like(x) + (1 - wide(t)) * x
    return (z - wide(t) * network(z, t * 1000) - x).square().mean()


def from_noise(u, s=1.0):
    """The steps of a scheduler, which counts them from noise to data."""
    table = shift(torch.arange(1000, 0, -1) / 1000, s)
    return table[(u * 1000).long()]


def nearest_step(t):
    """The scheduler's step that is nearest to 1000 t + 1."""
    return (t * 1000 + 1).round().clamp(max=1000) / 1000


KOHYA = {
    "--min_snr_gamma 5": diffusion(lambda snr: snr.clamp(max=5) / snr),
    "--min_snr_gamma 3 --v_parameterization --zero_terminal_snr":
        diffusion(lambda snr: snr.clamp(max=3) / (snr + 1), is_v=True, table=ZERO_TERMINAL),
    "--debiased_estimation_loss --scale_v_pred_loss_like_noise_pred --v_parameterization":
        (diffusion(lambda snr: snr / (snr + 1) ** 2, is_v=True)),
    "--v_pred_like_loss 0.5 --min_timestep 200 --max_timestep 900":
        diffusion(lambda snr: 1 + 0.5 * (snr + 1) / snr, between(200, 900)),
    "flux_train_network.py --timestep_sampling flux_shift --resolution 512":
        flow(normal_times(s=shift_of(32 * 32)), output="sigma_scaled"),
    "--timestep_sampling shift --model_prediction_type additive --sigmoid_scale 0.7":
        flow(normal_times(0.7, 3.0), output="additive"),
    "flux_train.py --weighting_scheme cosmap --discrete_flow_shift 2":
        flow(lambda n: from_noise(torch.rand(n), 2), output="sigma_scaled", weight=cosmap),
    "lumina_train.py --timestep_sampling uniform": flow(torch.rand, sign=-1),
    "anima_train.py --weighting_scheme cosmap": flow(normal_times(), weight=cosmap),
    "sd3_train.py --weighting_scheme logit_normal --logit_std 0.8 --training_shift 3": sd3,
}  # fmt: skip
MUSUBI = {
    "qwen_image_train_network.py --timestep_sampling qwen_shift --resolution 1024,768":
        flow(normal_times(s=shift_of(64 * 48, 8192, 0.9))),
    "--timestep_sampling uniform --weighting_scheme cosmap": flow(torch.rand,
        weight=lambda t: cosmap(nearest_step(t))),
    "--timestep_sampling logsnr --logit_mean -6 --logit_std 2":
        flow(lambda n: torch.sigmoid((6 - 2 * torch.randn(n)) / 2)),
    "--timestep_sampling shift --discrete_flow_shift 5 --min_timestep 100 --max_timestep 800":
        flow(lambda n: 0.1 + 0.7 * normal_times(s=5.0)(n)),
    "zimage_train.py --weighting_scheme mode --mode_scale 0.8": flow(lambda n: from_noise(mode(n,
        0.8)), sign=-1),
}  # fmt: skip


# --- OneTrainer -----------------------------------------------------------------------------------


def cut(u, *, high=1000, s=1.0):
    """Whole steps, of times that are stretched to a range and then shifted."""
    return (1000 * shift(high * u / 1000, s)).int()


def at_steps(steps, weight=torch.ones_like):
    return flow(lambda n: (steps(n) + 1) / 1000, weight=weight)


LINE = torch.linspace(0, 1, 1000)
COS_MAP = 1.5 / (1.5 + LINE - LINE * 1.5) ** 2 * cosmap(LINE / (1.5 - 1.5 * LINE + LINE))
V = {"model_type": "STABLE_DIFFUSION_XL_10_BASE", "force_v_prediction": True}
FLUX = {"model_type": "FLUX_DEV_1"}
ONETRAINER = [
    (V | {"loss_weight_fn": "MIN_SNR_GAMMA"},
        diffusion(lambda snr: snr.clamp(max=5) / (snr + 1), is_v=True)),
    (V | {"loss_weight_fn": "DEBIASED_ESTIMATION", "max_noising_strength": 0.8},
        diffusion(lambda snr: 1 / (snr.clamp(max=1000) + 1).sqrt(), between(0, 800), is_v=True)),
    ({"loss_weight_fn": "P2", "loss_weight_strength": 0.5, "timestep_shift": 2.0},
        diffusion(lambda snr: (1 + snr) ** -0.5, lambda n: cut(torch.rand(n), s=2.0))),
    ({"rescale_noise_scheduler_to_zero_terminal_snr": True, "loss_weight_fn": "MIN_SNR_GAMMA",
        "loss_weight_strength": 1.0}, diffusion(lambda snr: snr.clamp(max=1) / (snr + 1),
        is_v=True, table=ZERO_TERMINAL, snr_table=ZERO_TERMINAL)),
    (FLUX | {"timestep_distribution": "HEAVY_TAIL", "noising_weight": 0.6, "timestep_shift": 2},
        at_steps(lambda n: cut(mode(n, 0.6).clamp(max=0.9999), s=2.0))),
    (FLUX | {"timestep_distribution": "LOGIT_NORMAL", "noising_bias": 0.3, "noising_weight": 0.5}
        | {"dynamic_timestep_shifting": True, "resolution": "1024"},
        at_steps(lambda n: cut(torch.sigmoid(0.3 + 1.5 * torch.randn(n)), s=shift_of(64 * 64)))),
    (FLUX | {"timestep_distribution": "BETA", "noising_weight": 0.6, "noising_bias": 1.0},
        at_steps(lambda n: cut(torch.rand(n) ** (1 / 0.6)))),
    (FLUX | {"timestep_distribution": "COS_MAP", "timestep_shift": 1.5, "loss_weight_fn": "SIGMA"},
        at_steps(lambda n: torch.multinomial(COS_MAP, n, replacement=True), weight=lambda t: t)),
]  # fmt: skip


# --- SimpleTuner ----------------------------------------------------------------------------------


def segments_of_4(num):
    """One step from each of four segments, noisy ones first: neighbours share a step, which the
    normalization of one segment has made rarer in the next.
    """
    weights, steps = torch.ones(1000), []
    for first, last in ((749, 999), (499, 749), (249, 499), (0, 249)):
        inside = weights[first : last + 1]
        inside /= inside.sum()
        steps.append(first + torch.multinomial(inside, num // 4, replacement=True))
    return torch.cat(steps)


LATER_THRICE = torch.cat([torch.ones(750), 3 * torch.ones(250)])
CDF = scipy.stats.norm(1.09, 0.95 * 1.2).cdf(scipy.special.logit(np.linspace(0, 0.95, 1001)))
MOSS = torch.from_numpy(0.99 * np.diff(CDF) / CDF[-1] + 0.01 / 1000)
SIMPLETUNER = [
    ({"model_family": "flux"}, flow(normal_times(s=3.0))),
    ({"model_family": "flux", "flow_schedule_auto_shift": True, "flow_sigmoid_scale": 0.7,
        "resolution": 768}, flow(normal_times(0.7, shift_of(48 * 48)))),
    ({"model_family": "sd3", "flow_use_beta_schedule": True, "flow_beta_schedule_alpha": 2,
        "flow_beta_schedule_beta": 3, "flow_schedule_shift": 1.5},
        flow(lambda n: shift(torch.distributions.Beta(2.0, 3.0).sample((n,)), 1.5))),
    # The weight divides by SNR + 1 only where the model's own file says v_prediction.
    ({"model_family": "sdxl", "prediction_type": "v_prediction", "snr_gamma": 5,
        "train_batch_size": 4}, diffusion(lambda snr: snr.clamp(max=5) / snr, segments_of_4,
        is_v=True)),
    ({"model_family": "sd2x", "snr_gamma": 5, "train_batch_size": 1,
        "timestep_bias_strategy": "later", "timestep_bias_multiplier": 3},
        diffusion(lambda snr: snr.clamp(max=5) / (snr + 1),
        lambda n: torch.multinomial(LATER_THRICE, n, replacement=True), is_v=True,
        table=ZERO_TERMINAL, snr_table=ZERO_TERMINAL)),
    ({"model_family": "wan", "model_flavour": "i2v-14b-2.2-high", "flow_schedule_shift": 3,
        "timestep_sampling_offset": 0.4}, flow(normal_times(s=5.0, mean=0.4))),
    ({"model_family": "flux3_image", "flow_schedule_shift": 3}, flow(normal_times(s=6.93))),
    ({"model_family": "moss_image", "flow_sigmoid_scale": 1.2, "flow_schedule_shift": 3},
        flow(lambda n: torch.multinomial(MOSS, n, replacement=True).add(1) / 1000)),
]  # fmt: skip


# --- ai-toolkit -----------------------------------------------------------------------------------


def ai_toolkit(train, **rest):
    """The nested keys of a job."""
    return {"config": {"process": [{"train": train, **rest}]}}


LINEAR = torch.linspace(1000, 1, 1000) / 1000


def times_at(steps, table=LINEAR):
    return lambda n: table[steps(n)]


def sorted_draws(steps):
    """Of 1,000 fresh draws, sorted, those at some places."""
    return lambda n: torch.sigmoid(torch.randn(1000)).sort(descending=True).values[steps(n)]


def bell(t):
    """A bell whose minimum is 0."""
    return torch.exp(-2 * (t - 0.5) ** 2) - math.exp(-0.5)


def lognorm_blend(n):
    """750 draws over the largest, and 250 even steps, rounded."""
    draws = torch.exp(0.333 * torch.randn(750))
    times = torch.cat([(1 - draws / draws.max()) * 1000, torch.linspace(1000, 1, 250)])
    table = times.sort(descending=True).values.to(torch.int)
    return table[torch.randint(0, 999, (n,))] / 1000


FLOWMATCH = {"noise_scheduler": "flowmatch"}
ALL_BUT_LAST = between(0, 999)
AI_TOOLKIT = [
    (ai_toolkit(FLOWMATCH), flow(sorted_draws(ALL_BUT_LAST))),
    (ai_toolkit(FLOWMATCH | {"linear_timesteps": True}), flow(times_at(ALL_BUT_LAST), weight=bell)),
    (ai_toolkit(FLOWMATCH | {"linear_timesteps2": True}),
        flow(times_at(ALL_BUT_LAST), weight=lambda t: bell(t.clamp(min=0.5)))),
    (ai_toolkit(FLOWMATCH | {"timestep_type": "flux_shift"}, model={"is_flux": True},
        datasets=[{"resolution": [1024]}]), flow(times_at(ALL_BUT_LAST,
        shift(torch.linspace(1, 0.001, 1000), shift_of(64 * 64))))),
    # The shift of 6 does not reach the scheduler.
    (ai_toolkit(FLOWMATCH | {"timestep_type": "shift"}, model={"arch": "lumina2"}),
        flow(times_at(ALL_BUT_LAST))),
    (ai_toolkit(FLOWMATCH | {"content_or_style": "content", "timestep_type": "linear"}),
        flow(times_at(lambda n: (torch.rand(n) ** 3 * 1000).long().clamp(0, 999)))),
    (ai_toolkit(FLOWMATCH | {"content_or_style": "style"}),
        flow(sorted_draws(lambda n: ((1 - torch.rand(n) ** 3) * 1000).long().clamp(0, 999)))),
    (ai_toolkit(FLOWMATCH | {"timestep_type": "lognorm_blend"}), flow(lognorm_blend)),
    (ai_toolkit({"min_snr_gamma": 5}),
        diffusion(lambda snr: (5 / snr).clamp(max=1), between(2, 999))),
    (ai_toolkit({"snr_gamma": 5}), diffusion(lambda snr: 5 / snr, between(2, 999))),
]  # fmt: skip


# --- diffusion-pipe -------------------------------------------------------------------------------

QUANTILES = torch.special.ndtri(torch.linspace(1e-4, 1 - 1e-4, 10_000))
WAN = shift(torch.sigmoid(QUANTILES), 3.0)
WAN = WAN[(WAN >= 0.2) & (WAN < 0.875)]


def cosmos(network, x):
    """EDM's preconditioning and weight with sigma_data .5 and ln sigma ~ N(0, 1)."""
    sigma = torch.exp(torch.randn(len(x)))
    s = wide(sigma)
    z = x + s * torch.randn_like(x)
    norm = s**2 + 0.25
    output = network(z / norm.sqrt(), sigma.log() / 4)
    x_hat = 0.25 / norm * z + s * 0.5 / norm.sqrt() * output
    return ((x_hat - x).square() * norm / (s * 0.5) ** 2).mean()


DIFFUSION_PIPE = [
    ({"model": {"type": "flux", "flux_shift": True, "sigmoid_scale": 1.2}, "resolutions": [640]},
        flow(normal_times(1.2, shift_of(40 * 40)))),
    ({"model": {"type": "lumina_2", "shift": 3, "timestep_sample_method": "uniform"}},
        flow(lambda n: shift(torch.rand(n), 3.0), sign=-1)),
    ({"model": {"type": "wan", "shift": 3, "min_t": 0.2, "max_t": 0.875}},
        flow(times_at(between(0, len(WAN)), WAN))),
    ({"model": {"type": "sdxl", "v_pred": True, "min_snr_gamma": 5}},
        diffusion(lambda snr: snr.clamp(max=5) / (snr + 1), is_v=True, table=ZERO_TERMINAL)),
    ({"model": {"type": "sdxl", "debiased_estimation_loss": True}},
        diffusion(lambda snr: snr.clamp(max=1000).rsqrt())),
    ({"model": {"type": "cosmos"}}, cosmos),
]  # fmt: skip
LOSSES = {
    "kohya": [*KOHYA.items()],
    "musubi": [*MUSUBI.items()],
    "onetrainer": ONETRAINER,
    "simpletuner": SIMPLETUNER,
    "ai-toolkit": AI_TOOLKIT,
    "diffusion-pipe": DIFFUSION_PIPE,
}
"""Settings and losses, by trainer."""
