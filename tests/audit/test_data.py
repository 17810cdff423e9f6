"""Data that a loss samples anew in each call, as by a VAE's `latent_dist.sample()`."""

import math

import pytest
import torch
from audit_errors import central, relative_errors
from audited import SEEDS, X, kinds
from latent_losses import LOSSES, encode, flow_loss, perturbed, sampled, v_loss

from elbos import audit
from elbos.theory import weightings


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("loss", "scale", "name", "process", "w"), LOSSES, ids=[name for _, _, name, *_ in LOSSES]
)
def test_latents_that_are_sampled_are_data(loss, scale, name, process, w, seed):
    result = audit.probe(sampled(loss, scale), X[:64], 1000, seed=seed)
    assert (result.parameterization, result.parameterization_factor) == (name, 1.0)
    assert (result.process, kinds(result)) == (process, ["encoded", "sampled-data"])
    remaining = central(result, 0.9)
    errors = (result.weight.log() - w(result.logsnr).log())[remaining]
    assert (errors - errors.median()).abs().median() < 0.05


def test_the_spread_of_the_latents_is_told(spread=-2.0):
    result = audit.probe(sampled(flow_loss, 0.5, spread), X[:64], 500)
    dist = encode(X[:64], spread)
    power = dist.std.square().mean()
    share = (power / (power + dist.mean.var())).sqrt().item()
    assert result.diagnostics[1].values["share"] == pytest.approx(share, rel=1e-2)
    assert result.schedule == "Flow()"
    assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3


@pytest.mark.parametrize("std", [0.01, 1.0])
def test_noise_that_is_added_to_the_data_belongs_to_them(std):
    def loss(network, x):
        return v_loss(network, x + std * torch.randn_like(x))

    result = audit.probe(loss, X, 1000)
    [actual] = result.diagnostics
    assert actual.kind == "sampled-data"
    share = std / math.hypot(std, X.std().item())
    assert actual.values["share"] == pytest.approx(share, rel=1e-2)
    assert (result.parameterization, result.schedule) == ("v", "Cosine()")


def test_sampled_latents_with_input_perturbation():
    result = audit.probe(perturbed, X[:64], 1000)
    assert kinds(result) == ["encoded", "sampled-data", "input-perturbation"]
    assert result.diagnostics[2].values["gamma"] == pytest.approx(0.1, rel=1e-4)
    assert (result.parameterization, result.process) == ("eps", "variance preserving")
