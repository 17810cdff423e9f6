"""Training losses as people write them: every recipe of `elbos.recipes`, by another route.

Nothing here imports elbos. Each function is what a training script of its community computes
for a batch `x` of shape [b, c, h, w], in that community's process (variance preserving, variance
exploding, rectified flow), prediction type, time (continuous or a table), units, call signature
and return value (scalar, [b], unreduced, tuple, dict). `CASES` says which recipe each one is.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F


def append_dims(v, x):
    """[b] to [b, 1, 1, 1]."""
    return v.reshape(-1, *[1] * (x.ndim - 1))


def extract(table, t, x):
    """A numpy table at integer times, as float32 [b, 1, 1, 1]."""
    return append_dims(torch.from_numpy(table).to(t.device)[t].float(), x)


def mean_flat(v):
    return v.mean(dim=list(range(1, v.ndim)))


def uniform(x, eps=1e-5):
    """Continuous times, kept off both ends, [b]."""
    return torch.rand(x.shape[0], device=x.device) * (1 - 2 * eps) + eps


def cosine(t, x):
    """Signal and noise scales of the cosine schedule, [b, 1, 1, 1]."""
    return append_dims(torch.cos(math.pi / 2 * t), x), append_dims(torch.sin(math.pi / 2 * t), x)


# ---------------------------------------------------------------- tables of discrete-time models


def betas_for_cosine(num_steps, max_beta=0.999):
    def alpha_bar(t):
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    return np.array(
        [
            min(1 - alpha_bar((i + 1) / num_steps) / alpha_bar(i / num_steps), max_beta)
            for i in range(num_steps)
        ]
    )


COSINE_1000 = np.cumprod(1 - betas_for_cosine(1000))
LINEAR_1000 = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))


def q_sample(alphas_cumprod, x, t, noise):
    return (
        extract(np.sqrt(alphas_cumprod), t, x) * x
        + extract(np.sqrt(1 - alphas_cumprod), t, x) * noise
    )


# ------------------------------------------------------------------------------ elbo: VDM and kin


def cosine_gamma(t):
    """VDM's gamma, minus log-SNR, of the cosine schedule."""
    return 2 * torch.log(torch.tan(math.pi / 2 * t))


def elbo(network, x):
    """The diffusion loss in bits per dimension; the network is told gamma."""
    t = uniform(x)
    gamma = cosine_gamma(t)
    dgamma_dt = 2 * math.pi / torch.sin(math.pi * t)
    sigma2 = append_dims(torch.sigmoid(gamma), x)
    eps = torch.randn_like(x)
    z = torch.sqrt(1 - sigma2) * x + torch.sqrt(sigma2) * eps
    eps_hat = network(z, gamma)
    loss = 0.5 * dgamma_dt * torch.sum((eps - eps_hat) ** 2, dim=(1, 2, 3))
    return torch.mean(loss) / (x[0].numel() * math.log(2))


def elbo_ve(network, x):
    """A denoiser told sigma; squared error over variance, log-uniform sigma, not reduced."""
    log_sigma = torch.empty(x.shape[0]).uniform_(math.log(0.01), math.log(50.0))
    sigma = append_dims(log_sigma.exp(), x)
    denoised = network(x + sigma * torch.randn_like(x), sigma)
    return (denoised - x) ** 2 / sigma**2


def elbo_linear(network, x):
    """VDM's fixed linear gamma, -13.3 to 5; then dgamma/dt is a constant and is dropped."""
    gamma = -13.3 + 18.3 * torch.rand(x.shape[0], 1, 1, 1)
    eps = torch.randn_like(x)
    z = torch.sigmoid(-gamma).sqrt() * x + torch.sigmoid(gamma).sqrt() * eps
    return F.mse_loss(network(z, gamma.squeeze()), eps)


# --------------------------------------------------------------------------------- iddpm and ddpm


def iddpm(network, x):
    """Continuous cosine time, L_simple."""
    t = uniform(x)
    alpha, sigma = cosine(t, x)
    noise = torch.randn_like(x)
    return ((network(alpha * x + sigma * noise, t) - noise) ** 2).mean()


def cosine_with_offset(logsnr, offset=0.008):
    r"""IDDPM's weighting with the offset of its schedule, $-dt/d\lambda$, which 1000 steps have.

    With $u = \frac\pi2 (t + s)/(1 + s)$ and $\bar\alpha = \cos^2 u / \cos^2 u_0$,
    $d\bar\alpha/dt \propto \sin 2u$, and $d\lambda = d\bar\alpha / \bar\alpha(1 - \bar\alpha)$.
    """
    alpha_bar = torch.sigmoid(logsnr)
    cos_u = alpha_bar.sqrt() * math.cos(math.pi / 2 * offset / (1 + offset))
    return alpha_bar * torch.sigmoid(-logsnr) / torch.sin(2 * torch.acos(cos_u))


def ddpm(network, x):
    """1000 linear betas, L_simple, as in the first notebook about diffusion."""
    t = torch.randint(0, 1000, (x.shape[0],))
    noise = torch.randn_like(x)
    return F.mse_loss(noise, network(q_sample(LINEAR_1000, x, t, noise), t))


# ---------------------------------------------------------------------------------------- EDM


def precondition(network, noisy, sigma, sigma_data=0.5):
    """EDM's denoiser D around the network F that is called, sigma of shape [b, 1, 1, 1]."""
    c_skip = sigma_data**2 / (sigma**2 + sigma_data**2)
    c_out = sigma * sigma_data / (sigma**2 + sigma_data**2).sqrt()
    c_in = 1 / (sigma_data**2 + sigma**2).sqrt()
    c_noise = sigma.log() / 4
    return c_skip * noisy + c_out * network(c_in * noisy, c_noise.flatten())


def edm(network, x):
    """EDM: weighted loss of D, preconditioned inside, times and noise as in its code."""
    sigma = (torch.randn([x.shape[0], 1, 1, 1]) * 1.2 - 1.2).exp()
    weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    denoised = precondition(network, x + torch.randn_like(x) * sigma, sigma)
    return weight * (denoised - x) ** 2


def edm2(network, x):
    """EDM2 on latents, with the preconditioning inside; its learned log-variance is left at 0."""
    sigma = (torch.randn(x.shape[0], 1, 1, 1) * 1.0 - 0.4).exp()
    logvar = torch.zeros_like(sigma)
    weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    denoised = precondition(network, x + torch.randn_like(x) * sigma, sigma)
    loss = (weight / logvar.exp()) * ((denoised - x) ** 2) + logvar
    return loss.sum().mul(1 / x.shape[0])


EDM_LN_SIGMA_PEAK = 3.30778 / 2  # where EDM's weighting is largest, in ln sigma


def edm_log_weighting(ln_sigma):
    """EDM's implied weighting, up to a constant."""
    return -0.5 * ((ln_sigma + 1.2) / 1.2) ** 2 + torch.log(torch.exp(2 * ln_sigma) + 0.25)


def edm_monotonic(network, x):
    """EDM, with the weighting lifted to its maximum for all noise beyond it."""
    ln_sigma = torch.randn(x.shape[0]) * 1.2 - 1.2
    sigma = append_dims(ln_sigma.exp(), x)
    at_most_peak = ln_sigma.clamp(max=EDM_LN_SIGMA_PEAK)
    lift = torch.exp(edm_log_weighting(at_most_peak) - edm_log_weighting(ln_sigma))
    weight = (sigma**2 + 0.25) / (sigma * 0.5) ** 2 * append_dims(lift, x)
    denoised = precondition(network, x + sigma * torch.randn_like(x), sigma)
    return (weight * (denoised - x) ** 2).flatten(1).mean(1)


# ------------------------------------------------------------------------------------ v-prediction


def v_cosine(network, x):
    """The scales are alpha = cos, sigma = sin; v = alpha eps - sigma x."""
    t = uniform(x)
    alphas, sigmas = torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)
    alphas, sigmas = alphas[:, None, None, None], sigmas[:, None, None, None]
    noise = torch.randn_like(x)
    v = network(x * alphas + noise * sigmas, t)
    return F.mse_loss(v, noise * alphas - x * sigmas)


# ------------------------------------------------------------------------------- rectified flow


def flow(network, x):
    """Noise is at t = 1, target noise - x."""
    t = torch.rand(x.shape[0])
    t_ = append_dims(t, x)
    noise = torch.randn_like(x)
    return ((network((1 - t_) * x + t_ * noise, t) - (noise - x)) ** 2).mean()


def flow__x_prediction(network, x):
    """The network predicts x, the loss is on the velocity made of it; t = 1 is data."""
    t = uniform(x, eps=1e-3)[:, None, None, None]
    e = torch.randn_like(x)
    z = t * x + (1 - t) * e
    x_pred = network(z, t.flatten())
    v, v_pred = (x - z) / (1 - t), (x_pred - z) / (1 - t)
    return ((v - v_pred) ** 2).mean(dim=(1, 2, 3)).mean()


def flow_shift_3(network, x):
    t = torch.rand((x.shape[0],))
    t = 3.0 * t / (1 + (3.0 - 1) * t)
    x_1 = torch.randn_like(x)
    x_t = (1 - append_dims(t, x)) * x + append_dims(t, x) * x_1
    model_pred = network(x_t, t * 1000)
    return F.mse_loss(model_pred.float(), (x_1 - x).float())


def sd3(network, x):
    t = torch.sigmoid(torch.randn(x.shape[0]))
    texp = t.view([x.shape[0], *([1] * len(x.shape[1:]))])
    z1 = torch.randn_like(x)
    v_theta = network((1 - texp) * x + texp * z1, t)
    batchwise_mse = ((z1 - x - v_theta) ** 2).mean(dim=list(range(1, len(x.shape))))
    return batchwise_mse.mean(), batchwise_mse.detach()


def sd3_cosmap(network, x):
    u = uniform(x)
    t = 1 - 1 / (torch.tan(math.pi / 2 * u) + 1)
    noise = torch.randn_like(x)
    pred = network((1 - append_dims(t, x)) * x + append_dims(t, x) * noise, t)
    return mean_flat((pred - (noise - x)) ** 2).mean()


def indi(network, x):
    """Restoration from pure noise: regress on x from (1 - t) x + t y."""
    y = torch.randn_like(x)
    t = torch.rand(x.shape[0], 1, 1, 1)
    return F.mse_loss(network((1 - t) * x + t * y, t.flatten()), x)


# ------------------------------------------------------------------------ weights by SNR


def p2_1(network, x, p2_gamma=1, p2_k=1):
    """P2's fork of guided-diffusion."""
    t = torch.randint(0, 1000, (x.shape[0],))
    noise = torch.randn_like(x)
    snr = 1.0 / (1 - COSINE_1000) - 1
    weight = extract(1 / (p2_k + snr) ** p2_gamma, t, x)
    model_output = network(q_sample(COSINE_1000, x, t, noise), t)
    terms = {"mse": mean_flat(weight * (noise - model_output) ** 2)}
    terms["loss"] = terms["mse"]
    return terms


def min_snr_5(network, x):
    """The paper's code: predict x, weight min(snr, 5)."""
    t = torch.randint(0, 1000, (x.shape[0],))
    snr = extract(COSINE_1000 / (1 - COSINE_1000), t, x).flatten()
    mse_loss_weight = torch.stack([snr, 5 * torch.ones_like(snr)], dim=1).min(dim=1)[0]
    model_output = network(q_sample(COSINE_1000, x, t, torch.randn_like(x)), t)
    return {"loss": mse_loss_weight * mean_flat((x - model_output) ** 2)}


def soft_min_snr_4(network, x):
    """k-diffusion: F's loss times (sigma sigma_data)^2 / (sigma^2 + sigma_data^2)^2."""
    sigma_data = 0.5
    sigma = torch.tan(math.pi / 2 * uniform(x))
    c_weight = (sigma * sigma_data) ** 2 / (sigma**2 + sigma_data**2) ** 2
    c_skip = append_dims(sigma_data**2 / (sigma**2 + sigma_data**2), x)
    c_out = append_dims(sigma * sigma_data / (sigma**2 + sigma_data**2) ** 0.5, x)
    c_in = append_dims(1 / (sigma**2 + sigma_data**2) ** 0.5, x)
    noised_input = x + torch.randn_like(x) * append_dims(sigma, x)
    model_output = network(noised_input * c_in, sigma)
    target = (x - c_skip * noised_input) / c_out
    return ((model_output - target) ** 2).flatten(1).mean(1) * c_weight


def truncated_snr__maximum(network, x):
    """Progressive distillation: the larger of the x- and the eps-loss of a v-network."""
    t = uniform(x, eps=1e-4)
    alpha, sigma = cosine(t, x)
    eps = torch.randn_like(x)
    z = alpha * x + sigma * eps
    v = network(z, t)
    x_mse = mean_flat((x - (alpha * z - sigma * v)) ** 2)
    eps_mse = mean_flat((eps - (sigma * z + alpha * v)) ** 2)
    return torch.maximum(x_mse, eps_mse).mean()


def snr_plus_1(network, x):
    t = uniform(x)
    logsnr = -2 * torch.log(torch.tan(math.pi / 2 * t))
    alpha, sigma = logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()
    x_hat = network(append_dims(alpha, x) * x + append_dims(sigma, x) * torch.randn_like(x), logsnr)
    return ((1 + logsnr.exp()) * mean_flat((x_hat - x) ** 2)).mean()


def laplace(network, x):
    """The paper's quantile function; a v-network told log-SNR."""
    t = uniform(x)
    logsnr = -0.5 * torch.sign(0.5 - t) * torch.log(1 - 2 * torch.abs(t - 0.5))
    alpha = append_dims(torch.sigmoid(logsnr).sqrt(), x)
    sigma = append_dims(torch.sigmoid(-logsnr).sqrt(), x)
    noise = torch.randn_like(x)
    v = network(alpha * x + sigma * noise, logsnr)
    return F.mse_loss(v, alpha * noise - sigma * x)


# ------------------------------------------------------------------------------------ sigmoid


def sigmoid_2(network, x):
    """VDM++: the eps-loss of a v-network times sigmoid(2 - logsnr) times -dlogsnr/dt."""
    t = uniform(x)
    logsnr = -2 * torch.log(torch.tan(math.pi / 2 * t))
    minus_dlogsnr_dt = math.pi / (torch.sin(math.pi / 2 * t) * torch.cos(math.pi / 2 * t))
    alpha = append_dims(torch.sqrt(torch.sigmoid(logsnr)), x)
    sigma = append_dims(torch.sqrt(torch.sigmoid(-logsnr)), x)
    eps = torch.randn_like(x)
    z = alpha * x + sigma * eps
    eps_hat = sigma * z + alpha * network(z, logsnr)
    weight = 0.5 * minus_dlogsnr_dt * torch.sigmoid(2 - logsnr)
    return torch.mean(weight * mean_flat((eps_hat - eps) ** 2))


def sigmoid_2_slip(network, x):
    """The sigmoid as a weight on the eps-loss with uniform times, and nothing else."""
    t = uniform(x)
    log_snr = -torch.log(torch.tan(math.pi / 2 * t) ** 2)
    alpha, sigma = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()
    noise = torch.randn_like(x)
    model_out = network(append_dims(alpha, x) * x + append_dims(sigma, x) * noise, log_snr)
    losses = F.mse_loss(model_out, noise, reduction="none").flatten(1).mean(1)
    return (losses * torch.sigmoid(2 - log_snr)).mean()


class Case(NamedTuple):
    """A loss, the recipe it is, and what the network that it calls predicts (up to sign)."""

    recipe: str
    loss: Callable
    parameterization: str


CASES = [
    Case("elbo", elbo, "eps"),
    Case("elbo-ve", elbo_ve, "x"),
    Case("elbo-linear", elbo_linear, "eps"),
    Case("iddpm", iddpm, "eps"),
    Case("ddpm", ddpm, "eps"),
    Case("edm", edm, "edm"),
    Case("edm2", edm2, "edm"),
    Case("edm-monotonic", edm_monotonic, "edm"),
    Case("v-cosine", v_cosine, "v"),
    Case("flow", flow, "flow"),
    Case("flow", flow__x_prediction, "x"),
    Case("flow-shift-3", flow_shift_3, "flow"),
    Case("sd3", sd3, "flow"),
    Case("sd3-cosmap", sd3_cosmap, "flow"),
    Case("indi", indi, "x"),
    Case("p2-1", p2_1, "eps"),
    Case("min-snr-5", min_snr_5, "x"),
    Case("soft-min-snr-4", soft_min_snr_4, "edm"),
    Case("truncated-snr", truncated_snr__maximum, "v"),
    Case("snr-plus-1", snr_plus_1, "x"),
    Case("laplace", laplace, "v"),
    Case("sigmoid-2", sigmoid_2, "v"),
    Case("sigmoid-2-slip", sigmoid_2_slip, "eps"),
]
