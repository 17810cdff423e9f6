"""The theorem: a weighted loss is a weighted integral of ELBOs of noisy data."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import bimodal, gaussian, gaussian_loss, information, line_loss, weighted_integral
from scipy.integrate import quad
from tables import NON_MONOTONE

from elbos.theory import weightings
from elbos.theory.elbo import elbo_mixture, is_monotone, noisy_elbo_losses, theorem_sides
from elbos.theory.oracles import GaussianMixture
from elbos.theory.recipes import RECIPES
from elbos.theory.weightings import EDM, Exponential, Monotone, Sigmoid

STD, WRONG = 0.5, 0.8
LOW, HIGH = -10.0, 12.0
FINE = torch.linspace(LOW, HIGH, 8001, dtype=torch.float64)
THEOREM_WEIGHTINGS = [
    weightings.ELBO(),
    Sigmoid(k=2.0),
    Monotone(EDM()),
    weightings.IDDPM(),
    EDM(),
    weightings.MinSNR(),
    RECIPES["sd3"].weighting,
]


def scaled(weighting):
    """The weighting in units of its value at the noisy end, so that 1e-6 means the same for all."""
    unit = weighting(FINE).max()
    return lambda logsnr: weighting(logsnr) / unit


def elbo_side(w, prior, low, high, elbo):
    """-int w' L + w(high) L(high) - w(low) L(low) by scipy, with w' by autograd."""

    def minus_slope(logsnr):
        leaf = torch.tensor([logsnr], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad((w(leaf) + 0 * leaf).sum(), leaf)
        return -slope.item()

    points = [-3.308, 0.0, math.log(5)]
    integral = quad(
        lambda u: minus_slope(u) * (prior + elbo(u)), low, high, points=points, limit=300
    )[0]
    w_low, w_high = w(torch.tensor([low, high], dtype=torch.float64)).tolist()
    return integral + w_high * (prior + elbo(high)) - w_low * prior


@pytest.mark.parametrize("believed", [STD, WRONG], ids=["optimal", "wrong"])
@pytest.mark.parametrize("weighting", THEOREM_WEIGHTINGS, ids=repr)
def test_both_sides_agree_on_gaussian_data(weighting, believed):
    """Each with scipy, to 1e-6: the weighted loss, and the mixture of the ELBOs' losses.

    Those have a closed form: with u = r^2 e^l, d/dl of [ln(1 + u) + (1 - s^2/r^2) / (1 + u)] / 2
    is the loss of the denoiser of N(0, r^2) on N(0, s^2).
    """
    w = scaled(weighting)

    def antiderivative(logsnr):
        u = believed**2 * np.exp(logsnr)
        return 0.5 * (np.log1p(u) + (1 - STD**2 / believed**2) / (1 + u))

    loss = torch.from_numpy(gaussian_loss(FINE.numpy(), STD, believed))
    left, right = theorem_sides(w, FINE, loss, prior_loss=0.3)
    weighted = weighted_integral(w, lambda u: gaussian_loss(u, STD, believed), LOW, HIGH)
    mixed = elbo_side(w, 0.3, LOW, HIGH, lambda u: antiderivative(u) - antiderivative(LOW))
    assert weighted == pytest.approx(mixed, abs=1e-6)
    assert left == pytest.approx(weighted, abs=1e-6)
    assert right == pytest.approx(mixed, abs=1e-6)


@pytest.fixture(scope="module")
def line():
    """Noise levels, and the loss and the information at each of them, of the two-mode data."""
    logsnr = torch.linspace(LOW, HIGH, 2001, dtype=torch.float64)
    return logsnr, line_loss(bimodal(), logsnr), information(bimodal(), logsnr)


@pytest.mark.parametrize("weighting", [Sigmoid(k=2.0), weightings.IDDPM(), EDM()], ids=repr)
def test_both_sides_agree_on_a_mixture(weighting, line):
    """The loss by quadrature of the denoiser's error; the ELBOs from entropies, to 1e-6."""
    logsnr, loss, info = line
    w = scaled(weighting)
    left, right = theorem_sides(w, logsnr, loss)
    w_nodes = w(logsnr)
    elbos = info - info[0]
    rises = -scipy.integrate.simpson(
        torch.autograd.functional.jvp(w, logsnr, torch.ones_like(logsnr))[1] * elbos, x=logsnr
    )
    expected = rises + (w_nodes[-1] * elbos[-1]).item()
    assert left == pytest.approx(expected, abs=1e-6)
    assert right == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("weighting", [Sigmoid(k=2.0), EDM()], ids=repr)
def test_both_sides_agree_for_a_wrong_denoiser_of_a_mixture(weighting, line):
    data, (logsnr, optimal, _) = bimodal(), line
    wrong = GaussianMixture(data.weights.flip(0), data.means, 1.3 * data.stds)
    loss = line_loss(data, logsnr, wrong)
    assert (loss > optimal).all()
    w = scaled(weighting)
    left, right = theorem_sides(w, logsnr, loss)
    expected = scipy.integrate.simpson(w(logsnr) * loss, x=logsnr)
    assert left == pytest.approx(expected, abs=1e-6)
    assert right == pytest.approx(expected, abs=1e-6)


def test_a_jump_of_the_weighting_counts_in_full():
    """Of w = 1 below 1 and 2 above it: the loss up to 1, and twice the loss from there, to 1e-4."""

    def primitive(logsnr):
        return 0.5 * np.log1p(STD**2 * np.exp(logsnr))

    loss = torch.from_numpy(gaussian_loss(FINE.numpy(), STD))
    left, right = theorem_sides(lambda u: torch.where(u > 1, 2.0, 1.0).double(), FINE, loss)
    expected = 2 * primitive(HIGH) - primitive(1.0) - primitive(LOW)
    assert left == pytest.approx(expected, abs=1e-4)
    assert right == pytest.approx(expected, abs=1e-4)


LEVELS_AND_LOSSES = [(torch.zeros(1), 1), (torch.tensor([1.0, 0.0]), 2), (torch.arange(3.0), 2)]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(("logsnr", "num_losses"), LEVELS_AND_LOSSES, ids=str)
@pytest.mark.parametrize("integrate", [partial(theorem_sides, EDM()), noisy_elbo_losses])
def test_a_loss_curve_is_one_loss_at_each_of_increasing_levels(integrate, logsnr, num_losses):
    with pytest.raises(ValueError, match=rf"\({num_losses},\)"):
        integrate(logsnr, torch.ones(num_losses))


@pytest.mark.parametrize("std", [0.3, 1.0])
def test_elbos_of_noisy_gaussian_data_are_its_information(std):
    """L = softplus(l + 2 ln s) / 2, from the loss and from the information at the noisy end."""
    loss = torch.from_numpy(gaussian_loss(FINE.numpy(), std))
    expected = 0.5 * torch.nn.functional.softplus(FINE + 2 * math.log(std))
    elbos = noisy_elbo_losses(FINE, loss, prior_loss=expected[0].item())
    torch.testing.assert_close(elbos, expected, rtol=0, atol=1e-7)


def test_elbos_of_a_noisy_mixture_are_its_information(line):
    logsnr, loss, info = line
    elbos = noisy_elbo_losses(logsnr, loss, prior_loss=info[0].item())
    torch.testing.assert_close(elbos, info, rtol=0, atol=1e-6)


# --- the mixture of ELBOs ------------------------------------------------------------------------


@pytest.mark.parametrize("weighting", THEOREM_WEIGHTINGS, ids=repr)
def test_the_mixture_has_total_one_and_its_parts_add_up(weighting):
    mixture = elbo_mixture(weighting, LOW, HIGH)
    logsnr = torch.linspace(LOW, HIGH, 400_001, dtype=torch.float64)
    step = (HIGH - LOW) / 400_000
    density = mixture.density(logsnr)
    negative = (-density).clamp(min=0).sum().item() * step
    positive = density.clamp(min=0).sum().item() * step
    assert positive - negative + mixture.mass_at_max == pytest.approx(1, abs=1e-3)
    assert mixture.negative_mass == pytest.approx(negative, rel=1e-3, abs=1e-3)
    assert mixture.positive_mass == pytest.approx(positive + mixture.mass_at_max, rel=1e-3)
    assert (mixture.negative_mass == 0) == is_monotone(weighting, LOW, HIGH)


def test_the_slope_of_a_weighting_is_read_without_gradients_too():
    with torch.no_grad():
        density = elbo_mixture(Sigmoid(k=1.0), -20.0, 20.0).density(torch.tensor([1.0]))
    assert density.item() == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("k", [-1.0, 2.0])
def test_sigmoid_mixes_logistic_noise_levels(k, generator):
    """Kolmogorov-Smirnov at the level of 4 standard errors, n = 4,000; and the density, exactly."""
    mixture = elbo_mixture(Sigmoid(k=k), -20.0, 20.0)
    logistic = scipy.stats.logistic(k, 1)
    assert scipy.stats.kstest(mixture.sample(4000, generator).numpy(), logistic.cdf).pvalue > 6e-5
    grid = torch.linspace(-19, 19, 39, dtype=torch.float64)
    np.testing.assert_allclose(mixture.density(grid), logistic.pdf(grid), rtol=1e-6)


@pytest.mark.parametrize("logsnr_min", [-10.0, -3.0])
def test_v_cosine_mixes_exponential_noise_levels_that_move_with_the_range(logsnr_min, generator):
    mixture = elbo_mixture(Exponential(), logsnr_min, logsnr_min + 40)
    distance = (mixture.sample(4000, generator) - logsnr_min).numpy()
    assert scipy.stats.kstest(distance, scipy.stats.expon(scale=2).cdf).pvalue > 6e-5


def test_samples_land_on_the_clean_end_as_often_as_its_mass(generator):
    """The ELBO is all mass; sigmoid on [-20, 3] has sigmoid(-1) of it, z < 4, n = 4,000."""
    assert (elbo_mixture(weightings.ELBO(), -5.0, 13.3).sample(10, generator) == 13.3).all()
    mixture = elbo_mixture(Sigmoid(k=2.0), -20.0, 3.0)
    mass = 1 / (1 + math.e)
    assert mixture.mass_at_max == pytest.approx(mass, rel=1e-6)
    share = (mixture.sample(4000, generator) == 3.0).double().mean().item()
    assert abs(share - mass) < 4 * (mass * (1 - mass) / 4000) ** 0.5


def test_edm_has_92_percent_of_negative_mass_on_its_own_range():
    mixture = elbo_mixture(EDM(), -2 * math.log(80), 20.0)
    assert mixture.negative_mass / mixture.positive_mass == pytest.approx(0.92, abs=0.005)


@pytest.mark.parametrize("weighting", NON_MONOTONE, ids=repr)
def test_a_signed_measure_is_not_sampled(weighting):
    with pytest.raises(ValueError, match=r"\[-20\.0, 20\.0\]"):
        elbo_mixture(weighting, -20.0, 20.0).sample(3)


def test_a_rise_around_a_jump_is_negative_mass(generator):
    """sigmoid(l) + 5 (l < j) rises by 1 in all, of 5 at the noisy end, wherever it falls by 5."""
    for j in (20 * torch.rand(50, dtype=torch.float64, generator=generator) - 10).tolist():
        mixture = elbo_mixture(lambda x, j=j: torch.sigmoid(x) + 5 * (x < j), -20.0, 20.0)
        assert mixture.negative_mass == pytest.approx(0.2, abs=1e-3)
        with pytest.raises(ValueError, match=r"\[-20\.0, 20\.0\]"):
            mixture.sample(3)


def test_a_mixture_without_a_unit_is_refused():
    with pytest.raises(ValueError, match=r"logsnr_min=-20.0 is 0.0"):
        elbo_mixture(lambda logsnr: (logsnr > 0).double(), -20.0, 20.0)


def test_the_oracles_loss_is_their_denoisers(randn):
    """Closed form against simulation, right and wrong beliefs; z < 4, n = 4,000."""
    for believed in (STD, WRONG):
        logsnr = torch.full((4000,), 0.7, dtype=torch.float64)
        x, eps = STD * randn(4000, 1), randn(4000, 1)
        alpha, sigma = torch.sigmoid(logsnr[0]).sqrt(), torch.sigmoid(-logsnr[0]).sqrt()
        error = gaussian(believed)(alpha * x + sigma * eps, logsnr)[1] - eps
        losses = 0.5 * error.square()
        z = (losses.mean() - gaussian_loss(0.7, STD, believed)) / (losses.std() / 4000**0.5)
        assert abs(z) < 4
