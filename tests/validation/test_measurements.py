"""One set of measurements answers every question."""

import math

import pytest
import torch
from oracles import bimodal, gaussian, gaussian_loss, line_loss, weighted_integral, z_score
from scipy.integrate import quad

from elbos import Validator
from elbos.models.likelihood import prior_loss
from elbos.theory import schedules, weightings
from elbos.validation import ControlVariate, Measurements, fit
from elbos.validation.draws import Draws

ENDS = {"logsnr_min": -8.0, "logsnr_max": 11.0}
LINEAR = schedules.Linear(**ENDS)
WEIGHTINGS = [
    weightings.ELBO(),
    weightings.Sigmoid(),
    weightings.EDM(),
    weightings.Monotone(weightings.EDM()),
]


def tuned(denoiser, x, **options):
    """Measurements after a pilot of 300 images."""
    validator = Validator(x, **ENDS, **options)
    pilot = validator.pilot(denoiser, num_samples=300, batch_size=1000)
    return validator.tuned(pilot)(denoiser, batch_size=1000).measurements


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_a_weighted_loss_is_its_quadrature(weighting, generator):
    """For a wrong denoiser too; z < 4, n = 3,000."""
    x, _ = gaussian(0.5, 2).sample(3000, generator)
    loss = tuned(gaussian(0.8, 2), x).integral(weighting).mean(1)
    expected = weighted_integral(weighting, lambda v: gaussian_loss(v, 0.5, 0.8), -8.0, 11.0)
    assert z_score(loss, expected) < 4


@pytest.fixture(scope="module")
def wrong():
    """Measurements of a wrong denoiser, and the prior's loss; n = 3,000."""
    x, _ = gaussian(0.5, 2).sample(3000, torch.Generator().manual_seed(0))
    return tuned(gaussian(0.8, 2), x), prior_loss(x, -8.0)


@pytest.mark.parametrize("logsnr", [-8.0, -3.0, 0.1, 4.0, 11.0])
def test_the_elbo_of_noisy_data_is_the_integral_up_to_their_level(logsnr, wrong):
    """Z < 4; at the noisy end the prior alone, exactly."""
    measurements, prior = wrong
    elbo = measurements.elbo(logsnr, prior).mean(1) - prior
    expected = quad(lambda v: gaussian_loss(v, 0.5, 0.8), -8.0, logsnr)[0]
    assert z_score(elbo, expected) < 4 if logsnr > -8 else elbo.abs().max() == 0


def test_the_loss_at_a_level_is_its_quadrature(generator):
    """Averaged over half a unit of log-SNR; z < 4, n = 3,000."""
    x, _ = bimodal().sample(3000, generator)
    measurements = tuned(bimodal(), x)
    for level in (-4.0, 0.0, 3.0, 7.0):
        nearby = torch.linspace(level - 0.25, level + 0.25, 51, dtype=torch.float64)
        expected = line_loss(bimodal(), nearby).mean().item()
        assert z_score(measurements.curve(level, 0.5).mean(1), expected) < 4


def test_levels_may_be_anywhere():
    """Where all losses are the control variate, a + b l: integrals in closed form, to 1e-3."""
    nodes = torch.linspace(-8, 11, 49, dtype=torch.float64)
    control = ControlVariate(nodes, 1 + 0.05 * nodes)
    logsnr = LINEAR.logsnr(Draws(0, 2).times(torch.arange(2), 0, 3))[:, None]
    named = Measurements(LINEAR, logsnr, control(logsnr), control)
    for level in (-7.93, 0.123, 4.567):
        expected = level + 8 + 0.025 * (level**2 - 64)
        elbo = named.elbo(level, torch.zeros(2, dtype=torch.float64))
        torch.testing.assert_close(elbo, torch.full_like(elbo, expected), rtol=1e-3, atol=1e-3)
    for level, width in ((0.123, 0.37), (4.567, 0.11)):
        loss = named.curve(level, width)
        expected = torch.full_like(loss, 1 + 0.05 * level)
        torch.testing.assert_close(loss, expected, rtol=5e-3, atol=0)


def test_control_variate_and_density_change_no_mean(generator):
    """Whatever they are: here a wrong density and the control variate of other data; z < 4."""
    x, _ = gaussian(0.5).sample(3000, generator)
    other, _ = gaussian(2.0).sample(300, generator)
    _, control = fit(Validator(other, **ENDS).pilot(gaussian(0.3)))
    validator = Validator(x, schedule=schedules.Cosine(**ENDS), control=control, **ENDS)
    actual = validator(gaussian(0.5), batch_size=1000)
    expected = quad(lambda v: gaussian_loss(v, 0.5), -8.0, 11.0)[0]
    assert z_score(actual.diffusion.mean(1), expected) < 4


def test_a_pilot_of_some_samples_has_the_error_that_it_states(generator):
    """Scatter over 300 pilots, of 40 of 400 samples, by the stated error: 1, to 4 %, n = 300."""
    x, _ = gaussian(0.5, 8).sample(400, generator)
    exact = quad(lambda level: gaussian_loss(level, 0.5, 0.8), -10, 13.3)[0]
    scores = []
    for seed in range(300):
        some = Validator(x[torch.randperm(400, generator=generator)], seed=seed)
        actual = some.pilot(gaussian(0.8, 8), num_samples=40, num_times=1)
        bound = actual.estimate(actual.integral(torch.ones_like))
        scores.append((bound.mean - exact) / bound.standard_error)
    assert 0.85 < torch.tensor(scores).std() < 1.15


def test_fitting_makes_the_measurement_precise(generator):
    r"""Neyman's allocation: $\int s / \sqrt{19 \int s^2}$ of the error of uniform levels, where the
    scatter s of the loss of 256 dimensions is in proportion to it; 600 images, to 15 %.
    """
    data = gaussian(0.5, 256)
    x, _ = data.sample(600, generator)
    uniform = Validator(x, **ENDS)(data, batch_size=1000).nats
    measurements = tuned(data, x)
    actual = measurements.estimate(measurements.integral(torch.ones_like))
    first, second = (quad(lambda v, k=k: gaussian_loss(v, 0.5) ** k, -8, 11)[0] for k in (1, 2))
    expected = first / math.sqrt(19 * second)
    ratio = actual.measurement_error / uniform.measurement_error
    assert ratio == pytest.approx(expected, rel=0.15)
