"""Losses of kinds that the audit once took for others, each with its right answer.

That is a weighting, in closed form on a fine grid of times; the diagnostic after which there is
none; or words of the refusal. Nothing here imports elbos.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F


class HeldOut(NamedTuple):
    """A loss, and either its weighting as a function of log-SNR, or why it has none.

    `kind` is a diagnostic that the audit has to give; it is fatal where there is no weighting.
    """

    loss: Callable
    weighting: Callable | None
    kind: str | None = None
    shape: tuple[int, ...] = (3, 8, 8)
    low: float = -1.0  # smallest value of the data; the largest is 1
    parameterization: str | None = None


def expand(v, x):
    return v.reshape(-1, *[1] * (x.ndim - 1))


def of_times(alpha, sigma, k):
    """The weighting of a path at uniform times, k dt / dlogsnr; k is that of the error of eps."""
    s = np.linspace(-16, 16, 40_001)
    t = 1 / (1 + np.exp(-s))
    logsnr = 2 * (np.log(alpha(t)) - np.log(sigma(t)))
    log_w = np.log(k(t)) + np.log(t * (1 - t)) - np.log(np.abs(np.gradient(logsnr, s)))
    order = np.argsort(logsnr)

    def weighting(at):
        return torch.from_numpy(np.exp(np.interp(np.asarray(at), logsnr[order], log_w[order])))

    return weighting


FLOW = of_times(lambda t: 1 - t, lambda t: t, lambda t: (1 + t / (1 - t)) ** 2)
COSINE_EPS = of_times(
    lambda t: np.cos(np.pi / 2 * t), lambda t: np.sin(np.pi / 2 * t), lambda t: 1 + 0 * t
)


def edm_weighting(logsnr):
    """Normal sigma, times the coefficient of the denoiser's error, sigma_data 0.5."""
    sigma = torch.exp(-torch.as_tensor(logsnr) / 2)
    p = torch.exp(-((sigma.log() + 1.2) ** 2) / (2 * 1.2**2))
    return p * (sigma**2 + 0.25) / (0.5 * sigma) ** 2 * sigma**2


# --- flow losses with something besides ----------------------------------------------------------


def path(x):
    t, eps = torch.rand(len(x)), torch.randn_like(x)
    return t, eps, (1 - expand(t, x)) * x + expand(t, x) * eps


def flow(told=lambda t, x: (t,), besides=lambda *_: 0.0, weight=lambda t, x: 1.0):
    def loss(network, x):
        t, eps, z = path(x)
        p = network(z, *told(t, x))
        error = weight(t, x) * (p - (eps - x)) ** 2
        return error.mean() + besides(network, p, z, t)

    return loss


def penalized(network, x):
    """With a term of the gradient of the output with respect to the input."""
    t, eps, z = path(x)
    z.requires_grad_()
    p = network(z, t)
    (g,) = torch.autograd.grad(p.sum(), z, create_graph=True)
    return F.mse_loss(p, eps - x) + 0.1 * g.square().mean()


def directional(network, x):
    """The derivative along the path is penalized."""
    t, eps, z = path(x)
    inputs, tangents = (z, t), (eps - x, torch.ones_like(t))
    p, dp = torch.autograd.functional.jvp(network, inputs, tangents, create_graph=True)
    return F.mse_loss(p, eps - x) + 0.01 * dp.square().mean()


def in_time(network, x):
    """The derivative with respect to the time is penalized."""
    t, eps, z = path(x)
    t.requires_grad_()
    p = network(z, t)
    (g,) = torch.autograd.grad(p.sum(), t, create_graph=True)
    return F.mse_loss(p, eps - x) + 0.01 * g.square().mean()


def consistent(network, x):
    """Outputs at two levels of a sample are drawn together."""
    t, eps, z = path(x)
    s, other, z_s = path(x)
    p, q = network(z, t), network(z_s, s)
    error = F.mse_loss(p, eps - x) + F.mse_loss(q, other - x)
    return error + 0.1 * F.mse_loss(p, q)


def channels(weight):
    """Weights [b, c, 1, 1] of the times."""
    return lambda t, x: torch.stack([weight(t, c) for c in range(x.shape[1])], 1)[:, :, None, None]


def masked(t, x):
    return (torch.rand_like(x) < 0.5).float()


def box_by_time(t, x):
    """The upper half alone counts more, the noisier."""
    rows = torch.arange(x.shape[2]) < x.shape[2] // 2
    return 1 + 4 * expand(t, x) * rows[:, None].float()


def late_channel(t, c):
    """One channel counts ten times, but only for the cleanest eighth."""
    return torch.where(t < 1 / 8, 10.0 if c == 0 else 1.0, 1.0)


def embedded(t, x):
    angles = 1000 * t[:, None] * torch.exp(-torch.arange(32) / 32 * np.log(10_000))
    return (torch.cat([angles.sin(), angles.cos()], dim=1),)


def equilibrium(network, x):
    """Equilibrium matching: the gradient's magnitude falls towards clean data; no time is given."""
    t, eps, z = path(x)
    c = expand(torch.where(t > 0.2, torch.ones_like(t), t / 0.2), x)
    return F.mse_loss(network(z), c * (eps - x))


def appended(network, x):
    """The time is another channel of the input."""
    t, eps, z = path(x)
    z = torch.cat([z, expand(t, x).expand_as(x[:, :1])], dim=1)
    return F.mse_loss(network(z), eps - x)


# --- more noise than one draw --------------------------------------------------------------------


def torchcfm(network, x1):
    """ConditionalFlowMatcher: noise of size 0.5 around the path from noise to data."""
    x0, t = torch.randn_like(x1), torch.rand(len(x1)).type_as(x1)
    xt = expand(t, x1) * x1 + (1 - expand(t, x1)) * x0 + 0.5 * torch.randn_like(x0)
    return F.mse_loss(network(t, xt), x1 - x0)


def spread(t):
    return np.sqrt((1 - t) ** 2 + 0.25)


TORCHCFM = of_times(lambda t: t, spread, lambda t: ((1 - t) / spread(t) + spread(t) / t) ** 2)


# --- data in another scale -----------------------------------------------------------------------


def elucidated(prepare, c_noise=lambda sigma: sigma.log() / 4):
    """EDM with its preconditioning in the loss, on data that the loss normalizes."""

    def loss(network, x):
        x = prepare(x)
        sigma = (1.2 * torch.randn(len(x)) - 1.2).exp()
        s = expand(sigma, x)
        z, total = x + s * torch.randn_like(x), s**2 + 0.25
        out = network(z * total**-0.5, c_noise(sigma))
        denoised = 0.25 / total * z + 0.5 * s * total**-0.5 * out
        error = (denoised - x).square().flatten(1).mean(1)
        return ((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * error).mean()

    return loss


def cosine(prepare, told=lambda t: t):
    """Predicts eps on the cosine schedule."""

    def loss(network, x):
        x = prepare(x)
        t, eps = torch.rand(len(x)), torch.randn_like(x)
        alpha, sigma = (expand(f(torch.pi / 2 * t), x) for f in (torch.cos, torch.sin))
        return F.mse_loss(network(alpha * x + sigma * eps, told(t)), eps)

    return loss


def cosine_logsnr(t):
    return -2 * torch.log(torch.tan(torch.pi / 2 * t))


def scaled(factor, loss):
    return lambda network, x: loss(network, factor * x)


# --- other draws, and elements that are not noised ------------------------------------------------


def from_engine():
    """Times of a Sobol engine that is made once and drawn from in every call."""
    engine = torch.quasirandom.SobolEngine(2, scramble=True, seed=3)

    def loss(network, x):
        t, eps = engine.draw(len(x))[:, -1], torch.randn_like(x)
        z = (1 - expand(t, x)) * x + expand(t, x) * eps
        return F.mse_loss(network(z, t), eps - x)

    return loss


def centred(value):
    return value - value.mean(1, keepdim=True)


def molecules(network, x):
    """Data and noise without a mean over the atoms."""
    x, t = centred(x), torch.rand(len(x))
    eps = centred(torch.randn_like(x))
    z = (1 - expand(t, x)) * x + expand(t, x) * eps
    return F.mse_loss(network(z, t), eps - x)


def beside_tokens(before, after):
    """Clean tokens stand before or after the noisy ones; the network answers for all."""

    def loss(network, x):
        t, eps, z = path(x)
        clean = x.flip(1).tanh()
        answer = network(torch.cat([clean[:, :before], z, clean[:, :after]], dim=1), t)
        return F.mse_loss(answer[:, before : before + x.shape[1]], eps - x)

    return loss


def after_first(axis):
    """The first state, or frame, stays clean, and is not trained."""

    def loss(network, x):
        t, eps, z = path(x)
        num = x.shape[axis] - 1
        z = torch.cat([x.narrow(axis, 0, 1), z.narrow(axis, 1, num)], dim=axis)
        error = network(z, t) - (eps - x)
        return error.narrow(axis, 1, num).square().mean()

    return loss


# --- Min-SNR with its extremum reversed -----------------------------------------------------------


def max_snr(network, x):
    t, eps = torch.rand(len(x)), torch.randn_like(x)
    alpha, sigma = (expand(f(torch.pi / 2 * t), x) for f in (torch.cos, torch.sin))
    snr = (alpha / sigma) ** 2
    v = network(alpha * x + sigma * eps, t)
    return (snr.clamp(min=5) / (snr + 1) * (v - (alpha * eps - sigma * x)) ** 2).mean()


def max_snr_factor(t):
    """Of v, the error of eps is alpha times that of v."""
    alpha2 = np.cos(np.pi / 2 * t) ** 2
    snr = alpha2 / (1 - alpha2)
    return np.maximum(snr, 5) / (snr + 1) / alpha2


MAX_SNR = of_times(lambda t: np.cos(np.pi / 2 * t), lambda t: np.sin(np.pi / 2 * t), max_snr_factor)


MOLECULES, TOKENS, VIDEO = (9, 3), (6, 8), (3, 4, 4, 4)
HELD_OUT = {
    "penalty-zero": HeldOut(penalized, None, "derivative-term"),
    "penalty-along-path": HeldOut(directional, None, "derivative-term"),
    "penalty-in-time": HeldOut(in_time, None, "derivative-term"),
    "penalty-of-calls": HeldOut(consistent, None, "coupled-calls"),
    "channels-late": HeldOut(flow(weight=channels(late_channel)), None, "uneven-levels"),
    "rows-by-time": HeldOut(flow(weight=box_by_time), None, "uneven-levels"),
    "channels-alike": HeldOut(
        flow(weight=channels(lambda t, c: (c + 1) * t)),
        lambda at: FLOW(at) / (1 + torch.exp(at / 2)),
        "uneven",
    ),
    "mask-at-random": HeldOut(flow(weight=masked), FLOW, "uneven"),
    "level-free": HeldOut(flow(told=lambda t, x: ()), None, "no-level"),
    "equilibrium": HeldOut(equilibrium, None, "no-level"),
    "level-embedded": HeldOut(flow(told=embedded), FLOW, parameterization="flow"),
    "level-nested": HeldOut(
        flow(told=lambda t, x: ({"cond": [t.numpy()]},)), FLOW, parameterization="flow"
    ),
    "level-appended": HeldOut(appended, FLOW, parameterization="flow"),
    "torchcfm": HeldOut(torchcfm, TORCHCFM, "independent-target"),
    "edm-times-0.2": HeldOut(elucidated(lambda x: 0.2 * x), edm_weighting, parameterization="edm"),
    "cosine-logsnr": HeldOut(
        cosine(lambda x: 3 * x, cosine_logsnr), COSINE_EPS, parameterization="eps"
    ),
    "flow-times-0.3": HeldOut(scaled(0.3, flow()), FLOW, parameterization="flow"),
    "sobol-of-two": HeldOut(from_engine(), FLOW, parameterization="flow"),
    "molecules": HeldOut(molecules, FLOW, "centred-noise", MOLECULES),
    "token-before": HeldOut(beside_tokens(1, 0), FLOW, None, TOKENS, parameterization="flow"),
    "token-after": HeldOut(beside_tokens(0, 2), FLOW, None, TOKENS, parameterization="flow"),
    "token-in-place": HeldOut(after_first(1), FLOW, "clean-elements", TOKENS),
    "frame-in-place": HeldOut(after_first(2), FLOW, "clean-elements", VIDEO),
    "max-snr": HeldOut(max_snr, MAX_SNR, parameterization="v"),
}
