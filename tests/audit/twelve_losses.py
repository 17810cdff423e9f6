"""Twelve losses as people write them, six right and six with a planted bug, whose printed audits a
reader has to tell apart. Nothing here imports elbos.
"""

import math

import torch

GAMMA, SHIFT = 5.0, 3.0
STABLE_DIFFUSION = torch.cumprod(
    1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0
).float()


def per_sample(values):
    """[b] to [b, 1, 1, 1]."""
    return values[:, None, None, None]


def discrete(x, alphas_cumprod=STABLE_DIFFUSION):
    """Steps, and per sample the signal, the spread and the SNR."""
    t = torch.randint(0, len(alphas_cumprod), (len(x),))
    alpha_bar = alphas_cumprod[t]
    return t, alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), alpha_bar / (1 - alpha_bar)


def min_snr_v(weight):
    """Min-SNR for v on Stable Diffusion's steps, with a formula for the weight."""

    def loss(network, x):
        t, alpha, sigma, snr = discrete(x)
        eps = torch.randn_like(x)
        z = per_sample(alpha) * x + per_sample(sigma) * eps
        v = per_sample(alpha) * eps - per_sample(sigma) * x
        error = (network(z, t) - v).square().mean((1, 2, 3))
        return (weight(snr) * error).mean()

    return loss


def flow(times):
    """Rectified flow with times that a function draws."""

    def loss(network, x):
        t = times(len(x))
        eps = torch.randn_like(x)
        z = (1 - per_sample(t)) * x + per_sample(t) * eps
        return (network(z, t) - (eps - x)).square().mean()

    return loss


def shifted(t, shift=SHIFT):
    """Times shifted towards noise."""
    return shift * t / (1 + (shift - 1) * t)


def noise_to_data(network, x1):
    """Conditional flow matching as torchcfm and SiT write it: t = 1 is the data."""
    x0, t = torch.randn_like(x1), torch.rand(len(x1))
    z = per_sample(t) * x1 + (1 - per_sample(t)) * x0
    return (network(t, z) - (x1 - x0)).square().mean()


def edm(network, x):
    """EDM's denoiser and its weight."""
    sigma = (1.2 * torch.randn(len(x), 1, 1, 1) - 1.2).exp()
    denoised = network(x + sigma * torch.randn_like(x), sigma.flatten())
    weight = (sigma**2 + 0.5**2) / (sigma * 0.5) ** 2
    return (weight * (denoised - x) ** 2).mean()


def p2(network, x):
    """P2 with gamma = 1 on the cosine schedule."""
    t = torch.rand(len(x))
    alpha, sigma = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
    eps = torch.randn_like(x)
    error = (network(per_sample(alpha) * x + per_sample(sigma) * eps, t) - eps) ** 2
    return (per_sample(1 / (1 + (alpha / sigma) ** 2)) * error).mean()


def broadcast(network, x):
    """Weights [b] times errors [b, 1]."""
    t, alpha, sigma, snr = discrete(x)
    eps = torch.randn_like(x)
    z = per_sample(alpha) * x + per_sample(sigma) * eps
    v = per_sample(alpha) * eps - per_sample(sigma) * x
    error = (network(z, t) - v).square().flatten(1).mean(1, keepdim=True)
    return (snr.clamp(max=GAMMA) / (snr + 1) * error).mean()


def alpha_bar_for_its_root(network, x):
    """The table of cumulative products, taken for that of their roots."""
    t, alpha, sigma, _ = discrete(x)
    eps = torch.randn_like(x)
    z = per_sample(alpha**2) * x + per_sample(sigma) * eps
    return (network(z, t) - eps).square().mean()


def sign_of_the_target(network, x):
    """The target v with a plus."""
    t, alpha, sigma, _ = discrete(x)
    eps = torch.randn_like(x)
    z = per_sample(alpha) * x + per_sample(sigma) * eps
    v = per_sample(alpha) * eps + per_sample(sigma) * x
    return (network(z, t) - v).square().mean()


RIGHT = {
    "min_snr": min_snr_v(lambda snr: snr.clamp(max=GAMMA) / (snr + 1)),
    "logit_normal": flow(lambda b: shifted(torch.sigmoid(torch.randn(b)))),
    "noise_to_data": noise_to_data,
    "edm": edm,
    "p2": p2,
    "uniform": flow(torch.rand),
}
WRONG = {  # and the part in which each resembles something published; None: an error of the code
    "max_for_min": (min_snr_v(lambda snr: snr.clamp(min=GAMMA) / (snr + 1)), "coefficient"),
    "broadcast": (broadcast, None),
    "shifted_twice": (flow(lambda b: shifted(shifted(torch.rand(b)))), "noise levels"),
    "alpha_bar": (alpha_bar_for_its_root, "process"),
    "sign": (sign_of_the_target, "target"),
    "plus_one": (min_snr_v(lambda snr: snr.clamp(max=GAMMA) / snr + 1), "coefficient"),
}
