"""The weighted loss: the weighting alone decides its expectation, in any parameterization."""

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from oracles import gaussian, gaussian_loss, weighted_integral, z_score
from tables import PARAMETERIZATIONS, SCHEDULES, WEIGHTINGS, with_ends

from elbos import Validator
from elbos.models.likelihood import eps_loss
from elbos.theory import schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.denoiser import Denoiser
from elbos.theory.objective import Objective
from elbos.theory.parameterizations import EDM, Eps, V, X
from elbos.theory.process import align, alpha_sigma
from elbos.theory.weightings import Sigmoid
from elbos.training.data.given import GivenData

STD = 0.5


class DataEstimate(torch.nn.Module):
    """A network of the data, for the whole range of noise levels."""

    def __init__(self):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 5)
        ).double()
        generator = torch.Generator().manual_seed(2)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, z, logsnr):
        return self.layers(torch.cat([z, logsnr[:, None] / 20], 1))


def as_network(estimate, parameterization):
    """The network that, in this parameterization, says the same about the data."""

    def network(z, logsnr, *_):
        x_hat = estimate(z, logsnr)
        alpha, sigma = (align(scale, z) for scale in alpha_sigma(logsnr))
        return parameterization.target(x_hat, (z - alpha * x_hat) / sigma, logsnr)

    return network


def objective(parameterization=V(), weighting=Sigmoid(k=2.0), schedule=schedules.Cosine()):  # noqa: B008
    return Objective(weighting=weighting, schedule=schedule, parameterization=parameterization)


def loss_and_gradient(parameterization):
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)
    logsnr = torch.linspace(-15, 15, 40, dtype=torch.float64)
    estimate = DataEstimate()
    loss = objective(parameterization)(as_network(estimate, parameterization), x, eps, logsnr)
    loss.mean().backward()
    return loss.detach(), torch.cat([p.grad.flatten() for p in estimate.parameters()])


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=repr)
def test_loss_and_gradient_are_the_same_in_every_parameterization(parameterization):
    """For the same estimate of the data: 1e-10 relative, per sample and per parameter."""
    loss, gradient = loss_and_gradient(parameterization)
    expected_loss, expected_gradient = loss_and_gradient(Eps())
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=0)
    scale = expected_gradient.abs().max().item()
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-10 * scale)


def test_loss_is_the_definition(randn):
    """1/2 (w/p) ||eps_hat - eps||^2 per dimension, of x_hat = 0: eps_hat = z / sigma."""
    x, eps, logsnr = randn(40, 5), randn(40, 5), torch.linspace(-15, 15, 40, dtype=torch.float64)
    mass = 1 - 4 / math.pi * math.atan(math.exp(-10))  # of the cosine schedule, on [-20, 20]
    w_over_p = 1 / (1 + torch.exp(logsnr - 2)) * 2 * math.pi * mass * torch.cosh(logsnr / 2)
    expected = 0.5 * w_over_p * torch.exp(logsnr) * x.square().mean(1)  # eps_hat - eps = x e^{l/2}
    network = as_network(lambda z, _: 0 * z, V())
    torch.testing.assert_close(objective()(network, x, eps, logsnr), expected, rtol=1e-9, atol=0)


NARROW = [with_ends(schedule, -8.0, 9.0) for schedule in SCHEDULES]


@pytest.mark.parametrize("schedule", NARROW, ids=repr)
@pytest.mark.parametrize("weighting", [Sigmoid(k=2.0), weightings.EDM()], ids=repr)
def test_expected_loss_is_the_same_under_every_schedule(schedule, weighting):
    """The closed form, to 1e-4, by quadrature over t; on N(0, s^2) with a denoiser of N(0, 1).

    The loss is quadratic in (x, eps), so four points of (+-s, +-1) average it exactly. Over t,
    Gauss-Legendre on pieces that end where the bins of the adaptive schedules do.
    """
    low, high = schedule.logsnr_min, schedule.logsnr_max  # that of a flow time below 1 is above -8
    edges = schedule.time(torch.linspace(high, low, 701, dtype=torch.float64))
    nodes, weights = torch.from_numpy(np.stack(np.polynomial.legendre.leggauss(3))) / 2
    t = (edges[:-1, None] + edges.diff()[:, None] * (nodes + 0.5)).flatten()
    dt = (edges.diff()[:, None] * weights).flatten()
    logsnr = schedule.logsnr(t)
    corners = torch.tensor([[STD, 1.0], [STD, -1.0]], dtype=torch.float64)  # and minus both
    network = as_network(lambda z, level: gaussian(1.0)(z, level)[0], V())
    total = 0.0
    for x, eps in corners:
        ones = torch.ones(len(t), 1, dtype=torch.float64)
        loss = objective(V(), weighting, schedule)(network, x * ones, eps * ones, logsnr)
        total += (loss * dt).sum().item() / 2
    expected = weighted_integral(weighting, lambda level: gaussian_loss(level, STD, 1.0), low, high)
    assert total == pytest.approx(expected, rel=1e-4)


def test_edm_recipe_is_karras_loss(randn):
    """lambda(sigma) ||D(x + n) - x||^2 with lambda = (sigma^2 + .5^2) / (.5 sigma)^2, to 1e-10.

    The known factor: 1/2 of the ELBO, and the .5^2 that EDM's weighting leaves out.
    """
    x, eps, f = 0.5 * randn(40, 3), randn(40, 3), randn(40, 3)
    logsnr = torch.linspace(-8, 12, 40, dtype=torch.float64)
    loss = objective(EDM(), weightings.EDM(), schedules.Normal.edm())(lambda *_: f, x, eps, logsnr)
    sigma = torch.exp(-logsnr / 2)[:, None]
    noisy = x + sigma * eps
    denoised = 0.25 / (sigma**2 + 0.25) * noisy + sigma * 0.5 / (sigma**2 + 0.25).sqrt() * f
    karras = ((sigma**2 + 0.25) / (0.5 * sigma) ** 2 * (denoised - x) ** 2).mean(1)
    torch.testing.assert_close(loss, 0.5 * 0.25 * karras, rtol=1e-10, atol=0)


@pytest.mark.parametrize("weighting", [Sigmoid(k=2.0), weightings.EDM()], ids=repr)
def test_without_its_factor_the_loss_is_the_error_of_the_noise(weighting, randn):
    x, eps, logsnr = randn(40, 5), randn(40, 5), torch.linspace(-15, 15, 40).double()
    network = as_network(DataEstimate(), V())
    mine = objective(weighting=weighting, schedule=schedules.Normal.edm())
    torch.testing.assert_close(
        mine(network, x, eps, logsnr) / mine.w_over_p(logsnr),
        eps_loss(Denoiser(network, V()), x, logsnr, eps=eps),
        rtol=1e-8,
        atol=1e-12,
    )


def test_a_batch_as_large_as_the_width_does_not_mix_its_samples(randn):
    x, eps, logsnr = randn(4, 3, 4, 4), randn(4, 3, 4, 4), randn(4)

    def network(z, logsnr, _):
        return z.sin() * align(logsnr, z)

    loss = objective()(network, x, eps, logsnr)
    assert loss.shape == (4,)
    for i in range(4):
        item = slice(i, i + 1)
        alone = objective()(network, x[item], eps[item], logsnr[item])
        torch.testing.assert_close(loss[item], alone, rtol=1e-12, atol=0)


def test_coefficient_is_in_float64_even_of_float32_levels():
    """Of w / p at the end of a light tail, 1e19 here, a float32 exponent loses three digits."""
    level = torch.linspace(-20, 20, 9)
    coefficient = objective(Eps(), weightings.ELBO(), schedules.Normal.edm()).coefficient(level)
    p = scipy.stats.norm(2.4, 2.4).pdf(level.double())  # all but 1e-13 of it is on [-20, 20]
    np.testing.assert_allclose(coefficient, 0.5 / p, rtol=1e-10)


WHOLE_RANGE = torch.linspace(0, 1, 17, dtype=torch.float64)
NEVER = -80  # log-densities below are never sampled, and float32 cannot divide by their exponential


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS, ids=repr)
@pytest.mark.parametrize(
    ("use_bfloat16", "tolerance"), [(False, 1e-4), (True, 0.03)], ids=["float32", "bfloat16"]
)
def test_low_precision_is_finite_and_close_over_the_whole_range(
    parameterization, use_bfloat16, tolerance
):
    """Loss and gradient, per sample, at the levels of every schedule, both ends included.

    Each sample has a bias of its own, so that each noise level has its own gradient. The factor in
    front, the only place of weighting and density, has the next test.
    """
    generator = torch.Generator().manual_seed(3)
    draws = torch.randn(4, 17, 17, generator=generator, dtype=torch.float64)
    x, eps, bias, weight = draws

    def run(dtype, use_bfloat16, objective, logsnr):
        mine = bias.to(dtype, copy=True).requires_grad_()

        def network(z, *_):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=use_bfloat16):
                return torch.nn.functional.linear(z, 0.3 * weight.to(dtype)) + mine

        loss = objective(network, x.to(dtype), eps.to(dtype), logsnr)
        (gradient,) = torch.autograd.grad(loss.sum(), mine)
        return loss.detach().double(), gradient.double().norm(dim=1)

    for schedule in SCHEDULES:
        logsnr = schedule.logsnr(WHOLE_RANGE)
        item = objective(parameterization, Sigmoid(k=2.0), schedule)
        low = run(torch.float32, use_bfloat16, item, logsnr)
        exact = run(torch.float64, False, item, logsnr)
        is_sampled = schedule.log_density(logsnr) > NEVER
        for value, reference in zip(low, exact, strict=True):
            assert value[is_sampled].isfinite().all(), schedule
            torch.testing.assert_close(
                value[is_sampled], reference[is_sampled], rtol=tolerance, atol=1e-30
            )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("parameterization", [Eps(), X()], ids=repr)
def test_the_factor_of_the_error_fits_float32(parameterization):
    """With errors up to 100, of every weighting under every schedule, over the whole range. One of
    the two has the largest factor of all parameterizations at each level.
    """
    levels = [(schedule, schedule.logsnr(WHOLE_RANGE)) for schedule in SCHEDULES]
    sampled_levels = [(schedule, at, schedule.log_density(at) > NEVER) for schedule, at in levels]
    for weighting, (schedule, logsnr, is_sampled) in product(WEIGHTINGS, sampled_levels):
        factor = objective(parameterization, weighting, schedule).coefficient(logsnr).float()
        assert (100 * factor[is_sampled]).isfinite().all(), (weighting, schedule)
        assert (factor >= 0).all(), (weighting, schedule)


def test_loss_and_estimates_are_where_the_data_are():
    """Levels may be on the CPU in float64, as drawn; `meta` stands for any other device."""
    x, eps = torch.randn(2, 4, 3, 4, 4, device="meta")
    logsnr = torch.linspace(-5, 5, 4, dtype=torch.float64)
    for parameterization in PARAMETERIZATIONS:
        loss = objective(parameterization)(
            lambda z, logsnr, cond: z * logsnr[:, None, None, None], x, eps, logsnr
        )
        split = parameterization.split(x, eps, logsnr)
        assert {(t.device.type, t.dtype) for t in (loss, *split)} == {("meta", torch.float32)}


# --- drawing noise levels and noise itself --------------------------------------------------------


def test_the_loss_draws_what_it_is_not_given(randn):
    """Noise levels and then noise, from the generator; the same with everything given."""
    x, label = randn(8, 2), {"label": torch.arange(8), "text": randn(8, 3)}
    seen = []

    def network(z, logsnr, cond):
        seen.append(cond)
        return z * logsnr[:, None]

    actual = objective().loss(network, x, label, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    logsnr = objective().schedule.sample(8, generator)
    eps = torch.randn(8, 2, dtype=torch.float64, generator=generator)
    assert torch.equal(actual, objective()(network, x, eps, logsnr, label))
    inputs = objective().loss(network, x, label, logsnr=logsnr + 0.1)
    assert not torch.equal(inputs, actual)
    assert all(cond is label for cond in seen)


@pytest.mark.parametrize("schedule", [schedules.Cosine(), Adaptive()], ids=repr)
def test_the_mean_of_drawn_losses_is_the_weighted_integral(schedule, generator):
    """Means of batches of 64, z < 4 over 400 of them; the stream of torch's global generator."""
    torch.manual_seed(0)
    data, item = gaussian(STD), objective(Eps(), Sigmoid(k=2.0), schedule)
    means = [
        item.loss(lambda z, level, _: data(z, level)[1], data.sample(64, generator)[0]).mean()
        for _ in range(400)
    ]
    expected = weighted_integral(Sigmoid(k=2.0), lambda level: gaussian_loss(level, STD), -20, 20)
    assert z_score(torch.stack(means), expected) < 4


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output", "named"),
    [
        (lambda z: z[:, 0], r"\(6,\)"),
        (lambda z: (z,), "tuple"),  # diffusers with return_dict=False
        (lambda z: SimpleNamespace(sample=z), "SimpleNamespace"),
    ],
    ids=["shape", "tuple", "object"],
)
def test_a_network_returns_one_tensor_like_the_data(output, named):
    x, logsnr = torch.randn(6, 1), torch.zeros(6)
    with pytest.raises(ValueError, match=named):
        objective()(lambda z, *_: output(z), x, x, logsnr)
    with pytest.raises(ValueError, match=named):
        Denoiser(Module(output), V())(x, logsnr)


class Module(torch.nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output = output

    def forward(self, z, logsnr, cond):
        return self.output(z)


@pytest.mark.usefixtures("unchecked")
def test_shapes_that_would_broadcast_are_refused():
    x, logsnr = torch.randn(6, 1), torch.zeros(6)
    with pytest.raises(ValueError, match=r"log-SNR of shape \(6, 1\)"):
        objective()(lambda z, *_: z, x, x, logsnr[:, None])
    with pytest.raises(ValueError, match=r"noise of shape \(1, 1\)"):
        objective()(lambda z, *_: z, x, x[:1], logsnr)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_data_in_half_precision_are_refused(dtype):
    """In bfloat16 alpha x + sigma eps at log-SNR 13 loses half of the noise."""
    x = torch.randn(6, 4).to(dtype)
    for call in (
        lambda: objective().loss(lambda z, *_: z, x),
        lambda: objective()(lambda z, *_: z, x, x, torch.zeros(6)),
    ):
        with pytest.raises(ValueError, match=str(dtype)):
            call()


LOSSES = {
    "loss": lambda x: replace(OBJECTIVE).loss(blank, x),
    "validator": lambda x: Validator(x)(Denoiser(blank, V())),
    "fit": lambda x: GivenData.from_datasets(x, is_bounded=False),
}
OBJECTIVE = Objective(
    weighting=weightings.ELBO(), schedule=schedules.Linear(), parameterization=V()
)


def blank(z, logsnr):
    return z * logsnr.view(-1, 1, 1, 1)


@pytest.mark.parametrize("give", LOSSES.values(), ids=LOSSES)
def test_data_of_another_range_are_told(give):
    """Those of 0 to 255 are refused, of 0 to 1 told; latents and data in [-1, 1] are neither."""
    pixels = torch.randint(256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).float()
    pixels[:, :, 0, :2] = torch.tensor([0.0, 255.0])
    with pytest.raises(ValueError, match=r"\A.*255.*\Z"):
        give(pixels)
    with pytest.warns(UserWarning, match="0 to 1") as warned:
        give(pixels / 255)
    assert warned[0].filename == __file__
    for x in (pixels / 127.5 - 1, torch.randn(4, 1, 8, 8) * 8, torch.zeros(4, 1, 8, 8)):
        give(x)


def test_data_of_another_range_are_told_of_few_numbers_each():
    """One sample of two numbers has no range; 64 of them, spread over the data, have one."""
    points = torch.rand(1000, 2, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="2 x - 1"):
        GivenData.from_datasets(points, is_bounded=False)
    GivenData.from_datasets(2 * points - 1, is_bounded=False)
