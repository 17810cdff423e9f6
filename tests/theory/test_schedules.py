"""A schedule is a distribution over log-SNR: inverse, derivative, integral, and closed forms."""

import math
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from tables import SCHEDULES, with_ends

from elbos.theory import schedules, weightings
from elbos.theory.adaptive import Adaptive
from elbos.theory.objective import Objective
from elbos.theory.parameterizations import EDM
from elbos.theory.schedules import Schedule, low_discrepancy_times

# The default ends; narrow ones; VDM's; and beyond the own ends of DDPM and EDMSampling.
ENDS = [None, (-8.0, 9.0), (-5.0, 13.3), (-20.0, 20.0)]


@pytest.fixture(params=ENDS, ids=str)
def ends(request):
    return request.param


@pytest.fixture(params=SCHEDULES, ids=repr)
def schedule(request, ends):
    return request.param if ends is None else with_ends(request.param, *ends)


def levels(schedule, num):
    """Noise levels strictly inside the range, never at the edge of a bin."""
    low, high = schedule.logsnr_min, schedule.logsnr_max
    return low + (high - low) * (torch.arange(num, dtype=torch.float64) + 0.318) / num


def test_every_schedule_is_in_the_table():
    assert {type(schedule) for schedule in SCHEDULES} == set(Schedule.__subclasses__())


def test_time_inverts_logsnr(schedule):
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    torch.testing.assert_close(schedule.time(schedule.logsnr(t)), t, rtol=0, atol=1e-8)


def test_logsnr_strictly_decreases_between_its_ends(schedule):
    logsnr = schedule.logsnr(torch.linspace(0, 1, 1001, dtype=torch.float64))
    assert (logsnr.diff() < 0).all()
    assert (logsnr >= schedule.logsnr_min).all()
    assert (logsnr <= schedule.logsnr_max).all()


@pytest.mark.parametrize("ends", [*ENDS, (-17.0, 17.0)], ids=str)
def test_end_points_are_exact(schedule):
    """(-17, 17) is where 1 - t falls to the rounding error of 1 for the light-tailed schedules."""
    t = torch.tensor([0.0, 1.0], dtype=torch.float64)
    ends = torch.tensor([schedule.logsnr_max, schedule.logsnr_min], dtype=torch.float64)
    torch.testing.assert_close(schedule.logsnr(t), ends, rtol=0, atol=1e-8)
    torch.testing.assert_close(schedule.time(ends), t, rtol=0, atol=1e-12)


def test_density_is_minus_the_derivative_of_time(schedule):
    logsnr = levels(schedule, 301).requires_grad_()
    (slope,) = torch.autograd.grad(schedule.time(logsnr).sum(), logsnr)
    torch.testing.assert_close(schedule.density(logsnr), -slope, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(
        schedule.log_density(logsnr).exp(), schedule.density(logsnr), rtol=1e-12, atol=0
    )


def test_density_integrates_to_one_and_is_zero_outside(schedule):
    def p(logsnr):
        return schedule.density(torch.as_tensor(logsnr, dtype=torch.float64)).numpy()

    low, high = schedule.logsnr_min, schedule.logsnr_max
    num_pieces = schedule.num_bins if isinstance(schedule, Adaptive) else 160
    edges = np.union1d(np.linspace(low, high, num_pieces + 1), [0.0, 1.0])  # and Laplace's kinks
    nodes, weights = np.polynomial.legendre.leggauss(10)
    half = np.diff(edges)[:, None] / 2
    total = (half * weights * p(edges[:-1, None] + half * (1 + nodes))).sum()
    assert total == pytest.approx(1, abs=1e-8)
    assert p(low - 1e-6) == p(high + 1e-6) == 0


def test_float32_is_finite_and_close(schedule):
    t = torch.linspace(0, 1, 257, dtype=torch.float64)
    logsnr = levels(schedule, 257)
    assert schedule.logsnr(t.float()).isfinite().all()
    for f in (schedule.time, schedule.log_density):
        assert f(logsnr.float()).dtype == torch.float32
        torch.testing.assert_close(f(logsnr.float()).double(), f(logsnr), rtol=1e-4, atol=1e-4)


def ddpm_logsnr(t):
    """Through the integral of beta by quadrature."""
    integral = quad(lambda u: 0.1 + 19.9 * u, 0, t)[0]
    return np.log(np.exp(-integral) / (1 - np.exp(-integral)))


def stable_diffusion_logsnr(t):
    """Through the integral of beta, the square of a line, by quadrature."""
    integral = quad(lambda u: (0.85**0.5 * (1 - u) + 12**0.5 * u) ** 2, 0, t)[0]
    return -np.log(np.expm1(integral))


def of_flow_time(tau):
    return 2 * np.log((1 - tau) / tau)


def sd3_mode(u, s):
    """As in the paper, with times that run the other way."""
    return 1 - (1 - u - s * (np.cos(np.pi / 2 * u) ** 2 - 1 + u))


def u_shaped(t):
    """By bisection of the integral of the density."""
    total = quad(lambda u: np.exp(4 * u) + np.exp(4 - 4 * u), 0, 1)[0]

    def missing(tau):
        return quad(lambda u: np.exp(4 * u) + np.exp(4 - 4 * u), 0, tau)[0] / total - t

    return brentq(missing, 0, 1, xtol=1e-13)


CLOSED_FORMS = [  # schedule, lambda(t) by another library or from the paper's own definition
    (schedules.Cosine, {}, lambda t: -2 * np.log(np.tan(np.pi * t / 2))),
    (schedules.Linear, {}, lambda t: 13.3 - 18.3 * t),
    (schedules.Cosine, {"shift": 0.7}, lambda t: -2 * np.log(np.tan(np.pi * t / 2)) + 1.4),
    (schedules.Normal.edm, {}, lambda t: scipy.stats.norm(2.4, 2.4).isf(t)),
    # SD3: logit t ~ N(0.5, 0.6^2), where the path is (1 - t) x + t eps
    (
        partial(schedules.Normal.logit_normal, mean=0.5, std=0.6),
        {},
        lambda t: of_flow_time(scipy.special.expit(scipy.stats.norm(0.5, 0.6).ppf(t))),
    ),
    (schedules.Flow, {}, lambda t: scipy.stats.logistic(0, 2).isf(t)),
    (schedules.Flow, {}, lambda t: 2 * np.log((1 - t) / t)),
    (schedules.Flow, {"shift": 3.0}, lambda t: 2 * np.log((1 - t) / (3 * t))),
    (schedules.Laplace, {}, lambda t: scipy.stats.laplace(0, 0.5).isf(t)),
    (schedules.DDPM, {}, ddpm_logsnr),
    (schedules.StableDiffusion, {}, stable_diffusion_logsnr),
    (schedules.Beta, {}, lambda t: of_flow_time(scipy.stats.beta(1.5, 1).ppf(t))),
    (schedules.Beta, {"a": 9.0, "b": 7.0}, lambda t: of_flow_time(scipy.stats.beta(9, 7).ppf(t))),
    (schedules.Mode, {}, lambda t: of_flow_time(1 - sd3_mode(1 - t, 1.29))),
    (schedules.UShape, {}, lambda t: of_flow_time(u_shaped(t))),
    (
        schedules.EDMSampling,
        {},
        lambda t: -2 * np.log((80 ** (1 / 7) + (1 - t) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7),
    ),
]


@pytest.mark.parametrize(("cls", "arguments", "f"), CLOSED_FORMS)
def test_before_truncation_it_is_the_published_function(cls, arguments, f):
    """Truncated to [f(.95), f(.1)], time t is .1 + .85 t of the published one, p is p / .85."""
    schedule = cls(logsnr_min=f(0.95), logsnr_max=f(0.1), **arguments)
    for t in (0.0, 0.2, 0.5, 0.8, 1.0):
        mine = 0.1 + 0.85 * t
        logsnr = schedule.logsnr(torch.tensor([t], dtype=torch.float64))
        assert logsnr.item() == pytest.approx(f(mine), abs=1e-8)
        slope = (f(mine + 1e-5) - f(mine - 1e-5)) / 2e-5
        assert schedule.density(logsnr).item() == pytest.approx(-1 / slope / 0.85, rel=1e-6)


def test_stable_diffusion_is_the_limit_of_its_table():
    """1,000 betas, squares of a ramp: their product is off by the squares of the betas, .6 %."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha_bar = np.cumprod(1 - betas)
    table = np.log(alpha_bar / (1 - alpha_bar))
    limit = schedules.StableDiffusion().logsnr(torch.arange(1, 1001).double() / 1000).numpy()
    np.testing.assert_allclose(limit, table, atol=0.022)
    assert np.abs(np.diff(limit) / np.diff(table) - 1).max() < 0.012


NARROW = schedules.Linear(logsnr_min=-2.0, logsnr_max=0.0)


def test_a_mixture_is_drawn_from_its_parts():
    """Of two uniform ranges that meet: a quarter of the times is above 0."""
    wide = schedules.Linear(logsnr_min=0.0, logsnr_max=8.0)
    mixture = schedules.Mixture(schedules=(NARROW, wide), shares=(3.0, 1.0))
    t = torch.tensor([0.0, 0.125, 0.25, 0.625, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(mixture.logsnr(t), [8, 4, 0, -1, -2], atol=1e-9)
    assert mixture.density(torch.tensor([4.0, -1.0, -3.0])).tolist() == [0.03125, 0.375, 0]


@pytest.mark.parametrize("shares", [(1.0, 1.0), (3.0, 1.0), (0.3, 0.7)])
def test_a_mixture_with_a_gap_is_never_drawn_in_it(shares):
    """At the time of the gap, too, where levels are found to 8 / 2^30, in float64."""
    high = schedules.Linear(logsnr_min=2.1, logsnr_max=6.0)
    mixture = schedules.Mixture(schedules=(NARROW, high), shares=shares)
    gap = shares[1] / sum(shares)
    t = torch.tensor([0.0, gap, math.nextafter(gap, 1), math.nextafter(gap, 0), 1.0]).double()
    t = torch.cat([t, torch.linspace(0, 1, 1001).double(), torch.tensor([gap]).double()])
    logsnr = mixture.logsnr(t)
    assert mixture.log_density(logsnr).isfinite().all()
    torch.testing.assert_close(mixture.time(logsnr), t, rtol=0, atol=8 / 2**30)


def test_flow_times_shift_and_map():
    """A shift of normal log-SNR is a mean; uniform times on a range are a truncation."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    shifted = schedules.FlowTimes(inner=schedules.Normal.logit_normal(), shift=3.0)
    other = schedules.Normal.logit_normal(mean=math.log(3))
    torch.testing.assert_close(shifted.logsnr(t), other.logsnr(t), atol=1e-9, rtol=0)
    mapped = schedules.FlowTimes(inner=schedules.Flow(), time_min=0.2, time_max=0.7).logsnr(t)
    np.testing.assert_allclose(torch.sigmoid(-mapped / 2), 0.2 + 0.5 * t, atol=1e-9)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_zero_terminal_is_the_limit_of_its_table(shift):
    """As published: the SNR divided by the shift, then roots moved so that the last is 0."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha_bar = np.cumprod(1 - betas)
    root = np.sqrt(alpha_bar / (shift + (1 - shift) * alpha_bar))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    table = 2 * np.log(root[:-2]) - np.log(1 - root[:-2] ** 2)
    schedule = schedules.ZeroTerminal(inner=schedules.StableDiffusion(), snr_shift=shift)
    limit = schedule.logsnr(torch.arange(1, 999).double() / 1000).numpy()
    np.testing.assert_allclose(limit[:900], table[:900], atol=0.08)
    root_limit = np.sqrt(scipy.special.expit(limit))
    np.testing.assert_allclose(root_limit, root[:-2], atol=4e-4)


def test_normal_survival_keeps_its_digits_in_the_clean_tail():
    schedule = schedules.Normal(mean=0.0, std=1.0)
    logsnr = torch.linspace(-3, 12, 16, dtype=torch.float64)
    np.testing.assert_allclose(schedule.time(logsnr), scipy.stats.norm.sf(logsnr), rtol=1e-10)


def test_own_ends():
    assert schedules.EDMSampling().logsnr_max == pytest.approx(-2 * math.log(0.002), rel=1e-12)
    assert schedules.EDMSampling().logsnr_min == pytest.approx(-2 * math.log(80), rel=1e-12)
    assert schedules.DDPM().logsnr_min == pytest.approx(-math.log(math.expm1(10.05)), rel=1e-12)


def test_low_discrepancy_times_cover_evenly():
    t = low_discrepancy_times(0.777, 50)
    assert ((t >= 0) & (t < 1)).all()
    torch.testing.assert_close(t.sort().values.diff(), torch.full((49,), 1 / 50).double())


def test_each_low_discrepancy_time_is_uniform(generator):
    """Kolmogorov-Smirnov at the level of 4 standard errors, n = 2,000, for each of 3 times."""
    offsets = torch.rand(2000, generator=generator, dtype=torch.float64).tolist()
    times = torch.stack([low_discrepancy_times(u, 3) for u in offsets])
    for column in times.T:
        assert scipy.stats.kstest(column.numpy(), "uniform").pvalue > 6e-5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_a_batch_of_levels_is_the_schedule_at_low_discrepancy_times(schedule):
    """Reproducible from the generator, in float64 on the CPU whatever the default dtype."""
    levels, again = (schedule.sample(64, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(levels, again)
    assert levels.dtype == torch.float64
    gaps = schedule.time(levels).sort().values.diff()
    torch.testing.assert_close(gaps, torch.full((63,), 1 / 64).double(), rtol=0, atol=1e-9)
    assert not torch.equal(schedule.sample(64), schedule.sample(64))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_schedules_and_losses_compile_as_one_graph():
    """On the CPU too, where times are checked, outside of compiled code.

    What an adaptive schedule learns is in the next loss.
    """
    t = torch.linspace(0, 1, 17, dtype=torch.float64)
    one_of_each = [*{type(schedule): schedule for schedule in SCHEDULES}.values()]

    def functions(t):
        return [(s.logsnr(t), s.time(t), s.log_density(t)) for s in one_of_each]

    torch.compiler.reset()
    compiled = torch.compile(functions, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(t), functions(t), rtol=0, atol=0)

    schedule = Adaptive()
    weighting = weightings.Monotone(weightings.EDM())
    objective = Objective(weighting=weighting, schedule=schedule, parameterization=EDM())
    x = torch.linspace(-1, 1, 34).view(17, 2)

    def loss(logsnr):
        return objective(lambda z, *_: z, x, x.flip(0), logsnr)

    loss(t)  # the maxima are found by the first call, which does not compile
    torch.compiler.reset()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    for _ in range(2):
        logsnr = schedule.logsnr(t)
        assert torch.equal(compiled(logsnr), loss(logsnr))
        schedule.update(logsnr, loss(logsnr))


REFUSED = [
    (lambda: schedules.Cosine(logsnr_max=math.inf), "logsnr_max=inf"),
    (lambda: schedules.Cosine(logsnr_min=3.0, logsnr_max=3.0), r"3\.0"),
    (lambda: schedules.Laplace(logsnr_min=-100.0, logsnr_max=-90.0), r"-100\.0"),
    (lambda: schedules.Flow(shift=0.0), "shift is 0.0"),
    (lambda: schedules.DDPM(beta_max=0.05), "beta_max is 0.05"),
    (lambda: schedules.EDMSampling(sigma_max=0.001), "sigma_max is 0.001"),
    (lambda: schedules.Mode(scale=1.76), "scale is 1.76"),
    (lambda: schedules.Mixture(schedules=(NARROW,), shares=()), "0 shares"),
    (lambda: schedules.Mixture(schedules=(Adaptive(),), shares=(1.0,)), "Adaptive"),
    (lambda: schedules.FlowTimes(inner=NARROW, shift=-1.0), "shift is -1.0"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[row[1] for row in REFUSED])
def test_what_is_no_schedule_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_times_that_round_beyond_an_end_are_that_end(dtype):
    t = torch.tensor([-2e-7, 1 + 2e-7], dtype=dtype)
    assert schedules.Cosine().logsnr(t).tolist() == [20.0, -20.0]


@pytest.mark.parametrize("t", [[-0.01, 0.5], [0.5, 1.01], [0.5, math.nan]], ids=str)
def test_times_outside_0_to_1_are_refused(t):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        schedules.Cosine().logsnr(torch.tensor(t, dtype=torch.float64))
    schedules.Cosine().logsnr(torch.tensor(t, device="meta"))  # where a look would cost a wait
