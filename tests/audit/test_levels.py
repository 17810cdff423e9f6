"""The noise levels and the coefficients, however they come about."""

import math

import numpy as np
import pytest
import scipy
import torch
from audit_errors import central, relative_errors
from audited import X, flow_loss, kinds, within

from elbos import audit
from elbos.theory import elbo as analysis
from elbos.theory import schedules, weightings
from elbos.theory.names import code


def eps_loss(levels_of, log_density, weighting, factor=torch.ones, noise=torch.randn_like):
    """An eps-loss that trains exactly a weighting, whatever its levels are drawn from."""

    def loss(network, x):
        logsnr = levels_of(len(x)).double()
        alpha, sigma = (
            torch.sigmoid(sign * logsnr).sqrt().float()[:, None, None, None] for sign in (1, -1)
        )
        eps = noise(x)
        error = (network(alpha * x + sigma * eps, logsnr) - eps).square().flatten(1).mean(1)
        weight = weighting(logsnr) * torch.exp(-log_density(logsnr))
        return error * weight * factor(len(x))

    return loss


MIXTURE = [(0.6, -2.0, 1.5), (0.4, 3.0, 1.0)]


def mixed_levels(num):
    """Log-SNR from a mixture of normals, which no named schedule is and no single draw decides."""
    which = torch.multinomial(torch.tensor([m[0] for m in MIXTURE]), num, replacement=True)
    mean, std = torch.tensor([m[1] for m in MIXTURE]), torch.tensor([m[2] for m in MIXTURE])
    return mean[which] + std[which] * torch.randn(num)


def log_mixture(logsnr):
    parts = [math.log(m[0]) + log_normal(m[1], m[2])(logsnr) for m in MIXTURE]
    return torch.logsumexp(torch.stack(parts), 0)


def log_normal(mean, std):
    return lambda v: -(((v - mean) / std) ** 2) / 2 - math.log(std)


def normal_levels(mean, std):
    return lambda num: mean + std * torch.randn(num)


MIXED = (mixed_levels, log_mixture)


SMOOTH_SEEDS = range(2)
SMALL = X[:, :, :4, :4]


def test_a_distribution_without_a_name_is_estimated():
    """Over several seeds: the mean of the errors, and each of them in its own standard errors."""
    weighting = weightings.IDDPM()
    results = [audit.probe(eps_loss(*MIXED, weighting), X, seed=seed) for seed in SMOOTH_SEEDS]
    errors = [relative_errors(result, weighting).abs() for result in results]
    assert all(result.density_kind == "smooth" for result in results)
    assert np.mean([e.median().item() for e in errors]) < 0.03
    assert np.mean([e.quantile(0.95).item() for e in errors]) < 0.08
    for result, error in zip(results, errors, strict=True):
        assert (error / result.weight_error[central(result)]).max() < 5
        assert result.closest[0].name == code(weighting)
        assert result.verdict == "not monotone"


@pytest.mark.parametrize(
    "mean, std, weighting",
    [(2.0, 2.8, weightings.Sigmoid()), (2.0, 2.8, weightings.EDM())],
)
def test_parameters_of_the_users_own_are_as_exact_as_published_ones(mean, std, weighting):
    loss = eps_loss(normal_levels(mean, std), log_normal(mean, std), weighting)
    result = audit.probe(loss, X, 2000)
    assert result.schedule == code(schedules.Normal(mean=mean, std=std))
    assert relative_errors(result, weighting).abs().max() < 1e-3
    low, high = result.logsnr[0].item(), result.logsnr[-1].item()
    expected = within(analysis.rising_intervals(weighting, -50, 50), low, high)
    actual = [(max(start, low), end) for start, end in result.rising]
    assert len(actual) == len(expected)
    assert result.is_monotone == (expected == [])
    for (_, end), (_, true_end) in zip(actual, expected, strict=True):
        assert abs(end - true_end) < 0.15


def low_discrepancy(num):
    return torch.remainder(torch.rand(1) + torch.arange(num) / num, 1.0)


def antithetic(num):
    u = torch.rand(num // 2)
    return torch.cat([u, 1 - u])


def stratified(num):
    return (torch.arange(num) + torch.rand(num)) / num


def shared_by_four_neighbours(num):
    return torch.rand(num // 4).repeat_interleave(4)


def numpy_uniform(num):
    return torch.from_numpy(np.random.uniform(0, 1, num))  # noqa: NPY002


@pytest.mark.parametrize(
    "times", [low_discrepancy, antithetic, stratified, shared_by_four_neighbours, numpy_uniform]
)
def test_levels_are_exact_however_their_times_are_drawn(times):
    """Uniform times in a schedule without a name: log-SNR rises like 10 + 3 ln u - 2 (1 - u)."""

    def levels_of(num):
        u = times(num).double().clamp(1e-7, 1)
        return 10 + 3 * u.log() - 2 * (1 - u)

    def log_density(logsnr):  # by Newton's method for the u of each level
        log_u = (logsnr - 8) / 5
        for _ in range(60):
            u = log_u.exp()
            log_u = log_u - (10 + 3 * log_u - 2 * (1 - u) - logsnr) / (3 + 2 * u)
        return -torch.log(3 / u + 2)

    weighting = weightings.ELBO()
    result = audit.probe(eps_loss(levels_of, log_density, weighting), SMALL, 1000)
    assert result.density_kind == "function"
    assert result.is_monotone
    assert relative_errors(result, weighting).abs().max() < 2e-3


def of_scipy(x):
    return torch.from_numpy(scipy.stats.norm.rvs(size=tuple(x.shape))).to(x)


@pytest.mark.parametrize(
    "options",
    [{"factor": lambda num: torch.exp(0.3 * torch.randn(num))}, {"noise": of_scipy}],
    ids=["log-normal", "noise of scipy"],
)
def test_a_coefficient_that_scatters_is_averaged(options):
    """And its mean is no rise where it falls by orders of magnitude."""

    def levels_of(num):
        return -2 * torch.log(torch.tan(torch.pi / 2 * torch.rand(num).double()))

    def log_density(logsnr):
        return -torch.log(torch.cosh(logsnr / 2))

    weighting = weightings.MinSNR()
    result = audit.probe(eps_loss(levels_of, log_density, weighting, **options), SMALL, 5000)
    errors = relative_errors(result, weighting).abs()
    assert errors.median() < 0.03
    assert errors.quantile(0.95) < 0.08
    assert result.closest[0].name == code(weighting)
    [(_, end)] = result.rising
    assert abs(end) < 0.5


def choose_by_numpy(p, num):
    return torch.from_numpy(np.random.choice(len(p), num, p=p.numpy()))  # noqa: NPY002


def choose_by_torch(p, num):
    return torch.multinomial(p, num, replacement=True)


def choose_by_distributions(p, num):
    return torch.distributions.Categorical(probs=p).sample((num,))


@pytest.mark.parametrize("choose", [choose_by_numpy, choose_by_torch, choose_by_distributions])
def test_steps_drawn_with_given_probabilities_are_exact(choose):
    """The weighting of uniform steps: what is drawn with p is divided by it."""
    steps = torch.arange(500, dtype=torch.float64)
    alpha_bar = torch.cos((steps + 4) / 508 * torch.pi / 2) ** 2
    p = (0.02 + alpha_bar**2) / (0.02 + alpha_bar**2).sum()

    def loss(network, x):
        t = choose(p, len(x))
        scale, eps = alpha_bar[t].float()[:, None, None, None], torch.randn_like(x)
        error = (network(scale.sqrt() * x + (1 - scale).sqrt() * eps, t) - eps) ** 2
        return error.flatten(1).mean(1) / p[t]

    result = audit.probe(loss, SMALL, 5000)
    truth = relative_errors(result, weightings.IDDPM())
    assert result.density_kind == "function"
    assert truth.abs().median() < 1e-3
    assert truth.abs().quantile(0.95) < 1e-2


def test_clamped_levels_are_told_and_left_out():
    loss = flow_loss(lambda num: torch.rand(num).clamp(0.02, 0.98))
    result = audit.probe(loss, SMALL, 2000)
    assert kinds(result) == ["clamped"]
    assert relative_errors(result, weightings.Exponential()).abs().max() < 1e-3


def test_samples_without_weight_do_not_hide_the_prediction(share=0.5):
    def loss(network, x):
        t, eps = torch.rand(len(x), 1, 1, 1), torch.randn_like(x)
        error = (network((1 - t) * x + t * eps, t) - (eps - x)).square().mean((1, 2, 3))
        return error * (torch.rand(len(x)) >= share)

    result = audit.probe(loss, SMALL, 1000)
    assert result.parameterization == "flow"
    gap = (result.b - 1).abs().max() + (result.a + 1).abs().max()
    assert gap < 1e-3
    assert {"unused", "scattered"} == set(kinds(result))


def test_a_negative_coefficient_is_told():
    def loss(network, x):
        t = torch.rand(len(x), 1, 1, 1)
        eps = torch.randn_like(x)
        error = (network((1 - t) * x + t * eps, t) - (eps - x)).square()
        return (error * (0.7 - t)).mean()

    result = audit.probe(loss, X, 2000)
    assert "negative" in kinds(result)
    assert not result.is_weighted_elbo
