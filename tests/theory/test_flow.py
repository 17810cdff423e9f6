"""The ODE likelihood: exact on data of known density, and a bound of known gap on discrete data."""

import math

import numpy as np
import pytest
import torch
from oracles import bimodal, gaussian, quantized, z_score
from scipy.stats import truncnorm
from torch import nn

from elbos.models.likelihood import flow
from elbos.models.likelihood.flow import flow_likelihood, truncated_normal, uniform
from elbos.theory.oracles import GaussianMixture

ENDS = {"logsnr_min": -22.0, "logsnr_max": 18.0}
NUM_LEVELS = 3
SPACING = 2 / (NUM_LEVELS - 1)
CORRELATED = quantized(NUM_LEVELS, mean=0.2, std=0.6)


def planar() -> GaussianMixture:
    """Two modes, neither along an axis: a denoiser whose Jacobian is not diagonal."""
    return GaussianMixture(
        weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
        means=torch.tensor([[-0.8, 0.3], [0.5, -0.4]], dtype=torch.float64),
        stds=torch.tensor([0.2, 0.3], dtype=torch.float64),
    )


def exactly(denoiser, x, **options):
    """The likelihood of continuous data with the exact trace, unless it is said otherwise."""
    options = {"num_levels": None, "use_exact_trace": True, **ENDS} | options
    return flow_likelihood(denoiser, x, **options)


def on_levels(denoiser, x, num_stds, **options):
    """The likelihood of discrete data, half the spacing being so many stds of the noise."""
    ends = {"logsnr_min": -14.0, "logsnr_max": level_at(num_stds)}
    return flow_likelihood(denoiser, x, num_levels=NUM_LEVELS, **ends | options)


def level_at(num_stds: float) -> float:
    """The log-SNR at which half the spacing is so many standard deviations of the noise."""
    return -2 * math.log(SPACING / 2 / num_stds)


# --- continuous data ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [gaussian(0.1, 3), gaussian(0.9), gaussian(1.1), planar()],
    ids=["0.1", "0.9", "1.1", "planar"],
)
def test_exact_on_continuous_data(data, generator):
    """Every one of 50 images, to 1e-4 nats per dimension, at the default tolerance.

    For stds of nearly 1 the flow is at rest, but for a bend that a long step does not see.
    """
    x, _ = data.sample(50, generator)
    exact = -data.log_prob(x) / x.shape[1]
    torch.testing.assert_close(exactly(data, x).nats, exact, rtol=0, atol=1e-4)


def test_density_is_of_data_with_the_noise_of_the_clean_end(generator):
    """N(0, s^2 + e^-l) for images in a batch as large as their width; its trace is diagonal."""
    x = torch.randn(4, 1, 4, 4, generator=generator, dtype=torch.float64)
    logsnr_max = 2.0

    def images(z, logsnr, *_):
        return tuple(part.reshape(z.shape) for part in gaussian(0.5, 16)(z.flatten(1), logsnr))

    noisy = torch.distributions.Normal(0.0, math.sqrt(0.25 + math.exp(-logsnr_max)))
    exact = -noisy.log_prob(x).flatten(1).mean(1)
    for use in (True, False):
        options = {"use_exact_trace": use, "generator": generator, "logsnr_max": logsnr_max}
        torch.testing.assert_close(exactly(images, x, **options).nats, exact, rtol=0, atol=1e-4)


def test_converges_with_the_tolerance(generator):
    """To the exact density; four decades of tolerance cost less than one of evaluations."""
    x, _ = planar().sample(50, generator)
    solved = [exactly(planar(), x, rtol=tol, atol=tol) for tol in (1e-3, 1e-5, 1e-7)]
    errors = [(each.nats + planar().log_prob(x) / 2).abs().max().item() for each in solved]
    evaluations = [each.num_evaluations for each in solved]
    assert errors[0] > 4 * errors[1] > 8 * errors[2] and errors[2] < 1e-5
    assert evaluations == sorted(evaluations) and evaluations[2] < 10 * evaluations[0]


def test_conditional_density(generator):
    """Given the component, its Gaussian; a wrong component costs."""
    x, component = planar().sample(100, generator)
    exact = -planar().log_prob(x, component=component) / 2
    actual = exactly(planar(), x, cond=component).nats
    torch.testing.assert_close(actual, exact, rtol=0, atol=1e-4)
    assert exactly(planar(), x, cond=1 - component).nats.mean() > exact.mean() + 1


def test_a_wrong_denoiser_gives_its_own_density(generator):
    """The density of the data that it is exact for, whatever it is given."""
    x, _ = gaussian(0.5, 2).sample(100, generator)
    exact = -torch.distributions.Normal(0.0, 0.9).log_prob(x).mean(1)
    torch.testing.assert_close(exactly(gaussian(0.9, 2), x).nats, exact, rtol=0, atol=1e-4)


def test_an_image_does_not_depend_on_its_batch(generator):
    """One image among 100, and alone: equal to the tolerance of each."""
    x, _ = planar().sample(101, generator)
    together = exactly(planar(), x).nats
    for i in (0, 50):
        alone = exactly(planar(), x[i : i + 1]).nats
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("estimates", [planar(), lambda z, logsnr: (z, z / 1000)])
def test_no_level_beyond_the_ends_is_evaluated(estimates, generator):
    """Nor in the guess of a first step, which is long where the flow is nearly at rest."""
    levels = []

    def denoiser(z, logsnr, cond=None):
        levels.append(logsnr.item())
        return estimates(z, logsnr)

    x, _ = planar().sample(5, generator)
    actual = exactly(denoiser, x, logsnr_min=-7.3, logsnr_max=9.1)
    assert (min(levels), max(levels)) == pytest.approx((-7.3, 9.1), abs=1e-12)
    assert actual.num_evaluations == len(levels)


# --- probes of the trace --------------------------------------------------------------------------


def elementwise(z, logsnr, cond=None):
    """The exact denoiser of independent dimensions, each bimodal: a diagonal Jacobian."""
    return tuple(part.reshape(z.shape) for part in bimodal()(z.reshape(-1, 1), logsnr))


def test_signs_are_exact_for_a_diagonal_jacobian(generator):
    """v^T J v = tr J for any signs: the same as the exact trace, to rounding."""
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    exact = exactly(elementwise, x)
    probed = exactly(elementwise, x, use_exact_trace=False, generator=generator)
    torch.testing.assert_close(probed.nats, exact.nats, rtol=0, atol=1e-11)
    assert probed.num_evaluations == exact.num_evaluations


def test_probes_are_unbiased(generator):
    """One image, 500 probes: z < 4 of the exact trace, from which they differ."""
    x = torch.tensor([[0.1, 0.4]], dtype=torch.float64)
    many = x.repeat(500, 1)
    probed = exactly(planar(), many, use_exact_trace=False, generator=generator).nats
    assert probed.std() > 0.01
    assert z_score(probed, exactly(planar(), x).nats.item()) < 4


def test_probe_is_kept_along_the_solve(generator):
    """The probed flow is as smooth as the exact one: no more steps even at tight tolerances."""
    x, _ = planar().sample(5, generator)
    tight = {"rtol": 1e-7, "atol": 1e-7}
    probed = exactly(planar(), x, use_exact_trace=False, generator=generator, **tight)
    assert probed.num_evaluations < 1.5 * exactly(planar(), x, **tight).num_evaluations


def test_a_seed_is_a_result():
    x = torch.randint(9, (4, 2), generator=torch.Generator().manual_seed(0)).double() / 4 - 1
    first, again, other = (
        exactly(
            planar(),
            x,
            num_levels=9,
            use_exact_trace=False,
            generator=torch.Generator().manual_seed(seed),
        ).nats
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


# --- discrete data --------------------------------------------------------------------------------


def test_within_standard_errors_on_quantized_data(generator):
    """Random probes, n = 5,000: 3 standard errors, of at most 0.004 bits/dim."""
    x, atom = CORRELATED.sample(5000, generator)
    error = on_levels(CORRELATED, x, 5.0, generator=generator).nats
    error = error + CORRELATED.weights.log()[atom] / 2
    assert error.std() / math.sqrt(len(x)) / math.log(2) < 0.004
    assert z_score(error, 0.0) < 3


def bound_by_quadrature(data, logsnr_max, density):
    """E_q[ln q(u) - ln p(x + u)] of every atom, nats per dimension, for q a product of `density`.

    And -ln P(x), the probability of its cell.
    """
    nodes, weights = np.polynomial.legendre.leggauss(40)
    nodes, weights = torch.from_numpy(nodes * SPACING / 2), torch.from_numpy(weights * SPACING / 2)
    u, area = torch.cartesian_prod(nodes, nodes), torch.cartesian_prod(weights, weights).prod(1)
    q = torch.from_numpy(density(u.numpy())).prod(1)
    alpha = math.sqrt(1 / (1 + math.exp(-logsnr_max)))
    log_p = torch.stack(
        [data.log_prob(alpha * (x + u), logsnr_max) + 2 * math.log(alpha) for x in data.means]
    )
    bound = (area * q * (q.log() - log_p)).sum(1) / 2
    return bound, -(area * log_p.exp()).sum(1).log() / 2


@pytest.mark.parametrize("dequantize", [uniform, truncated_normal])
def test_bound_is_its_quadrature(dequantize, generator):
    """3 standard errors of at most 0.004 bits/dim, n = 2,500; above -ln P(x) for every atom."""
    num_stds = 0.7
    sigma_tilde = SPACING / 2 / num_stds
    density = {
        uniform: lambda u: np.full_like(u, 1 / SPACING),
        truncated_normal: truncnorm(-num_stds, num_stds, scale=sigma_tilde).pdf,
    }[dequantize]
    bound, exact = bound_by_quadrature(CORRELATED, level_at(num_stds), density)
    assert (bound > exact).all()
    x, atom = CORRELATED.sample(2500, generator)
    options = {"dequantize": dequantize, "use_exact_trace": True, "generator": generator}
    error = on_levels(CORRELATED, x, num_stds, **options).nats - bound[atom]
    assert error.std() / math.sqrt(len(x)) / math.log(2) < 0.004
    assert z_score(error, 0.0) < 3


@pytest.mark.parametrize("num_stds", [0.5, 3.0])
def test_truncated_normal_loses_what_it_cuts_off(num_stds, generator):
    """For data at one point: -ln erf(stds / sqrt 2) for every draw, and no more."""
    x = torch.zeros(20, 3, dtype=torch.float64)
    actual = on_levels(gaussian(0.0, 3), x, num_stds, logsnr_min=-22.0, generator=generator).nats
    cut_off = torch.full_like(actual, -math.log(math.erf(num_stds / math.sqrt(2))))
    torch.testing.assert_close(actual, cut_off, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dequantize", [uniform, truncated_normal])
@pytest.mark.parametrize("sigma_tilde", [1e-4, 0.1, 10.0])
def test_dequantization_stays_in_its_cell(dequantize, sigma_tilde, generator):
    u, _ = dequantize(torch.Size((1000, 2)), SPACING, sigma_tilde, generator)
    assert u.abs().max() <= SPACING / 2
    assert abs(u.mean()) < 4 * u.std() / math.sqrt(2000)


# --- precision, gradients, and what is refused ----------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_state_is_single_precision_or_the_data_s(dtype, generator):
    """And the likelihood is right in it, to 1e-3."""
    state = torch.promote_types(dtype, torch.float32)
    weights, means, stds = CORRELATED.weights, CORRELATED.means, CORRELATED.stds
    data = GaussianMixture(weights.to(state), means.to(state), stds.to(state))
    x, atom = data.sample(20, generator)
    options = {"logsnr_min": -22.0, "use_exact_trace": True, "generator": generator}
    actual = on_levels(data, x, 5.0, **options).nats
    assert actual.dtype == state
    torch.testing.assert_close(actual, -data.weights.log()[atom] / 2, rtol=0, atol=1e-3)


def test_the_result_has_no_graph(generator):
    """Though the trace needs gradients inside, and image and network have them."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    x, _ = planar().sample(3, generator)
    plain = exactly(planar(), x).nats
    actual = exactly(lambda z, logsnr, _: planar()(scale * z, logsnr), x.requires_grad_()).nats
    assert not actual.requires_grad
    torch.testing.assert_close(actual, plain, rtol=0, atol=1e-12)


def test_it_takes_its_gradients_in_inference_mode_too(generator):
    """And with images and a dict of labels made there, by a network that learns its labels."""
    embedding, linear = nn.Embedding(2, 2), nn.Linear(2, 2)

    def network(z, logsnr, cond):
        return z, linear(z * embedding(cond["label"])).tanh()

    x, label = torch.randn(3, 2, generator=generator), torch.tensor([0, 1, 1])
    plain = exactly(network, x, cond={"label": label}).nats
    with torch.inference_mode():
        actual = exactly(network, x.clone(), cond={"label": label.clone()}).nats
    torch.testing.assert_close(actual, plain, rtol=0, atol=0)


def nan_in_noise(z, logsnr, cond=None):
    return z, z * torch.where(logsnr < 0, torch.nan, 1.0)


REFUSED = {
    "reversed ends": ({"logsnr_min": 18.0, "logsnr_max": -22.0}, "logsnr_min=18.0"),
    "infinite end": ({"logsnr_max": math.inf}, "logsnr_max=inf"),
    "no tolerance": ({"rtol": 0.0}, "rtol is 0.0"),
    "pixels in [0, 1]": ({"num_levels": 3, "x": torch.full((2, 3), 0.5)}, "num_levels=3"),
    "nan": ({"denoiser": nan_in_noise}, "log-SNR"),
    "no gradient": ({"denoiser": lambda z, *_: (z, z.detach())}, "no gradient"),
    "fresh noise": ({"denoiser": lambda z, *_: (z, z + torch.randn_like(z))}, "rtol=1e-05"),
    "network": ({"denoiser": lambda z, *_: z}, "Tensor"),
}


@pytest.mark.parametrize(("change", "named"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_likelihood_is_refused(change, named, monkeypatch):
    monkeypatch.setattr(flow, "MAX_NUM_STEPS", 50)
    x = torch.ones(2, 3, dtype=torch.float64)
    arguments = {"denoiser": gaussian(0.5, 3), "x": x, "num_levels": None, **ENDS} | change
    with pytest.raises(ValueError, match=named):
        flow_likelihood(**arguments)
