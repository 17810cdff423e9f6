"""The noise: one draw, a sum of draws, or none that was recorded."""

import math

import numpy as np
import pytest
import torch
from audited import (
    X,
    kinds,
)
from mistaken_losses import (
    from_noise,
    input_perturbation,
    offset_noise,
)

from elbos import audit, schedules
from elbos.codec import code


@pytest.mark.parametrize("strength", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("shape", [(64, 3, 8, 8), (16, 4, 16, 16)])
def test_the_strength_of_offset_noise_is_exact(strength, shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    result = audit.probe(from_noise(offset_noise(strength)), x, 1000)
    [found] = result.diagnostics
    assert found.kind == "offset-noise"
    assert found.values["strength"] == pytest.approx(strength, rel=0.02)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_centred_noise_is_not_taken_for_coloured(seed):
    """Molecules have no centre of mass, and so has their noise."""

    def centred(x):
        return x - x.mean(1, keepdim=True)

    x = centred(torch.randn(64, 12, 3, generator=torch.Generator().manual_seed(seed)))
    result = audit.probe(from_noise(lambda x: centred(torch.randn_like(x))), x, 1000, seed=seed)
    assert kinds(result) == ["noise-unseen"]


@pytest.mark.parametrize("seed", [0, 1])
def test_noise_that_is_a_sum_of_draws_is_known(seed):
    """As z = t x + (1 - t) x0 + 0.1 eps: all levels are those of the sum, without an error."""

    def loss(network, x):
        t, x0, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x), torch.randn_like(x)
        noise = ((1 - t) * x0 + 0.1 * eps) / ((1 - t) ** 2 + 0.01).sqrt()
        z = t * x + (1 - t) * x0 + 0.1 * eps
        return (network(z, t) - noise).square().mean()

    result = audit.probe(loss, X, 5000, seed=seed)
    assert kinds(result) == ["summed-noise"]
    assert (result.parameterization, result.parameterization_factor) == ("eps", 1.0)
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64, requires_grad=True)
    logsnr = 2 * t.log() - ((1 - t) ** 2 + 0.01).log()
    (rate,) = torch.autograd.grad(logsnr.sum(), t)
    found = np.interp(logsnr.detach(), result.logsnr, result.weight.log())
    errors = torch.from_numpy(found) + rate.log()
    assert (errors - errors.median()).abs().median() < 0.03


def test_a_target_without_a_part_of_the_noise_is_told():
    result = audit.probe(input_perturbation, X, 5000)
    assert kinds(result) == ["summed-noise", "strange-target", "unknown-target"]
    assert result.diagnostics[1].values["share"] == pytest.approx(0.01, rel=0.1)
    assert result.coefficient_name == "1"


@pytest.mark.parametrize("std", [0.5, 2.0])
def test_noise_of_another_size_moves_the_levels(std):
    def loss(network, x):
        sigma = torch.exp(1.2 * torch.randn(len(x), 1, 1, 1) - 1.2)
        z = x + sigma * torch.empty_like(x).normal_(std=std)
        return (network(z, sigma) - x).square().flatten(1).mean(1) / sigma.flatten() ** 2

    result = audit.probe(loss, X)
    mean = 2.4 - 2 * math.log(std)
    assert result.schedule == code(schedules.Normal(mean=mean, std=2.4))
