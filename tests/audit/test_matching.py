"""What a loss is near: a likelihood objective, by a factor."""

import math

import pytest
import torch
from audit_errors import central
from audited import (
    X,
    edm_per_sample,
)

from elbos import audit


def test_no_factor_lifts_levels_that_have_no_weight():
    def loss(network, x):
        t, eps = torch.rand(len(x)), torch.randn_like(x)
        u = t[:, None, None, None]
        error = (network((1 - u) * x + u * eps, t) - (eps - x)).square().flatten(1).mean(1)
        return error * (t < 0.9)

    result = audit.probe(loss, X, 5000)
    assert result.closest[0].name == "Exponential()"  # of the levels that count
    assert result.coefficient_name == "1"
    [(_, end)] = result.rising
    assert abs(end - 2 * math.log(0.1 / 0.9)) < 0.2
    assert result.monotone_code is None
    with pytest.raises(ValueError, match="factor"):
        result.monotone_factor(result.logsnr)


def run(python):
    names: dict[str, object] = {}
    exec(python, names)
    return names["monotone_factor"]


def weighted(loss_per_sample, factor, logsnr_of):
    """A loss whose samples are multiplied by a factor, as the verdict advises."""

    def loss(network, x):
        levels = []

        def spy(z, t):
            levels.append(logsnr_of(t))
            return network(z, t)

        error = loss_per_sample(spy, x)
        return error * factor(levels[0])

    return loss


def bumpy_per_sample(network, x):
    """No named weighting: rises twice."""
    sigma = torch.exp(1.5 * torch.randn(len(x)))
    z = x + sigma[:, None, None, None] * torch.randn_like(x)
    error = (network(z, sigma) - x).square().flatten(1).mean(1)
    return error / sigma**2 * (1.5 + torch.sin(2 * torch.log(sigma)))


@pytest.mark.parametrize("loss", [edm_per_sample, bumpy_per_sample])
def test_the_code_of_the_verdict_makes_it_a_likelihood_objective(loss):
    before = audit.probe(loss, X, 5000)
    assert not before.is_monotone
    mended = weighted(loss, run(before.monotone_code), lambda sigma: -2 * sigma.log())
    after = audit.probe(mended, X, 5000)
    assert after.is_monotone
    assert after.monotone_code is None
    kept = central(after)
    ratio = (after.weight / before.monotone_weight).log()[kept]
    assert (ratio - ratio.median()).abs().max() < 0.02
    assert (after.monotone_weight >= after.weight).all()
