"""Losses in which the noise level does not decide all: their mean is a weight, or it is none."""

import math

import pytest
import torch
import torch.nn.functional as F
from audited import SEEDS, X, flow_loss, kinds
from mistaken_losses import cosine_time

from elbos import audit


def eps_loss(noise_of=lambda eps: (eps, eps), weight=lambda eps: 1.0, told=lambda t: t):
    """Cosine schedule; `noise_of` makes the noise and the target of a normal draw."""

    def loss(network, x):
        t, alpha, sigma = cosine_time(x)
        eps = torch.randn_like(x)
        noise, target = noise_of(eps)
        error = F.mse_loss(network(alpha * x + sigma * noise, told(t)), target, reduction="none")
        return (weight(eps) * error.mean((1, 2, 3))).mean()

    return loss


def student_scale(num, nu):
    """Of Student's t: noise has one of these for each sample (Pandey et al., 2410.14171)."""
    return (nu / torch.distributions.Chi2(nu).sample((num, 1, 1, 1))).sqrt()


def student_t(nu, *, is_target_scaled):
    def noise_of(eps):
        noise = eps * student_scale(len(eps), nu)
        return noise, noise if is_target_scaled else eps

    return eps_loss(noise_of)


def t_edm(nu):
    """EDM's loss with Student's t noise: x + sigma * n, and the network is told sigma."""

    def loss(network, x):
        sigma = (1.2 * torch.randn(len(x), 1, 1, 1) - 1.2).exp()
        noise = torch.randn_like(x) * student_scale(len(x), nu)
        weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
        return weight * (network(x + sigma * noise, sigma.flatten()) - x) ** 2

    return loss


def random_brightness(network, x):
    t, alpha, sigma = cosine_time(x)
    eps = torch.randn_like(x)
    scaled = x * (0.5 + torch.rand(len(x), 1, 1, 1))
    return F.mse_loss(network(alpha * scaled + sigma * eps, t), eps)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "loss",
    [
        student_t(4, is_target_scaled=True),
        student_t(8, is_target_scaled=False),
        t_edm(5),
        random_brightness,
    ],
    ids=["t, scaled target", "t, eps", "t-edm", "brightness"],
)
def test_a_level_that_the_network_is_not_given_has_no_weighting(loss, seed):
    result = audit.probe(loss, X[:64], 500, seed=seed)
    assert kinds(result)[:1] == ["untold-levels"]
    assert not result.is_weighted_elbo
    assert not result.is_monotone


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (lambda t: t[torch.randperm(len(t))], ["no-level"]),
        (lambda t: (10 * t).round() / 10, ["rounded-times"]),
        (lambda t: (100 * t).round() / 100, []),
        (lambda t: torch.where(torch.rand(len(t)) < 0.05, torch.rand(len(t)), t), ["wrong-times"]),
    ],
    ids=["permuted", "tenths", "hundredths", "some wrong"],
)
def test_times_that_do_not_give_the_level_are_a_diagnostic(told, expected, seed):
    assert kinds(audit.probe(eps_loss(told=told), X[:64], 500, seed=seed)) == expected


def test_the_scatter_is_that_of_the_random_scale():
    [actual, *_] = audit.probe(t_edm(5), X, 1000).diagnostics
    log_kappa = torch.special.polygamma(1, torch.tensor(2.5)).sqrt().item()  # of chi2(5)
    assert actual.values["scatter"] == pytest.approx(log_kappa, rel=0.2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_target_drawn_at_random_has_no_weighting(seed):
    def loss(network, x):
        t, alpha, sigma = cosine_time(x)
        eps = torch.randn_like(x)
        target = torch.where(torch.rand(len(x), 1, 1, 1) < 0.1, x, eps)
        return F.mse_loss(network(alpha * x + sigma * eps, t), target)

    result = audit.probe(loss, X[:64], 1000, seed=seed)
    assert kinds(result)[:1] == ["scattered-target"]
    assert not result.is_weighted_elbo


def test_few_samples_leave_a_target_in_order():
    actual = [audit.probe(flow_loss(), X[:64], 100, seed=seed) for seed in range(12)]
    assert [kinds(result) for result in actual] == [[]] * 12


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_coefficient_counts_by_its_mean_unless_it_is_of_the_noise(seed):
    for num in (64, 1):  # of samples, or of the batch
        loss = eps_loss(weight=lambda eps, num=num: torch.rand(num))
        random = audit.probe(loss, X[:64], 1000, seed=seed)
        assert kinds(random) == ["scattered"]
        assert random.is_weighted_elbo
    by_noise = eps_loss(weight=lambda eps: eps.square().mean((1, 2, 3)) ** -1)
    result = audit.probe(by_noise, X[:64], 500, seed=seed)
    assert kinds(result)[:1] == ["noise-dependent"]
    assert not result.is_weighted_elbo


@pytest.mark.parametrize("shift", [-1, 0, 1])
def test_an_index_that_leaves_its_table_at_one_step_has_the_time_of_another_level(shift):
    table = (1 - torch.linspace(1e-4, 0.02, 200)).cumprod(0).roll(-shift)

    def loss(network, x):
        t = torch.randint(200, (len(x),))
        alpha_square = table[t].reshape(-1, 1, 1, 1)
        eps = torch.randn_like(x)
        z = alpha_square.sqrt() * x + (1 - alpha_square).sqrt() * eps
        return F.mse_loss(network(z, t), eps)

    assert kinds(audit.probe(loss, X[:64], 4000)) == ["wrong-times"] * (shift != 0)


TOLD = {
    "steps": lambda t: (100 * t).long(),
    "log-SNR": lambda t: -2 * torch.tan(math.pi / 2 * t).log(),
    "embedded": lambda t: torch.outer(t, torch.arange(32.0)),
}


@pytest.mark.parametrize("name", TOLD)
def test_any_monotone_function_of_the_level_may_condition_the_network(name):
    result = audit.probe(eps_loss(told=TOLD[name]), X, 500)
    assert (result.parameterization, kinds(result)) == ("eps", [])


@pytest.mark.parametrize("is_broadcast", [True, False])
@pytest.mark.parametrize("is_even", [True, False])
def test_a_factor_of_the_batch_times_a_function_of_the_level_is_told(is_broadcast, is_even):
    """Weights [b, 1] beside errors [b], which have a function of the level; weights over their
    mean. Times are independent, or evenly spaced from one random number.
    """

    def loss(network, x):
        grid = torch.arange(len(x)) / len(x)
        t = (torch.rand(1) + grid) % 1 if is_even else torch.rand(len(x))
        alpha, sigma = (part[:, None] for part in (1 - t, t))
        eps = torch.randn_like(x)
        error = (network(alpha * x + sigma * eps, t) - eps).square().mean(1)
        weight = (1 / (0.01 + t)) ** 2
        if is_broadcast:
            return (weight[:, None] * (error * alpha.flatten())).mean()
        return (weight / weight.mean() * error).mean()

    result = audit.probe(loss, X[:32, 0, :2].flatten(1), 4000)
    assert kinds(result) == ["batch-mean" if is_broadcast else "normalized-weights"]
    assert result.is_monotone is None or not is_broadcast


def test_weights_of_another_error_over_their_mean_are_told():
    """The error of x, of a network that predicts eps, weighted by the root of the SNR."""

    def loss(network, x):
        t = 0.01 + 0.98 * torch.rand(len(x), 1)
        alpha, sigma = torch.cos(torch.pi / 2 * t), torch.sin(torch.pi / 2 * t)
        z = alpha * x + sigma * torch.randn_like(x)
        error = (z - sigma * network(z, t)) / alpha - x
        return (alpha / sigma / (alpha / sigma).mean() * error.square()).mean()

    result = audit.probe(loss, X[:256, 0, :2].flatten(1), 8000)
    assert result.is_judged and kinds(result) == ["normalized-weights"]
