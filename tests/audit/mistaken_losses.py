"""Losses with a planted mistake, and losses that are more than one weighted squared error.

`MISTAKES` pairs a right loss with a wrong one; most were in public trainers. `ODDITIES` are losses
that no weighting describes, or only together with a remark: the audit must say so, not measure
on. Nothing here imports elbos.
"""

import copy
import math
from collections.abc import Callable
from typing import NamedTuple

import scipy
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler


class Mistake(NamedTuple):
    name: str
    right: Callable
    wrong: Callable


class Oddity(NamedTuple):
    """A loss, and the kind of diagnostic that the audit has to give; None: no one."""

    name: str
    loss: Callable
    kind: str | None


def expand(v, x):
    """[b] to [b, 1, 1, 1]."""
    return v.view(-1, *[1] * (x.ndim - 1))


# ------------------------------------------------------------- losses with a hole for the mistake

COSINE = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
ZERO_SNR = DDPMScheduler(beta_schedule="scaled_linear", rescale_betas_zero_snr=True).alphas_cumprod
OF_SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SD_ZERO_SNR = DDPMScheduler(rescale_betas_zero_snr=True, **OF_SD).alphas_cumprod


def discrete(prediction_type, weight, alphas_cumprod=COSINE):
    """A loss on 1000 steps, each sample's squared error times weight(snr)."""

    def loss_fn(network, x):
        t = torch.randint(0, len(alphas_cumprod), (x.shape[0],))
        noise = torch.randn_like(x)
        alpha, sigma = (expand(v.sqrt(), x) for v in (alphas_cumprod[t], 1 - alphas_cumprod[t]))
        targets = {"epsilon": noise, "sample": x, "v_prediction": alpha * noise - sigma * x}
        pred = network(alpha * x + sigma * noise, t)
        mse = F.mse_loss(pred, targets[prediction_type], reduction="none").mean(dim=(1, 2, 3))
        snr = alphas_cumprod[t] / (1 - alphas_cumprod[t])
        return (weight(snr) * mse).mean()

    return loss_fn


def reduced(reduce, alphas_cumprod=COSINE):
    """Min-SNR for eps; `reduce` turns the squared errors, not reduced, and weights into a loss."""

    def loss_fn(network, x):
        t = torch.randint(0, len(alphas_cumprod), (x.shape[0],))
        noise = torch.randn_like(x)
        alpha, sigma = (expand(v.sqrt(), x) for v in (alphas_cumprod[t], 1 - alphas_cumprod[t]))
        pred = network(alpha * x + sigma * noise, t)
        snr = alphas_cumprod[t] / (1 - alphas_cumprod[t])
        return reduce((pred - noise) ** 2, torch.clamp(5 / snr, max=1))

    return loss_fn


def edm(p_mean=-1.2, p_std=1.2, weight=lambda sigma: (sigma**2 + 0.25) / (sigma * 0.5) ** 2):
    """EDM for a denoiser."""

    def loss_fn(network, x):
        sigma = (p_mean + p_std * torch.randn(x.shape[0], 1, 1, 1)).exp()
        denoised = network(x + sigma * torch.randn_like(x), sigma.flatten())
        return (weight(sigma) * (denoised - x) ** 2).flatten(1).mean(1)

    return loss_fn


def flow(sample_t):
    """Rectified flow with noise at t = 1; `sample_t` makes times of a batch size."""

    def loss_fn(network, x):
        t = sample_t(x.shape[0])
        noise = torch.randn_like(x)
        pred = network((1 - expand(t, x)) * x + expand(t, x) * noise, t * 1000)
        return F.mse_loss(pred.float(), (noise - x).float())

    return loss_fn


def shifted(t, shift):
    return shift * t / (1 + (shift - 1) * t)


def sqrt_twice(network, x):
    """The tables are square roots already."""
    sqrt_alphas_cumprod, sqrt_one_minus_alphas_cumprod = COSINE.sqrt(), (1 - COSINE).sqrt()
    t = torch.randint(0, 1000, (x.shape[0],))
    noise = torch.randn_like(x)
    signal, spread = sqrt_alphas_cumprod[t].sqrt(), sqrt_one_minus_alphas_cumprod[t].sqrt()
    return F.mse_loss(network(expand(signal, x) * x + expand(spread, x) * noise, t), noise)


def one_where_zero(weight):
    """The patch that keeps a weight finite: one wherever the SNR is zero."""
    return lambda snr: torch.where(snr == 0, torch.ones_like(snr), weight(snr))


def min_snr_v(snr):
    return snr.clamp(max=5) / (snr + 1)


MIN_SNR_EPS = discrete("epsilon", lambda snr: torch.clamp(5 / snr, max=1))
MIN_SNR_V = discrete("v_prediction", min_snr_v)
EDM, FLOW = edm(), flow(lambda b: shifted(torch.rand(b), 3))
MIN_SNR_REDUCED = reduced(lambda squared_error, w: (w * squared_error.mean((1, 2, 3))).mean())


def flow_of_data(power):
    """The flow loss of a network that predicts the data, over a power of the time."""

    def loss_fn(network, x):
        t = expand(torch.rand(len(x)).clamp(1e-3, 1 - 1e-3), x)
        error = network((1 - t) * x + t * torch.randn_like(x), t) - x
        return (error.square() / t**power).mean()

    return loss_fn


MISTAKES = [
    Mistake("time_not_squared", flow_of_data(2), flow_of_data(1)),
    Mistake(
        "max_for_min",
        discrete("sample", lambda snr: snr.clamp(max=5)),
        discrete("sample", lambda snr: snr.clamp(min=5)),
    ),
    Mistake(
        "snr_is_a_root",
        MIN_SNR_EPS,
        discrete("epsilon", lambda snr: torch.clamp(5 / snr.sqrt(), max=1)),
    ),
    Mistake(
        "eps_weight_on_v", MIN_SNR_V, discrete("v_prediction", lambda snr: snr.clamp(max=5) / snr)
    ),
    Mistake(
        "one_plus_min_snr",
        MIN_SNR_V,
        discrete("v_prediction", lambda snr: snr.clamp(max=5) / snr + 1),
    ),
    Mistake(
        "one_at_zero_snr",
        discrete("v_prediction", min_snr_v, ZERO_SNR),
        discrete("v_prediction", one_where_zero(min_snr_v), ZERO_SNR),
    ),
    Mistake(
        "p2_exponent_sign",
        discrete("epsilon", lambda snr: (1 + snr) ** -1.0),
        discrete("epsilon", lambda snr: (1 + snr) ** 1.0),
    ),
    Mistake("sqrt_twice", discrete("epsilon", torch.ones_like), sqrt_twice),
    Mistake(
        "broadcast",
        MIN_SNR_REDUCED,
        reduced(lambda squared_error, w: (w * squared_error.mean((1, 2, 3), True)).mean()),
    ),
    Mistake("p_mean_sign", EDM, edm(p_mean=+1.2)),
    Mistake("p_mean_p_std_swapped", edm(p_mean=-0.8, p_std=1.6), edm(p_mean=1.6, p_std=-0.8)),
    Mistake(
        "sigma_data_not_squared",
        EDM,
        edm(weight=lambda sigma: (sigma**2 + 0.5) / (sigma * 0.5) ** 2),
    ),
    Mistake("shifted_twice", FLOW, flow(lambda b: shifted(shifted(torch.rand(b), 3), 3))),
]


# --------------------------------------------------------------------------------------- oddities


def cosine_time(x):
    """Times [b], and alpha and sigma as [b, 1, 1, 1]."""
    t = torch.rand(x.shape[0]) * (1 - 2e-4) + 1e-4
    return t, expand(torch.cos(math.pi / 2 * t), x), expand(torch.sin(math.pi / 2 * t), x)


def elementwise(criterion):
    """A loss on eps by another criterion than the square."""

    def loss_fn(network, x):
        t, alpha, sigma = cosine_time(x)
        noise = torch.randn_like(x)
        return criterion(network(alpha * x + sigma * noise, t), noise)

    return loss_fn


def from_noise(draw):
    """A squared loss on eps for noise of another kind."""

    def loss_fn(network, x):
        t, alpha, sigma = cosine_time(x)
        noise = draw(x)
        return F.mse_loss(network(alpha * x + sigma * noise, t), noise)

    return loss_fn


def offset_noise(strength):
    """SDXL was trained with 0.0357."""
    return lambda x: torch.randn_like(x) + strength * torch.randn(x.shape[0], x.shape[1], 1, 1)


def noise_for_the_batch(x):
    return torch.randn(1, *x.shape[1:]).expand_as(x)


def two_draws(x):
    return 0.6 * torch.randn_like(x) + 0.8 * torch.randn_like(x)


def input_perturbation(network, x):
    """The network sees a little more noise than it is asked for."""
    t, alpha, sigma = cosine_time(x)
    noise = torch.randn_like(x)
    perturbed = noise + 0.1 * torch.randn_like(x)
    return F.mse_loss(network(alpha * x + sigma * perturbed, t), noise)


def uniform_noise(x):
    return (2 * torch.rand_like(x) - 1) * math.sqrt(3)


def scipy_noise(x):
    return torch.from_numpy(scipy.stats.norm.rvs(size=x.shape)).to(x)


def frozen_conv(in_channels, out_channels, stride, seed):
    """Weights of a 3x3 convolution, the same on every call."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out_channels, in_channels, 3, 3, generator=generator)
    weight = weight / math.sqrt(9 * in_channels)
    return lambda v: F.conv2d(v, weight.to(v), stride=stride, padding=1)


def adversarial(network, x):
    """A squared loss and the generator's loss against a discriminator of x_hat."""
    t, alpha, sigma = cosine_time(x)
    noise = torch.randn_like(x)
    v = network(alpha * x + sigma * noise, t)
    x_hat = alpha * (alpha * x + sigma * noise) - sigma * v
    hidden = F.leaky_relu(frozen_conv(x.shape[1], 16, 2, seed=1)(x_hat), 0.2)
    logits = frozen_conv(16, 1, 1, seed=2)(hidden)
    return F.mse_loss(v, alpha * noise - sigma * x) + 0.1 * F.softplus(-logits).mean()


def one_level_per_batch(network, x):
    t = torch.rand(1) * 0.998 + 0.001
    alpha, sigma = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
    noise = torch.randn_like(x)
    return F.mse_loss(network(alpha * x + sigma * noise, t.expand(x.shape[0])), noise)


def masked(network, x):
    """Inpainting: only the error inside a fixed central box counts."""
    h, w = x.shape[2:]
    mask = torch.zeros(1, 1, h, w)
    mask[..., h // 4 : h - h // 4, w // 4 : w - w // 4] = 1
    t, alpha, sigma = cosine_time(x)
    noise = torch.randn_like(x)
    loss = (network(alpha * x + sigma * noise, t) - noise) ** 2 * mask
    return loss.sum() / (mask.sum() * x.shape[0] * x.shape[1])


def learned_variance(network, x):
    """guided-diffusion: eps and a variance in twice the channels, L_hybrid."""
    betas = 1 - COSINE / torch.cat([torch.ones(1), COSINE[:-1]])
    alphas_cumprod_prev = torch.cat([torch.ones(1), COSINE[:-1]])
    posterior_variance = betas * (1 - alphas_cumprod_prev) / (1 - COSINE)
    posterior_log_variance = torch.cat([posterior_variance[1:2], posterior_variance[1:]]).log()

    def at(table):
        return expand(table[t], x)

    t = torch.randint(1, 1000, (x.shape[0],))
    noise = torch.randn_like(x)
    x_t = at(COSINE).sqrt() * x + (1 - at(COSINE)).sqrt() * noise
    model_output = network(x_t, t)
    if model_output.shape != (x.shape[0], 2 * x.shape[1], *x.shape[2:]):
        raise ValueError(f"expected twice the channels, got {tuple(model_output.shape)}")
    eps, values = torch.split(model_output, x.shape[1], dim=1)

    def mean(x_start):
        coef_x = at(betas) * at(alphas_cumprod_prev).sqrt() / (1 - at(COSINE))
        coef_z = (1 - at(alphas_cumprod_prev)) * (1 - at(betas)).sqrt() / (1 - at(COSINE))
        return coef_x * x_start + coef_z * x_t

    frozen_x = (x_t - (1 - at(COSINE)).sqrt() * eps.detach()) / at(COSINE).sqrt()
    frac = (values + 1) / 2
    log_variance = frac * at(betas).log() + (1 - frac) * at(posterior_log_variance)
    true = at(posterior_log_variance)
    gap = (mean(x) - mean(frozen_x)) ** 2
    kl = 0.5 * (log_variance - true - 1 + (true - log_variance).exp() + gap * (-log_variance).exp())
    vb = kl.mean((1, 2, 3)) / math.log(2)
    return ((eps - noise) ** 2).mean((1, 2, 3)) + vb


def self_conditioning(network, x):
    """Half of the time the network first sees its own estimate, made without gradients."""
    t, alpha, sigma = cosine_time(x)
    noise = torch.randn_like(x)
    z, x_self_cond = alpha * x + sigma * noise, None
    if torch.rand(()) < 0.5:
        with torch.no_grad():
            x_self_cond = network(z, t, torch.zeros_like(x)).detach()
    return F.mse_loss(network(z, t, torch.zeros_like(x) if x_self_cond is None else x_self_cond), x)


def taught(network, x):
    """The target is what a copy of the network, an average of its weights, says."""
    teacher = copy.deepcopy(network).eval().requires_grad_(False)
    t, alpha, sigma = cosine_time(x)
    z = alpha * x + sigma * torch.randn_like(x)
    with torch.no_grad():
        target = teacher(z, t)
    return F.mse_loss(network(z, t), target)


def two_calls(network, x):
    """Two noise levels of every image, both trained."""
    total = 0
    for _ in range(2):
        t, alpha, sigma = cosine_time(x)
        noise = torch.randn_like(x)
        total = total + F.mse_loss(network(alpha * x + sigma * noise, t), noise)
    return total / 2


def preprocessed(normalize):
    """A v-loss on what the script makes of the batch it is given."""

    def loss_fn(network, x):
        x = normalize(x)
        t, alpha, sigma = cosine_time(x)
        noise = torch.randn_like(x)
        return F.mse_loss(network(alpha * x + sigma * noise, t), alpha * noise - sigma * x)

    return loss_fn


def per_channel(x):
    """ImageNet's means and standard deviations, repeated over the channels there are."""
    mean = torch.tensor([0.485, 0.456, 0.406]).repeat(x.shape[1])[: x.shape[1]]
    std = torch.tensor([0.229, 0.224, 0.225]).repeat(x.shape[1])[: x.shape[1]]
    return (x - mean.view(1, -1, 1, 1)) / std.view(1, -1, 1, 1)


def weight_depends_on_x(network, x):
    """Images that are brighter than others count for more."""
    t, alpha, sigma = cosine_time(x)
    noise = torch.randn_like(x)
    mse = ((network(alpha * x + sigma * noise, t) - noise) ** 2).mean((1, 2, 3))
    return (mse * (1 + x.square().mean((1, 2, 3)))).mean()


def learned_loss_weight(network, x):
    """EDM2: the network returns the logarithm of the loss's variance besides."""
    sigma = (torch.randn(x.shape[0], 1, 1, 1) - 0.4).exp()
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2
    denoised, logvar = network(x + torch.randn_like(x) * sigma, sigma, return_logvar=True)
    return weight / logvar.exp() * (denoised - x) ** 2 + logvar


ODDITIES = [
    Oddity("huber", elementwise(lambda pred, y: F.huber_loss(pred, y, delta=0.1)), "not-squared"),
    Oddity("offset_noise", from_noise(offset_noise(0.1)), "offset-noise"),
    Oddity("noise_for_the_batch", from_noise(noise_for_the_batch), "shared-noise"),
    Oddity("two_draws", from_noise(two_draws), "summed-noise"),
    Oddity("uniform_noise", from_noise(uniform_noise), "not-normal"),
    Oddity("scipy_noise", from_noise(scipy_noise), "noise-unseen"),
    Oddity("adversarial", adversarial, "coupled"),
    Oddity("one_level_per_batch", one_level_per_batch, "one-level-per-batch"),
    Oddity("masked", masked, "untrained-elements"),
    Oddity("learned_variance", learned_variance, "learned-variance"),
    Oddity("learned_loss_weight", learned_loss_weight, "second-output"),
    Oddity("self_conditioning", self_conditioning, "untrained-calls"),
    Oddity("taught", taught, "self-target"),
    Oddity("two_calls", two_calls, "several-calls"),
    Oddity("per_channel_normalization", preprocessed(per_channel), "encoded"),
    Oddity("zero_terminal_snr", discrete("v_prediction", torch.ones_like, SD_ZERO_SNR), None),
    Oddity("weight_depends_on_x", weight_depends_on_x, "data-dependent"),
]
