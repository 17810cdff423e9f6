"""Losses of others at fixed levels, against closed forms and loops as people write them."""

import pytest
import torch
from oracles import gaussian, gaussian_loss
from scipy.integrate import quad

from elbos import Denoiser, Validator
from elbos.adapters import flow
from elbos.models.networks import MLPConfig
from elbos.theory import parameterizations, schedules
from elbos.validation.draws import FIXED, Draws
from elbos.validation.protocols import FixedLevels, deciles, equispaced_times, fixed_steps, mlperf

ENDS = {"logsnr_min": -10.0, "logsnr_max": 13.0}


def test_the_mean_over_equispaced_times_is_flow_matchings_loss(generator):
    """E||v_hat - (eps - x)||^2 of N(0, s^2), 4 standard errors, n = 5,000 images of 8 dimensions:
    at time t its minimum is s^2 / ((1 - t)^2 s^2 + t^2).
    """
    s, data = 0.5, gaussian(0.5, 8)
    x, _ = data.sample(5000, generator)
    found = equispaced_times()(Validator(x), data, batch_size=8000)
    times = (torch.arange(8).double() + 0.5) / 8
    expected = (s**2 / ((1 - times) ** 2 * s**2 + times**2)).mean().item()
    assert abs(found.mean - expected) < 4 * found.standard_error
    assert found.standard_error < 0.01 * expected


@pytest.mark.parametrize(
    ("protocol", "times"),
    [
        (mlperf(), [k / 8 for k in range(8)]),
        (equispaced_times(), [(k + 0.5) / 8 for k in range(8)]),
    ],
    ids=["mlperf", "torchtitan"],
)
def test_a_protocol_is_its_written_out_loop(protocol, times, generator):
    """The mean over times of the mean error of v = eps - x at (1 - t) x + t eps, clean data
    included, of a network that knows t, on the same noise.
    """
    x = torch.rand(40, 3, 4, 4, generator=generator, dtype=torch.float64) * 2 - 1

    def network(z, t):
        return torch.tanh(z) * (1 + t[:, None, None, None]) - 0.3

    eps = Draws(0, len(x)).noise(torch.arange(len(x)), FIXED, (len(times) + 1, 3, 4, 4))
    means = []
    for k, t in enumerate(times):
        noise = eps[:, k].double()
        v_hat = network((1 - t) * x + t * noise, torch.full((len(x),), t))
        means.append((v_hat - (noise - x)).square().mean().item())
    denoiser = flow.denoiser(network, data_at=0)
    found = protocol(Validator(x), denoiser)
    assert found.mean == pytest.approx(sum(means) / len(means), rel=1e-6)


@pytest.mark.parametrize("parameterization", [parameterizations.V(), parameterizations.Eps()])
def test_clean_data_are_given_to_our_networks(parameterization):
    """Which take features of log-SNR; at time 0 no network can tell the noise, and v is eps - x."""
    network = MLPConfig().build((2,), None)  # a new one, which returns 0
    x = torch.zeros(2000, 2)
    protocol = mlperf(1)
    found = protocol(Validator(x), Denoiser(network, parameterization))
    assert abs(found.mean - 1) < 4 * found.standard_error


def test_the_mean_over_fixed_steps_is_ddpms_loss(generator):
    """Of a wrong denoiser, at the cumulative products of DDPM's betas."""
    x, _ = gaussian(0.5, 8).sample(5000, generator)
    found = fixed_steps()(Validator(x), gaussian(0.8, 8), batch_size=8000)
    alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    levels = torch.logit(alphas[[200, 400, 600, 800]]).numpy()
    expected = (2 * gaussian_loss(levels, 0.5, 0.8)).mean().item()
    assert abs(found.mean - expected) < 4 * found.standard_error


@pytest.mark.parametrize("schedule", [schedules.Cosine(**ENDS), schedules.Flow(**ENDS)], ids=repr)
def test_deciles_are_the_error_in_tenths_of_the_times(schedule, generator):
    """Of a wrong denoiser, by quadrature over the times of each tenth, z < 4, n = 3,000; their mean
    is the loss of the training.
    """
    x, _ = gaussian(0.5, 8).sample(3000, generator)
    validator, v = Validator(x), parameterizations.V()
    found = deciles(schedule, v)(validator, gaussian(0.8, 8), batch_size=4000)

    def error(t):
        level = schedule.logsnr(torch.tensor(t, dtype=torch.float64))
        return 2 * gaussian_loss(level.item(), 0.5, 0.8) / v.eps_error_per_error(level).item()

    for i, one in enumerate(found):
        expected = 10 * quad(error, i / 10, (i + 1) / 10)[0]
        assert abs(one.mean - expected) < 4 * one.standard_error
        assert one.standard_error < 0.05 * expected
    total = validator(gaussian(0.8, 8), batch_size=4000).weighted(
        lambda level: 2 * schedule.density(level) / v.eps_error_per_error(level)
    )
    assert sum(one.mean for one in found) / 10 == pytest.approx(total.mean, rel=1e-3)


def test_deciles_beyond_the_measured_levels_are_refused():
    with pytest.raises(ValueError, match="-20"):
        deciles(schedules.Cosine())(Validator(torch.zeros(4, 2)), gaussian(0.5, 2))


@pytest.mark.parametrize("kind", ["Eps", "X", "V", "Flow"])
def test_what_it_weighs_is_the_error_of_its_prediction(kind, randn):
    """Two predictions at one noisy image: the error is the weight times half that of the noise."""
    parameterization = getattr(parameterizations, kind)()
    protocol = FixedLevels(name="one", logsnr=(0.7,), parameterization=parameterization)
    logsnr = torch.tensor([0.7], dtype=torch.float64)
    z, y, other = randn(1, 5), randn(1, 5), randn(1, 5)
    _, eps = parameterization.split(y, z, logsnr)
    _, eps_other = parameterization.split(other, z, logsnr)
    loss = 0.5 * (eps - eps_other).square().mean()
    expected = (y - other).square().mean()
    torch.testing.assert_close(protocol.weights[0] * loss, expected)
