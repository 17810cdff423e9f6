"""What several test modules share: losses, and audits that are made once per session."""

from functools import cache

import pytest
import torch
from mistaken_losses import MISTAKES, ODDITIES
from training_losses import CASES

from elbos import audit

X = 2 * torch.rand(256, 3, 8, 8, generator=torch.Generator().manual_seed(1)) - 1
SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 8))]


def sampled(cases, every):
    """Each `every`-th case; the others are slow."""
    marks = ([] if i % every == 0 else pytest.mark.slow for i in range(len(cases)))
    return [pytest.param(case, marks=mark) for case, mark in zip(cases, marks, strict=True)]


HALF = (X[:64] + 1) / 2  # data in [0, 1], for losses that normalize them


@cache
def audited(loss, num_samples=5000):
    return audit.probe(loss, X, num_samples)


@cache
def audited_oddity(oddity, num_samples=1000):
    x = HALF if "normalization" in oddity.name else X[:64]
    return audit.probe(oddity.loss, x, num_samples)


def all_audits():
    """Functions that audit each loss of `training_losses` and `mistaken_losses`, by name."""
    audits = {case.loss.__name__: lambda loss=case.loss: audited(loss, 20_000) for case in CASES}
    for mistake in MISTAKES:
        audits[f"wrong/{mistake.name}"] = lambda loss=mistake.wrong: audited(loss, 4000)
        audits[f"right/{mistake.name}"] = lambda loss=mistake.right: audited(loss, 4000)
    for oddity in ODDITIES:
        audits[f"oddity/{oddity.name}"] = lambda oddity=oddity: audited_oddity(oddity, 5000)
    return audits


def kinds(result):
    return [item.kind for item in result.diagnostics]


def within(intervals, low, high):
    """The parts of intervals between two ends."""
    cut = ((max(start, low), min(end, high)) for start, end in intervals)
    return [(start, end) for start, end in cut if start < end]


def cosine_v(network, x):
    t = torch.rand(len(x), 1, 1, 1)
    alpha, sigma = torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t)
    eps = torch.randn_like(x)
    return (network(alpha * x + sigma * eps, t) - (alpha * eps - sigma * x)).square().mean()


def flow_loss(times=torch.rand):
    """The plain loss of flow matching at times that are drawn."""

    def loss(network, x):
        t = times(len(x)).view(-1, *(1,) * (x.ndim - 1))
        eps = torch.randn_like(x)
        return (network((1 - t) * x + t * eps, t.flatten()) - (eps - x)).square().mean()

    return loss


def edm_per_sample(network, x):
    sigma = torch.exp(1.2 * torch.randn(len(x)) - 1.2)
    z = x + sigma[:, None, None, None] * torch.randn_like(x)
    error = (network(z, sigma) - x).square().flatten(1).mean(1)
    return error * (sigma**2 + 0.25) / (0.5 * sigma) ** 2
