"""Flow losses whose noise levels are drawn in every way, and their weightings.

On the path z = (1 - t) x + t eps a density pi(t) and a coefficient c(t) of the squared error of
eps - x train w = pi c t / (1 - t), whatever draws t. Densities are scipy's, or integrals by hand.
"""

import math
import random
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats

_SHIFT = math.log(3)


class Case(NamedTuple):
    """A way to draw t, its density, and a power of t for a coefficient."""

    draw: Callable
    density: Callable
    power: float = 0.0

    def loss(self, network, x):
        t = self.draw(len(x)).float().clamp(1e-5, 1 - 1e-5).view(-1, *[1] * (x.ndim - 1))
        eps = torch.randn_like(x)
        error = network((1 - t) * x + t * eps, t.flatten()) - (eps - x)
        return (t**self.power * error.square()).mean()

    def weighting(self, logsnr):
        t = 1 / (1 + np.exp(np.asarray(logsnr) / 2))
        return torch.as_tensor(self.density(t) * t**self.power * t / (1 - t))


def logit_normal(mean, std):
    return lambda t: stats.norm.pdf(np.log(t / (1 - t)), mean, std) / (t * (1 - t))


def normal_logsnr(mean, std):
    return lambda t: stats.norm.pdf(2 * np.log((1 - t) / t), mean, std) * 2 / (t * (1 - t))


def mixture(*parts):
    return lambda t: sum(share * density(t) for share, density in parts)


THREE = mixture(
    (0.79, logit_normal(1.15, 1)), (0.11, normal_logsnr(-6, 2)), (0.1, normal_logsnr(5.36, 1))
)


def _flux(num):
    return torch.sigmoid(torch.randn(num) + 1.15)


def _noisy(num):
    return torch.sigmoid(-(2 * torch.randn(num) - 6) / 2)


def _clean(num):
    return torch.sigmoid(-(torch.randn(num) + 5.36) / 2)


def three_by_where(num):
    r, parts = torch.rand(num), (_flux(num), _noisy(num), _clean(num))
    return torch.where(r < 0.79, parts[0], torch.where(r < 0.9, parts[1], parts[2]))


def three_by_mask(num):
    t, r = _flux(num), torch.rand(num)
    for chosen, draw in (((r >= 0.79) & (r < 0.9), _noisy), (r >= 0.9, _clean)):
        t[chosen] = draw(int(chosen.sum()))
    return t


def three_by_batch(num):
    r = random.random()  # noqa: S311, as people write it
    return (_flux if r < 0.79 else _noisy if r < 0.9 else _clean)(num)


def shifted_table(num):
    """Logit-normal times, looked up in a table of 1,000 steps with shift 3."""
    index = (torch.sigmoid(torch.randn(num)) * 1000).long().clamp(max=999)
    sigmas = torch.arange(1, 1001) / 1000
    return (3 * sigmas / (1 + 2 * sigmas))[index]


def beta(a, b):
    return lambda num: torch.distributions.Beta(torch.tensor(a), torch.tensor(b)).sample((num,))


def dirichlet(num):
    concentration = torch.tensor([2.0, 1.0, 1.0])
    return torch.distributions.Dirichlet(concentration).sample((num,))[:, 0]


def ratio(num):
    """What Beta(1.5, 1) is taken for without Johnk's rejection."""
    u, v = torch.rand(num) ** (1 / 1.5), torch.rand(num)
    return u / (u + v)


def density_of_ratio(t):
    """Of r = u / v, the integral of v f(r v) over v in [0, min(1, 1/r)], f(u) = 1.5 u**.5."""
    r = t / (1 - t)
    return 1.5 * r**0.5 * np.minimum(1, 1 / r) ** 2.5 / 2.5 / (1 - t) ** 2


def rejected(num):
    """Beta(2, 2) by rejection."""
    t = torch.rand(num)
    is_bad = torch.rand(num) > 4 * t * (1 - t)
    while is_bad.any():
        again = torch.rand(int(is_bad.sum()))
        is_accepted = torch.rand(len(again)) <= 4 * again * (1 - again)
        t = t.masked_scatter(is_bad, again)
        is_bad = is_bad.masked_scatter(is_bad, ~is_accepted)
    return t


def truncated(num):
    remaining = torch.empty(0)
    while len(remaining) < num:
        z = torch.randn(4 * num)
        remaining = torch.cat([remaining, z[z.abs() < 2]])
    return torch.sigmoid(remaining[:num])


def bf16_logit_normal(num):
    return torch.sigmoid(torch.randn(num)).bfloat16()


CASES = {
    "table-sigma2": Case(shifted_table, logit_normal(_SHIFT, 1), 2.0),
    "three-by-where": Case(three_by_where, THREE),
    "three-by-mask": Case(three_by_mask, THREE),
    "three-by-batch": Case(three_by_batch, THREE),
    "beta-1.5-1": Case(beta(1.5, 1.0), stats.beta(1.5, 1).pdf),
    "dirichlet": Case(dirichlet, stats.beta(2, 2).pdf),
    "ratio": Case(ratio, density_of_ratio),
    "rejected": Case(rejected, stats.beta(2, 2).pdf),
    "truncated": Case(
        truncated, lambda t: logit_normal(0, 1)(t) * (np.abs(np.log(t / (1 - t))) < 2)
    ),
    "bf16": Case(bf16_logit_normal, logit_normal(0, 1)),
}
"""One loss for each class of draws."""


def drawn_case(seed):
    """A loss drawn at random: two or three normals of log-SNR by a coin, and a power of t."""
    rng = np.random.default_rng(seed)
    num = int(rng.integers(2, 4))
    shares = rng.dirichlet(np.full(num, 2.0))
    means, stds = rng.uniform(-5, 4, num), rng.uniform(0.7, 3, num)
    ends = torch.tensor(np.cumsum(shares)[:-1])

    def draw(num):
        i = torch.searchsorted(ends, torch.rand(num).double())
        logsnr = torch.tensor(means)[i] + torch.tensor(stds)[i] * torch.randn(num)
        return torch.sigmoid(-logsnr / 2)

    parts = [(s, normal_logsnr(*p)) for s, *p in zip(shares, means, stds, strict=True)]
    return Case(draw, mixture(*parts), float(rng.integers(0, 3)))
