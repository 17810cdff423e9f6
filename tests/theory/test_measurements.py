"""One set of measurements answers every question, and says how well."""

import math

import pytest
import torch
from oracles import (
    bimodal,
    gaussian,
    gaussian_loss,
    in_parts,
    line_loss,
    quantized,
    weighted_integral,
    z_score,
)
from scipy.integrate import quad
from scipy.stats import t as student

from elbos import schedules, weightings
from elbos.evaluation.likelihood import MIN_PILOT_IMAGES, num_pilot_levels
from elbos.likelihood import (
    Curve,
    Estimate,
    Measurements,
    decoder_loss,
    fit,
    losses_at,
    prior_loss,
    stratified_times,
)
from elbos.oracles import GaussianMixture

ENDS = {"logsnr_min": -8.0, "logsnr_max": 11.0}
LINEAR = schedules.Linear(**ENDS)
NUM_LEVELS = 6
WEIGHTINGS = [
    weightings.ELBO(),
    weightings.Sigmoid(),
    weightings.EDM(),
    weightings.Monotone(weightings.EDM()),
]


def measured_each(denoiser, groups, schedules, generator, *, controls, rounds=2, times=4):
    """Rounds of measurements of each group of images, on its own schedule; all groups at once."""
    logsnr, loss = [], []
    for _ in range(rounds):
        levels = [
            schedule.logsnr(stratified_times(len(x), times, generator))
            for x, schedule in zip(groups, schedules, strict=True)
        ]
        found = losses_at(denoiser, torch.cat(groups), torch.cat(levels), generator=generator)
        logsnr.append(levels)
        loss.append(found.split([len(x) for x in groups]))
    return [
        Measurements(
            schedule,
            torch.stack([levels[i] for levels in logsnr], 1),
            torch.stack([each[i] for each in loss], 1),
            control,
        )
        for i, (schedule, control) in enumerate(zip(schedules, controls, strict=True))
    ]


def measured(denoiser, x, schedule, generator, *, control=None, **options):
    """Rounds of measurements of one group."""
    one = {"controls": [control], **options}
    return measured_each(denoiser, [x], [schedule], generator, **one)[0]


def fitted(denoiser, x, generator, **options):
    """Measurements after a pilot of 300 images."""
    pilot = measured(denoiser, x[:300], LINEAR, generator, rounds=1, times=32)
    schedule, control = fit(pilot)
    return measured(denoiser, x, schedule, generator, control=control, **options)


@pytest.mark.parametrize(("num", "num_times"), [(1, 1), (1, 8), (5, 3), (250, 4)])
def test_stratified_times_are_a_lattice_for_all_and_for_each(num, num_times, generator):
    times = stratified_times(num, num_times, generator)
    assert times.min() >= 0
    assert times.max() < 1
    together = times.flatten().sort().values.diff()
    torch.testing.assert_close(together, torch.full_like(together, 1 / (num * num_times)))
    each = times.diff(dim=1)
    torch.testing.assert_close(each, torch.full_like(each, 1 / num_times))


def test_a_stratified_time_is_uniform(generator):
    """Mean and mean square of the first image's second time, z < 4, n = 4,000."""
    times = torch.stack([stratified_times(3, 2, generator)[0] for _ in range(4000)])
    second = times[:, 1]
    assert z_score(second, 0.75) < 4
    assert z_score(second**2, quad(lambda t: 2 * t**2, 0.5, 1)[0]) < 4


def test_bound_on_quantized_data_is_their_log_probability(generator):
    """3 standard errors, each at most 0.002 bits/dim; n = 40,000 images, 16 x 8 evaluations."""
    data = quantized(NUM_LEVELS, mean=0.2, std=0.6)
    x, atom = data.sample(40_000, generator)
    ends = prior_loss(x, -8.0) + decoder_loss(x, 11.0, NUM_LEVELS, generator=generator)
    bound = fitted(in_parts(data), x, generator, rounds=8, times=16).integral(torch.ones_like)
    error = (bound + ends[:, None] + data.weights.log()[atom, None] / 2) / math.log(2)
    found = Estimate.from_rounds(error)
    assert found.standard_error < 0.002
    assert abs(found.mean) < 3 * found.standard_error


def test_bound_on_continuous_data_is_their_log_density(generator):
    """3 standard errors, each at most 0.002 bits/dim; n = 8,000 images, 16 x 8 evaluations."""
    data = GaussianMixture(
        weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
        means=torch.tensor([[-0.8], [0.5]], dtype=torch.float64).expand(2, 32),
        stds=torch.tensor([0.2, 0.3], dtype=torch.float64),
    )
    x, _ = data.sample(8000, generator)
    exact = -data.log_prob(x) / 32
    bound = fitted(data, x, generator, rounds=8, times=16).integral(torch.ones_like)
    ends = prior_loss(x, -8.0) + decoder_loss(x, 11.0, None)
    found = Estimate.from_rounds((bound + (ends - exact)[:, None]) / math.log(2))
    assert found.standard_error < 0.002
    assert abs(found.mean) < 3 * found.standard_error


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
def test_a_weighted_loss_is_its_quadrature(weighting, generator):
    """For a wrong denoiser too; z < 4, n = 3,000."""
    x, _ = gaussian(0.5, 2).sample(3000, generator)
    loss = fitted(gaussian(0.8, 2), x, generator).integral(weighting).mean(1)
    expected = weighted_integral(weighting, lambda v: gaussian_loss(v, 0.5, 0.8), -8.0, 11.0)
    assert z_score(loss, expected) < 4


@pytest.mark.parametrize("logsnr", [-8.0, -3.0, 0.1, 4.0, 11.0])
def test_the_elbo_of_noisy_data_is_the_integral_up_to_their_level(logsnr, generator):
    """Z < 4, n = 3,000, for a wrong denoiser; at the noisy end the prior alone, exactly."""
    x, _ = gaussian(0.5, 2).sample(3000, generator)
    prior = prior_loss(x, -8.0)
    elbo = fitted(gaussian(0.8, 2), x, generator).elbo(logsnr, prior).mean(1) - prior
    expected = quad(lambda v: gaussian_loss(v, 0.5, 0.8), -8.0, logsnr)[0]
    assert z_score(elbo, expected) < 4 if logsnr > -8 else elbo.abs().max() == 0


def test_the_loss_at_a_level_is_its_quadrature(generator):
    """Averaged over half a unit of log-SNR; z < 4, n = 3,000."""
    x, _ = bimodal().sample(3000, generator)
    measurements = fitted(bimodal(), x, generator)
    for level in (-4.0, 0.0, 3.0, 7.0):
        nearby = torch.linspace(level - 0.25, level + 0.25, 51, dtype=torch.float64)
        expected = line_loss(bimodal(), nearby).mean().item()
        assert z_score(measurements.curve(level, 0.5).mean(1), expected) < 4


def test_levels_may_be_anywhere(generator):
    """Where all losses are the control variate, a + b l: integrals in closed form, to 1e-3."""
    nodes = torch.linspace(-8, 11, 49, dtype=torch.float64)
    control = Curve(nodes, 1 + 0.05 * nodes)
    logsnr = LINEAR.logsnr(stratified_times(2, 3, generator))[:, None]
    known = Measurements(LINEAR, logsnr, control(logsnr), control)
    for level in (-7.93, 0.123, 4.567):
        expected = level + 8 + 0.025 * (level**2 - 64)
        elbo = known.elbo(level, torch.zeros(2, dtype=torch.float64))
        torch.testing.assert_close(elbo, torch.full_like(elbo, expected), rtol=1e-3, atol=1e-3)
    for level, width in ((0.123, 0.37), (4.567, 0.11)):
        loss = known.curve(level, width)
        expected = torch.full_like(loss, 1 + 0.05 * level)
        torch.testing.assert_close(loss, expected, rtol=5e-3, atol=0)


def test_control_variate_and_density_change_no_mean(generator):
    """Whatever they are: here a wrong density and the control variate of other data; z < 4."""
    x, _ = gaussian(0.5).sample(3000, generator)
    other, _ = gaussian(2.0).sample(300, generator)
    pilot = measured(gaussian(0.3), other, LINEAR, generator, rounds=1, times=32)
    _, control = fit(pilot)
    schedule = schedules.Cosine(**ENDS)
    measurements = measured(gaussian(0.5), x, schedule, generator, control=control)
    expected = quad(lambda v: gaussian_loss(v, 0.5), -8.0, 11.0)[0]
    assert z_score(measurements.integral(torch.ones_like).mean(1), expected) < 4


def test_errors_are_the_scatter_of_repeated_measurements(generator):
    """To 25 %, over 150 repetitions: with the same images, and with new ones.

    Levels shared over images make the real scatter smaller than stated, never larger.
    """
    data = bimodal()
    x, _ = data.sample(400, generator)
    pilot = measured(data, x[:300], LINEAR, generator, rounds=1, times=32)
    schedule, control = fit(pilot)

    new = [data.sample(400, generator)[0] for _ in range(150)]
    both = [
        [
            Estimate.from_rounds(again.integral(torch.ones_like))
            for again in measured_each(
                data, groups, 150 * [schedule], generator, controls=150 * [control]
            )
        ]
        for groups in (150 * [x], new)
    ]
    for found, stated in zip(both, ("measurement_error", "standard_error"), strict=True):
        scatter = torch.tensor([each.mean for each in found]).std().item()
        mean = sum(getattr(each, stated) for each in found) / len(found)
        assert scatter == pytest.approx(mean, rel=0.25)


def test_an_interval_of_few_images_covers_as_often_as_it_says(generator):
    """Student's, of 40 images and a pilot of as many as the evaluation takes of them.

    400 repetitions, two kinds of images that are unlike: 95 % within 3 binomial standard errors.
    """
    data = GaussianMixture(
        weights=torch.tensor([0.8, 0.2], dtype=torch.float64),
        means=torch.zeros(2, 16, dtype=torch.float64),
        stds=torch.tensor([1.0, 0.05], dtype=torch.float64),
    )
    groups = [data.sample(40, generator)[0] for _ in range(400)]
    pilots = measured_each(
        data,
        [x[:MIN_PILOT_IMAGES] for x in groups],
        400 * [LINEAR],
        generator,
        controls=400 * [None],
        rounds=1,
        times=num_pilot_levels(min(40, MIN_PILOT_IMAGES)),
    )
    schedules, controls = zip(*map(fit, pilots), strict=True)
    found = [
        Estimate.from_rounds(each.integral(torch.ones_like))
        for each in measured_each(data, groups, schedules, generator, controls=controls)
    ]
    means, errors = (
        torch.tensor([getattr(e, key) for e in found]) for key in ("mean", "standard_error")
    )
    z = (means - means.mean()) / errors  # unbiased: around their own mean
    coverage = (z.abs() < student.ppf(0.975, 39)).double().mean().item()
    assert abs(coverage - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 400)


def test_fitting_makes_the_measurement_precise(generator):
    """On images whose losses are alike, less than a third of the error of uniform levels."""
    data = gaussian(0.5, 1024)
    x, _ = data.sample(300, generator)
    uniform = Estimate.from_rounds(measured(data, x, LINEAR, generator).integral(torch.ones_like))
    found = Estimate.from_rounds(fitted(data, x, generator).integral(torch.ones_like))
    assert found.measurement_error < uniform.measurement_error / 3


def test_one_round_has_no_measurement_error(generator):
    x, _ = gaussian(0.5).sample(50, generator)
    once = fitted(gaussian(0.5), x, generator, rounds=1)
    found = Estimate.from_rounds(once.integral(torch.ones_like))
    assert math.isnan(found.measurement_error)
    assert found.standard_error > 0


@pytest.mark.parametrize("logsnr_max", [-3.0, 2.0, 6.0, 13.3])
@pytest.mark.parametrize("num_levels", [2, 17, 256])
def test_decoder_is_a_softmax_over_all_levels(num_levels, logsnr_max):
    """Against the definition, with every level; the same noise."""
    levels = torch.linspace(-1, 1, num_levels, dtype=torch.float64)
    x = levels.repeat(20, 1)
    found = decoder_loss(x, logsnr_max, num_levels, generator=torch.Generator().manual_seed(0))
    eps = torch.randn(x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(0))
    z = x + math.exp(-logsnr_max / 2) * eps
    logits = -0.5 * math.exp(logsnr_max) * (z[..., None] - levels).square()
    log_p = logits.log_softmax(-1).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(found, -log_p.mean(1), rtol=1e-9, atol=1e-14)
