"""The ODE likelihood: exact on data of known density, and a bound of known gap on discrete data."""

import math

import numpy as np
import pytest
import torch
from oracles import bimodal, gaussian, quantized, z_score
from scipy.stats import truncnorm
from tiny import DIGITS
from torch import nn

from elbos import parameterizations
from elbos.denoiser import Denoiser
from elbos.likelihood import variational_bound
from elbos.likelihood.flow import flow_likelihood, truncated_normal, uniform
from elbos.oracles import GaussianMixture
from elbos.schedules import Linear

ENDS = {"logsnr_min": -22.0, "logsnr_max": 18.0}
NUM_LEVELS = 3
SPACING = 2 / (NUM_LEVELS - 1)


def planar() -> GaussianMixture:
    """Two modes, neither along an axis: a denoiser whose Jacobian is not diagonal."""
    return GaussianMixture(
        weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
        means=torch.tensor([[-0.8, 0.3], [0.5, -0.4]], dtype=torch.float64),
        stds=torch.tensor([0.2, 0.3], dtype=torch.float64),
    )


def elementwise(z, logsnr, cond=None):
    """The exact denoiser of independent dimensions, each bimodal: a diagonal Jacobian."""
    return tuple(part.reshape(z.shape) for part in bimodal()(z.reshape(-1, 1), logsnr))


def level_at(num_stds: float) -> float:
    """The log-SNR at which half the spacing is so many standard deviations of the noise."""
    return -2 * math.log(SPACING / 2 / num_stds)


@pytest.mark.parametrize(
    "data",
    [gaussian(0.1, 3), gaussian(0.5, 3), gaussian(0.9), gaussian(1.1), bimodal(), planar()],
    ids=["0.1", "0.5", "0.9", "1.1", "bimodal", "planar"],
)
def test_exact_on_continuous_data(data, generator):
    """Every one of 200 images, to 1e-4 nats per dimension, at the default tolerance.

    For stds of nearly 1 the flow is at rest, but for a bend that a long step does not see.
    """
    x, _ = data.sample(200, generator)
    found = flow_likelihood(data, x, num_levels=None, use_exact_trace=True, **ENDS)
    exact = -data.log_prob(x) / x.shape[1]
    torch.testing.assert_close(found.nats, exact, rtol=0, atol=1e-4)


@pytest.mark.parametrize("logsnr_max", [-1.0, 2.0])
def test_density_is_of_data_with_the_noise_of_the_clean_end(logsnr_max, generator):
    """N(0, s^2 + e^-l) for images in a batch as large as their width; its trace is diagonal."""
    x = torch.randn(4, 3, 4, 4, generator=generator, dtype=torch.float64)

    def images(z, logsnr, *_):
        return tuple(part.reshape(z.shape) for part in gaussian(0.5, 48)(z.flatten(1), logsnr))

    noisy = torch.distributions.Normal(0.0, math.sqrt(0.25 + math.exp(-logsnr_max)))
    for use_exact_trace in (True, False):
        found = flow_likelihood(
            images,
            x,
            logsnr_min=-22.0,
            logsnr_max=logsnr_max,
            num_levels=None,
            use_exact_trace=use_exact_trace,
            generator=generator,
        )
        exact = -noisy.log_prob(x).flatten(1).mean(1)
        torch.testing.assert_close(found.nats, exact, rtol=0, atol=1e-4)


def test_converges_with_the_tolerance(generator):
    """To the exact density; four decades of tolerance cost less than one of evaluations."""
    x, _ = planar().sample(50, generator)
    solved = [
        flow_likelihood(
            planar(), x, num_levels=None, use_exact_trace=True, rtol=tol, atol=tol, **ENDS
        )
        for tol in (1e-3, 1e-5, 1e-7)
    ]
    errors = [(each.nats + planar().log_prob(x) / 2).abs().max().item() for each in solved]
    evaluations = [each.num_evaluations for each in solved]
    assert errors[0] > 4 * errors[1] > 8 * errors[2] and errors[2] < 1e-5
    assert evaluations == sorted(evaluations) and evaluations[2] < 10 * evaluations[0]


def test_within_standard_errors_on_quantized_data(generator):
    """Random probes, n = 20,000: 3 standard errors, of at most 0.002 bits/dim."""
    data = quantized(NUM_LEVELS, mean=0.2, std=0.6)
    x, atom = data.sample(20_000, generator)
    found = flow_likelihood(
        data,
        x,
        logsnr_min=-14.0,
        logsnr_max=level_at(5.0),
        num_levels=NUM_LEVELS,
        generator=generator,
    )
    error = found.nats + data.weights.log()[atom] / 2
    assert error.std() / math.sqrt(len(x)) / math.log(2) < 0.002
    assert z_score(error, 0.0) < 3


def test_within_standard_errors_on_continuous_data(generator):
    """Random probes, n = 80,000: 3 standard errors, of at most 0.002 bits/dim."""
    x, _ = planar().sample(80_000, generator)
    found = flow_likelihood(
        planar(), x, logsnr_min=-14.0, logsnr_max=14.0, num_levels=None, generator=generator
    )
    error = found.nats + planar().log_prob(x) / 2
    assert error.std() / math.sqrt(len(x)) / math.log(2) < 0.002
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


@pytest.mark.parametrize("num_stds", [0.7, 1.0])
@pytest.mark.parametrize("dequantize", [uniform, truncated_normal])
def test_bound_is_its_quadrature(dequantize, num_stds, generator):
    """3 standard errors of at most 0.002 bits/dim, n = 20,000; above -ln P(x) for every atom."""
    data = quantized(NUM_LEVELS, mean=0.2, std=0.6)
    logsnr_max, sigma_tilde = level_at(num_stds), SPACING / 2 / num_stds
    density = {
        uniform: lambda u: np.full_like(u, 1 / SPACING),
        truncated_normal: truncnorm(-num_stds, num_stds, scale=sigma_tilde).pdf,
    }[dequantize]
    bound, exact = bound_by_quadrature(data, logsnr_max, density)
    x, atom = data.sample(20_000, generator)
    found = flow_likelihood(
        data,
        x,
        logsnr_min=-14.0,
        logsnr_max=logsnr_max,
        num_levels=NUM_LEVELS,
        dequantize=dequantize,
        use_exact_trace=True,
        generator=generator,
    )
    assert (bound > exact).all()
    error = found.nats - bound[atom]
    assert error.std() / math.sqrt(len(x)) / math.log(2) < 0.002
    assert z_score(error, 0.0) < 3


@pytest.mark.parametrize("num_stds", [0.5, 1.0, 3.0])
def test_truncated_normal_loses_what_it_cuts_off(num_stds, generator):
    """For data at one point: -ln erf(stds / sqrt 2) for every draw, and no more."""
    data = gaussian(0.0, 3)
    x = torch.zeros(50, 3, dtype=torch.float64)
    found = flow_likelihood(
        data,
        x,
        logsnr_min=-22.0,
        logsnr_max=level_at(num_stds),
        num_levels=NUM_LEVELS,
        generator=generator,
    )
    cut_off = torch.full_like(found.nats, -math.log(math.erf(num_stds / math.sqrt(2))))
    torch.testing.assert_close(found.nats, cut_off, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dequantize", [uniform, truncated_normal])
@pytest.mark.parametrize("sigma_tilde", [1e-4, 0.1, 10.0])
def test_dequantization_stays_in_its_cell(dequantize, sigma_tilde, generator):
    u, _ = dequantize(torch.Size((1000, 2)), SPACING, sigma_tilde, generator)
    assert u.abs().max() <= SPACING / 2
    assert abs(u.mean()) < 4 * u.std() / math.sqrt(2000)


def test_signs_are_exact_for_a_diagonal_jacobian(generator):
    """v^T J v = tr J for any signs: the same as the exact trace, to rounding."""
    x = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    exact, probed = (
        flow_likelihood(
            elementwise, x, num_levels=None, use_exact_trace=use, generator=generator, **ENDS
        )
        for use in (True, False)
    )
    torch.testing.assert_close(probed.nats, exact.nats, rtol=0, atol=1e-11)
    assert probed.num_evaluations == exact.num_evaluations


def test_probes_are_unbiased(generator):
    """One image, 2,000 probes: z < 4 of the exact trace, from which they differ."""
    x = torch.tensor([[0.1, 0.4]], dtype=torch.float64)
    exact = flow_likelihood(planar(), x, num_levels=None, use_exact_trace=True, **ENDS)
    probed = flow_likelihood(
        planar(), x.repeat(2000, 1), num_levels=None, generator=generator, **ENDS
    )
    assert probed.nats.std() > 0.01
    assert z_score(probed.nats, exact.nats.item()) < 4


def test_probe_is_kept_along_the_solve(generator):
    """The probed flow is as smooth as the exact one: no more steps even at tight tolerances."""
    x, _ = planar().sample(20, generator)
    exact, probed = (
        flow_likelihood(
            planar(),
            x,
            num_levels=None,
            use_exact_trace=use,
            rtol=1e-8,
            atol=1e-8,
            generator=generator,
            **ENDS,
        )
        for use in (True, False)
    )
    assert probed.num_evaluations < 1.5 * exact.num_evaluations


def test_a_seed_is_a_result():
    x = torch.randint(9, (10, 2), generator=torch.Generator().manual_seed(0)).double() / 4 - 1
    runs = [
        flow_likelihood(
            planar(), x, num_levels=9, generator=torch.Generator().manual_seed(seed), **ENDS
        ).nats
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.allclose(runs[0], runs[2])


def test_an_image_does_not_depend_on_its_batch(generator):
    """One easy image among 100 hard ones, and alone: equal to the tolerance of each."""
    x, _ = planar().sample(101, generator)
    together = flow_likelihood(planar(), x, num_levels=None, use_exact_trace=True, **ENDS)
    for i in (0, 50, 100):
        alone = flow_likelihood(
            planar(), x[i : i + 1], num_levels=None, use_exact_trace=True, **ENDS
        )
        torch.testing.assert_close(together.nats[i : i + 1], alone.nats, rtol=0, atol=1e-4)


def test_conditional_density(generator):
    """Given the component, its Gaussian; a wrong component costs."""
    x, component = planar().sample(100, generator)

    def nats(cond):
        return flow_likelihood(
            planar(), x, num_levels=None, use_exact_trace=True, cond=cond, **ENDS
        ).nats

    exact = -planar().log_prob(x, component=component) / 2
    torch.testing.assert_close(nats(component), exact, rtol=0, atol=1e-4)
    assert nats(1 - component).mean() > exact.mean() + 1


def test_a_wrong_denoiser_gives_its_own_density(generator):
    """The density of the data that it is exact for, whatever it is shown."""
    x, _ = gaussian(0.5, 2).sample(100, generator)
    found = flow_likelihood(gaussian(0.9, 2), x, num_levels=None, **ENDS, generator=generator)
    exact = -torch.distributions.Normal(0.0, 0.9).log_prob(x).mean(1)
    torch.testing.assert_close(found.nats, exact, rtol=0, atol=1e-4)


def test_agrees_with_the_variational_bound(generator):
    """The same density by another road, z < 3, n = 2,000."""
    x, _ = planar().sample(2000, generator)
    bound = variational_bound(
        planar(), x, Linear(logsnr_min=-22.0, logsnr_max=12.0), num_levels=None, generator=generator
    )
    found = flow_likelihood(planar(), x, num_levels=None, generator=generator, **ENDS)
    assert z_score(bound.total - found.nats, 0.0) < 3


def test_asks_for_no_level_beyond_the_ends(generator):
    levels = []

    def denoiser(z, logsnr, cond=None):
        levels.append(logsnr.item())
        return planar()(z, logsnr)

    x, _ = planar().sample(5, generator)
    found = flow_likelihood(
        denoiser, x, logsnr_min=-7.3, logsnr_max=9.1, num_levels=None, generator=generator
    )
    assert (min(levels), max(levels)) == pytest.approx((-7.3, 9.1), abs=1e-12)
    assert found.num_evaluations == len(levels)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_state_is_single_precision_or_the_data_s(dtype, generator):
    """And the likelihood is right in it, to 1e-3."""
    data = quantized(NUM_LEVELS, mean=0.2, std=0.6)
    state = torch.promote_types(dtype, torch.float32)
    data = GaussianMixture(data.weights.to(state), data.means.to(state), data.stds.to(state))
    x, atom = data.sample(100, generator)
    found = flow_likelihood(
        data,
        x,
        logsnr_min=-22.0,
        logsnr_max=level_at(5.0),
        num_levels=NUM_LEVELS,
        use_exact_trace=True,
        generator=generator,
    )
    assert found.nats.dtype == state
    torch.testing.assert_close(found.nats, -data.weights.log()[atom] / 2, rtol=0, atol=1e-3)


@torch.no_grad()
def test_a_network_in_bfloat16(generator):
    """Runs under a caller's no_grad and autocast, and is to 2e-3 what it is in float32."""
    torch.manual_seed(0)
    network = DIGITS.network.build((1, 8, 8), None).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.15)
    denoiser = Denoiser(network, parameterizations.V())
    x = torch.randint(17, (4, 1, 8, 8), generator=generator) / 8 - 1

    def nats(use_bfloat16):
        with torch.autocast("cpu", torch.bfloat16, enabled=use_bfloat16):
            return flow_likelihood(
                denoiser,
                x,
                logsnr_min=-8.0,
                logsnr_max=7.0,
                num_levels=17,
                generator=torch.Generator().manual_seed(1),
            ).nats

    rough, fine = nats(True), nats(False)
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, fine)
    torch.testing.assert_close(rough, fine, rtol=0, atol=2e-3)


def not_a_number(z, logsnr, cond=None):
    return z, z * torch.where(logsnr < 0, torch.nan, 1.0)


def without_gradient(z, logsnr, cond=None):
    return z, z.detach()


def fresh_noise(z, logsnr, cond=None):
    return z, z + torch.randn_like(z)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logsnr_min": 18.0, "logsnr_max": -22.0}, "logsnr_min=18.0, logsnr_max=-22.0"),
        ({"logsnr_max": math.inf}, "give finite ends"),
        ({"rtol": 0.0}, "rtol is 0.0"),
        ({"denoiser": not_a_number}, r"at log-SNR -\S+ is not finite: check data and network"),
        ({"denoiser": without_gradient}, "has no gradient"),
        ({"denoiser": fresh_noise}, "cannot be followed to rtol=1e-05, atol=1e-05"),
    ],
)
def test_errors_say_what_to_do(change, message):
    x = torch.ones(2, 3, dtype=torch.float64)
    arguments = {"denoiser": gaussian(0.5, 3), "x": x, "num_levels": None, **ENDS} | change
    with pytest.raises(ValueError, match=message):
        flow_likelihood(**arguments)


def test_the_result_has_no_graph(generator):
    """Though the trace needs gradients inside, and image and network have them."""
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    x, _ = planar().sample(3, generator)

    def network(z, logsnr, cond=None):
        return planar()(scale * z, logsnr)

    plain = flow_likelihood(planar(), x, num_levels=None, use_exact_trace=True, **ENDS)
    found = flow_likelihood(
        network, x.requires_grad_(), num_levels=None, use_exact_trace=True, **ENDS
    )
    assert not found.nats.requires_grad
    torch.testing.assert_close(found.nats, plain.nats, rtol=0, atol=1e-12)


def test_it_takes_its_gradients_in_inference_mode_too(generator):
    """And with images and labels that were made there, by a network that learns its labels."""
    embedding, linear = nn.Embedding(2, 2), nn.Linear(2, 2)

    def network(z, logsnr, cond):
        return z, linear(z * embedding(cond)).tanh()

    def nats(x, cond):
        return flow_likelihood(network, x, cond=cond, num_levels=None, use_exact_trace=True, **ENDS)

    x, cond = torch.randn(3, 2, generator=generator), torch.tensor([0, 1, 1])
    plain = nats(x, cond).nats
    with torch.inference_mode():
        found = nats(x.clone(), cond.clone()).nats
    torch.testing.assert_close(found, plain, rtol=0, atol=0)


def test_data_off_their_levels_and_networks_are_refused(generator):
    x = torch.tensor([[0.0, 0.5], [1.0, 1.0]], dtype=torch.float64)  # pixels in [0, 1]
    with pytest.raises(ValueError, match="num_levels=3"):
        flow_likelihood(planar(), x, num_levels=3, **ENDS)
    with pytest.raises(ValueError, match="returned a Tensor"):
        flow_likelihood(lambda z, *_: z, x, num_levels=None, **ENDS)
