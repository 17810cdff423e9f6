"""What the number of a validation would not show is told."""

import math
import re
import warnings

import pytest
import torch
from oracles import gaussian
from torch import nn

from elbos import Denoiser, ValidationHistory, Validator
from elbos.adapters import flow
from elbos.theory import parameterizations
from elbos.theory.oracles import GaussianMixture
from elbos.theory.process import alpha_sigma
from elbos.validation.diagnostics import (
    CoupledNoiseWarning,
    InconsistentEstimatesWarning,
    RandomDataWarning,
    TimeIgnoredWarning,
    VaryingEstimatesWarning,
    WorseThanUniformWarning,
)

DENOISER = gaussian(0.5, 4)
X, _ = DENOISER.sample(20, torch.Generator().manual_seed(0))


def test_a_network_without_time_is_told():
    blind = Denoiser(lambda z, logsnr, cond: 0.5 * z, parameterizations.X())
    with pytest.warns(TimeIgnoredWarning, match="second argument") as warned:
        Validator(X)(blind)
    assert warned[0].filename == __file__


class Augmented(torch.utils.data.Dataset):
    """Data of which some part is random."""

    def __init__(self, item):
        self.item = item

    def __len__(self):
        return len(X)

    def __getitem__(self, row):
        return self.item(X[row])


def flipped(x):
    return x.flip(0) if torch.rand(()) < 0.5 else x


@pytest.mark.parametrize(
    "item",
    [flipped, lambda x: x + torch.randn(4), lambda x: (x, {"text": torch.rand(3)})],
    ids=["flips", "latents", "condition"],
)
def test_data_that_are_random_are_told(item):
    def ignoring(z, logsnr, cond=None):
        return DENOISER(z, logsnr)

    for validator in (Validator(Augmented(item)), Validator(X, to_item=item)):
        with torch.random.fork_rng(), pytest.warns(RandomDataWarning) as warned:
            torch.manual_seed(0)
            validator(ignoring)
        assert warned[0].filename == __file__


@pytest.mark.parametrize("layer", [nn.Dropout(0.1), nn.BatchNorm1d(4)], ids=repr)
def test_a_network_in_training_mode_that_no_denoiser_names_is_told(layer):
    """By its estimates; and nothing once it is in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 4), layer, nn.Linear(4, 4)).double()
        denoiser = Denoiser(
            lambda z, logsnr: network(torch.cat([z, logsnr[:, None]], 1)), parameterizations.V()
        )
        network.train()
        with pytest.warns(VaryingEstimatesWarning, match="eval"):
            Validator(X)(denoiser)
    network.eval()
    Validator(X)(denoiser)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_no_call_has_more_samples_than_a_batch(batch_size):
    def network(z, logsnr):
        assert len(z) <= batch_size
        return logsnr[:, None] * z

    for parameterization in parameterizations.V(), parameterizations.Flow():
        Validator(X)(Denoiser(network, parameterization), batch_size=batch_size)


def test_estimates_that_are_interchanged_are_refused():
    """They add up to the noisy data in each other's places alone."""

    def interchanged(z, logsnr, cond=None):
        x_hat, eps_hat = DENOISER(z, logsnr)
        return eps_hat, x_hat

    with pytest.raises(ValueError, match="eps_hat, x_hat"):
        Validator(X)(interchanged)


def test_estimates_that_do_not_add_up_are_told():
    """The bound is that of eps_hat, whatever x_hat is."""

    def clipped(z, logsnr, cond=None):
        x_hat, eps_hat = DENOISER(z, logsnr)
        return x_hat.clamp(-0.1, 0.1), eps_hat

    with pytest.warns(InconsistentEstimatesWarning) as warned:
        actual = Validator(X)(clipped)
    assert warned[0].filename == __file__
    assert torch.equal(actual.bound, Validator(X)(DENOISER).bound)


@pytest.mark.parametrize("std", [0.2, 1.0, 5.0])
def test_a_flow_of_coupled_noise_is_told(std):
    """Optimal transport from N(0, 1) to N(0, s^2): z = ((1 - t) s + t) eps, and so v of z alone."""
    coupled = flow.denoiser(lambda z, t: (1 - std) * z / ((1 - t) * std + t)[:, None], data_at=0)
    with pytest.warns(CoupledNoiseWarning, match="flow_likelihood"):
        Validator(gaussian(std, 64).sample(400)[0])(coupled)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 3.0), (0.02, 0.0)])
def test_an_exact_velocity_is_not_taken_for_a_coupled_one(scale, shift):
    """Of sorted data, of a mixture, in any batch, and of other data than the trained ones."""
    exact = GaussianMixture(torch.ones(2) / 2, torch.tensor([[-2.0] * 4, [2.0] * 4]), torch.ones(2))

    def velocity(z, t):
        alpha, sigma = (part[:, None] for part in alpha_sigma(2 * ((1 - t) / t).log()))
        x_hat, eps_hat = exact(z * (alpha + sigma), 2 * ((1 - t) / t).log())
        return eps_hat - x_hat

    x = exact.sample(64)[0]
    x = scale * x[x[:, 0].argsort()] + shift
    for batch_size in 3, 64:
        Validator(x, num_evaluations=4)(flow.denoiser(velocity, data_at=0), batch_size=batch_size)


@pytest.mark.parametrize("std", [0.2, 1.0, 5.0])
def test_a_bound_above_the_entropy_of_a_gaussian_is_told(std):
    """Of the data's own size: only the denoiser of N(0, s^2) reaches it for such data."""
    x, _ = gaussian(std, 8).sample(2000, torch.Generator().manual_seed(0))
    entropy = math.log2(2 * math.pi * math.e * std**2) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Validator(x)(gaussian(std, 8)).bits_per_dim == pytest.approx(entropy, abs=0.05)
    with pytest.warns(WorseThanUniformWarning) as warned:
        Validator(x)(gaussian(3 * std, 8))
    told = [float(number) for number in re.findall(r"-?\d+\.\d\d", str(warned[0].message))]
    assert told[1] == pytest.approx(entropy, abs=0.05)


def test_a_bound_above_the_uniform_one_is_told_once():
    x = torch.randint(0, 4, (64, 8)).double() / 3  # in [0, 1]: half of the values of 7
    history = ValidationHistory(Validator(x, num_levels=7, logsnr_max=9.0), every=1)
    with pytest.warns(WorseThanUniformWarning) as warned:
        for step in (1, 2):
            history.update(step, gaussian(3.0, 8))
    warned = [warning for warning in warned if warning.category is WorseThanUniformWarning]
    assert [warning.filename for warning in warned] == [__file__]
    assert "result." not in str(warned[0].message)  # the command line has none
