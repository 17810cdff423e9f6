"""The density of noise levels: exact for tables, named where it has a name, smooth otherwise."""

import math

import numpy as np
import pytest
import torch
from audited import SEEDS, X
from scipy import stats

from elbos import audit
from elbos.audit.density.curves import Curve
from elbos.audit.density.density import Evidence
from elbos.audit.density.levels import Levels
from elbos.audit.estimate import Estimate, possible_rises, significant_rises
from elbos.theory import schedules
from elbos.theory.names import code

NUM_POINTS = 401


def estimate(levels, error=1e-7):
    grid = np.linspace(levels.min(), levels.max(), NUM_POINTS)
    inputs = drawn(levels, np.empty((len(levels), 0)), error)
    return grid, Evidence.from_levels(inputs).density(grid)


def drawn(levels, quantiles, error=1e-7):
    """Levels in ten blocks."""
    return Levels(levels, error + 0 * levels, quantiles, np.arange(len(levels)) % 10.0)


def error_of(density):
    return np.hypot(np.sqrt(np.diag(density.covariance)), density.spacing_error)


def draws(schedule, num, seed=0):
    u = np.random.default_rng(seed).random(num)
    return schedule.logsnr(torch.from_numpy(u)).numpy()


class Mixture:
    """Normals, together no named schedule."""

    shares, means, stds = np.array([0.6, 0.4]), np.array([-2.0, 3.0]), np.array([1.5, 1.0])

    def draw(self, num, seed):
        rng = np.random.default_rng(seed)
        which = rng.choice(2, num, p=self.shares)
        return self.means[which] + self.stds[which] * rng.standard_normal(num)

    def log_density(self, logsnr):
        parts = stats.norm.pdf(logsnr[:, None], self.means, self.stds)
        return np.log(parts @ self.shares)


# A schedule, and the error that is allowed in its log-density: 0 for one of a published recipe.
NAMED = [
    (schedules.Cosine(), 0.0),
    (schedules.Normal(), 0.0),
    (schedules.Normal.logit_normal(mean=0.5, std=0.6), 0.0),
    (schedules.Flow(shift=3.0), 0.0),
    (schedules.DDPM(), 0.0),
    (schedules.Linear(logsnr_min=-5.0, logsnr_max=13.3), 1e-3),
    (schedules.Cosine(logsnr_min=-8.0, logsnr_max=5.0), 2e-3),
    (schedules.Normal(mean=-1.0, std=0.7), 0.1),
    (schedules.Flow(shift=7.0), 0.05),
    (schedules.Laplace(mean=1.0, scale=2.0), 0.1),
    (schedules.EDMSampling(), 0.05),
]


@pytest.mark.parametrize(("schedule", "tolerance"), NAMED, ids=repr)
def test_a_named_schedule_is_named(schedule, tolerance):
    levels = draws(schedule, 20_000)
    grid, density = estimate(levels)
    assert density.kind == "named"
    assert type(density.schedule) is type(schedule)
    inner = (grid > np.quantile(levels, 0.01)) & (grid < np.quantile(levels, 0.99))
    true = schedule.log_density(torch.from_numpy(grid)).numpy()
    assert np.abs(density.log_p - true)[inner].max() < max(tolerance, 1e-3)
    if tolerance == 0:
        assert density.schedule == schedule


def test_a_contaminated_schedule_is_not_named():
    levels = draws(schedules.Normal(), 20_000)
    levels[:2000] = draws(schedules.Linear(logsnr_min=-6.0, logsnr_max=6.0), 2000, seed=1)
    _, density = estimate(levels)
    assert (density.kind, density.schedule) == ("smooth", None)


@pytest.mark.parametrize("num_steps", [18, 1000])
def test_a_table_is_exact(num_steps):
    t = (np.arange(num_steps) + 0.5) / num_steps
    table = -2 * np.log(np.tan(np.pi / 2 * t))
    levels = np.random.default_rng(0).choice(table, 20_000)
    levels = levels + 1e-7 * np.random.default_rng(1).standard_normal(len(levels))
    grid, density = estimate(levels)
    assert density.kind == "table"
    assert abs(density.num_steps - num_steps) <= num_steps // 1000
    true = np.log(1 / (2 * np.pi * np.cosh(grid / 2)))
    inner = np.abs(grid) < 0.5 * np.abs(table).max()
    # a central difference over two steps: the error is that of its curvature
    assert np.abs(density.log_p - true)[inner].max() < max(2e-3, 150 / num_steps**2)


def test_a_table_that_ends_in_pure_noise_has_its_exact_density():
    """A float32 network input at log-SNR -30 does not resolve the levels of a table."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.06, 1000, dtype=torch.float64), 0)
    table = torch.logit(alpha_bar).flip(0).numpy()

    def loss(network, x):
        i, eps = torch.randint(1000, (len(x),)), torch.randn_like(x)
        a = alpha_bar.float()[i, None, None, None]
        return (network(a.sqrt() * x + (1 - a).sqrt() * eps, i) - eps).square().mean()

    x = 2 * torch.rand(256, 3, 8, 8, generator=torch.Generator().manual_seed(1)) - 1
    result = audit.probe(loss, x, 20_000)
    true = np.interp(result.logsnr.numpy(), table, -np.log(np.gradient(table)))
    log_p, below = result.density.log().numpy(), result.density.cumsum(0).numpy()
    inner = (below > 0.05 * below[-1]) & (below < 0.95 * below[-1])
    difference = (log_p - true)[inner]
    assert np.abs(difference - np.median(difference)).max() < 0.05
    assert result.recipe is None  # DDPM's table ends at log-SNR -10


def karras(num, rho):
    return np.linspace(80.0 ** (1 / rho), 0.002 ** (1 / rho), num) ** rho


def ddpm(betas):
    alpha_bar = np.cumprod(1 - betas)
    return np.sqrt((1 - alpha_bar) / alpha_bar)


TABLES = [  # noise levels sigma/alpha, and the schedule of many steps
    (karras(18, 7), schedules.EDMSampling(rho=7.0), 0.1),
    (ddpm(np.linspace(1e-3, 0.2, 50)), schedules.DDPM(), 0.0),
    (ddpm(np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)[:500], schedules.StableDiffusion(), 0),
]


@pytest.mark.parametrize(("sigma", "schedule", "tolerance"), TABLES, ids=repr)
def test_a_short_table_has_the_name_of_its_schedule(sigma, schedule, tolerance):
    _, density = estimate(np.random.default_rng(0).choice(-2 * np.log(sigma), 20_000))
    named = density.schedule
    assert (density.kind, type(named)) == ("table", type(schedule))
    assert abs(getattr(named, "rho", 0) - getattr(schedule, "rho", 0)) <= tolerance


def test_a_table_of_quadratic_betas_has_its_parameters():
    sigma = ddpm(np.linspace(1e-4**0.5, 0.05**0.5, 200) ** 2)  # its shape is a flow's, but for 7 %
    _, density = estimate(np.random.default_rng(0).choice(-2 * np.log(sigma), 20_000))
    expected = schedules.StableDiffusion(beta_min=200 * 1e-4, beta_max=200 * 0.05)
    assert (density.kind, code(density.schedule)) == ("table", code(expected))


def test_a_table_of_unequal_steps_has_its_spacing_exact_and_its_probabilities_smooth():
    table = np.linspace(-9, 7, 1000) + 0.3 * np.sin(np.linspace(-9, 7, 1000))
    probability = 1 + 0.8 * np.cos(np.linspace(0, np.pi, 1000))
    probability /= probability.sum()
    levels = np.random.default_rng(0).choice(table, 20_000, p=probability)
    grid, density = estimate(levels)
    assert (density.kind, density.num_steps) == ("smooth", 1000)
    slope = np.gradient(table)
    true = np.interp(grid, table, np.log(probability / slope))
    errors = (density.log_p - true) / error_of(density)
    assert np.abs(errors).max() < 4
    assert np.abs(density.log_p - true)[20:-20].max() < 0.12


def test_the_error_of_a_smooth_density_is_that_of_repetitions():
    # 16 repetitions of 2,000 levels, at 9 places: mean square of errors over standard errors
    mixture, ratios = Mixture(), []
    places = np.linspace(-4, 4, 9)
    for seed in range(16):
        grid, density = estimate(mixture.draw(2000, seed))
        error = density.log_p - mixture.log_density(grid)
        ratios.append(np.interp(places, grid, error / error_of(density)))
    assert 0.5 < np.square(ratios).mean() < 1.5


def test_a_smooth_density_is_near_the_true_one():
    # n = 20 repetitions; the largest median was 2.5 %, the largest 95th percentile 9.5 %
    medians, tails = [], []
    for seed in range(2):
        levels = Mixture().draw(20_000, seed)
        grid, density = estimate(levels)
        inner = (grid > np.quantile(levels, 0.01)) & (grid < np.quantile(levels, 0.99))
        error = np.abs(density.log_p - Mixture().log_density(grid))[inner]
        assert density.kind == "smooth"
        medians.append(np.median(error))
        tails.append(np.quantile(error, 0.95))
    assert max(medians) < 0.03
    assert np.mean(tails) < 0.08


def drawn_levels(level_of, u):
    """Levels that are a function of a uniform number, with another number that decides nothing."""
    s = np.log(u / (1 - u))
    other = np.random.default_rng(9).standard_normal(len(u))
    return drawn(level_of(u), np.stack([other, s], axis=1))


FUNCTIONS = {
    "gumbel": (lambda u: -2 * np.log(-np.log(u)), lambda v: -v / 2 - np.exp(-v / 2) - np.log(2)),
    "logistic": (lambda u: 1.7 * np.log(u / (1 - u)), lambda v: stats.logistic.logpdf(v, 0, 1.7)),
    "t": (lambda u: stats.t.ppf(u, 4), lambda v: stats.t.logpdf(v, 4)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_density_of_a_function_of_a_random_number_is_exact(name):
    """On all of the range, up to the error that is claimed; that is small on the inner 98 %."""
    level_of, log_density = FUNCTIONS[name]
    levels = drawn_levels(level_of, np.random.default_rng(0).random(20_000))
    grid = np.linspace(levels.logsnr.min(), levels.logsnr.max(), 401)
    density = Evidence.from_levels(levels).density(grid)
    error = density.log_p - log_density(grid)
    claimed = error_of(density)
    inner = (grid > np.quantile(levels.logsnr, 0.01)) & (grid < np.quantile(levels.logsnr, 0.99))
    assert density.kind == "function"
    assert (np.abs(error) < 4 * claimed).all()
    assert np.abs(error)[inner].max() < 2e-3
    assert claimed[inner].max() < 0.02


FITTED = [
    schedules.Normal(mean=-2.0, std=2.8),
    schedules.Cosine(shift=math.log(2)),
    schedules.EDMSampling(),
    schedules.Linear(logsnr_min=-5.0, logsnr_max=13.3),
]


@pytest.mark.parametrize("schedule", FITTED, ids=repr)
def test_a_schedule_is_named_with_its_parameters_where_the_random_number_was_seen(schedule):
    def level_of(u):
        return schedule.logsnr(torch.from_numpy(1 - u)).numpy()

    levels = drawn_levels(level_of, np.random.default_rng(1).random(20_000))
    grid = np.linspace(levels.logsnr.min(), levels.logsnr.max(), 401)
    density = Evidence.from_levels(levels).density(grid)
    true = schedule.log_density(torch.from_numpy(grid)).numpy()
    assert type(density.schedule) is type(schedule)
    off = density.schedule.log_density(torch.from_numpy(grid)).numpy() - true
    assert np.abs(off - off.mean()).max() < 5e-3


def test_a_level_that_is_hardly_known_says_nothing_about_others():
    """A last sample whose error is wider than all levels are, as that of pure noise."""
    schedule = schedules.Flow(logsnr_min=-25.0, logsnr_max=25.0)
    u = np.random.default_rng(0).random(5000)
    levels = schedule.logsnr(torch.from_numpy(u)).numpy()
    errors = np.where(levels == levels.min(), 5.0, 1e-7)
    grid, seen = np.linspace(-8, 8, 101), drawn(levels, np.log(u / (1 - u))[:, None], errors)
    density = Evidence.from_levels(seen).density(grid)
    assert density.kind in ("function", "named")
    off = density.log_p - schedule.log_density(torch.from_numpy(grid)).numpy()
    assert np.abs(off - off.mean()).max() < 0.02


def tilted(tilt, num_steps=1000):
    """Levels and quantiles of steps whose probability changes linearly, by a share at the ends."""
    probability = 1 + tilt * np.linspace(-1, 1, num_steps)
    probability /= probability.sum()
    u = np.random.default_rng(2).random(20_000)
    table = np.linspace(-8, 8, num_steps)
    index = np.searchsorted(np.cumsum(probability), u)
    levels = drawn(table[index], np.log(u / (1 - u))[:, None])
    return levels, np.interp(np.linspace(-8, 8, 401), table, np.log(probability))


@pytest.mark.parametrize("tilt", [-0.05, 0.2])
@pytest.mark.parametrize("is_seen", [True, False], ids=["seen", "unseen"])
def test_steps_that_are_nearly_equally_likely_are_not_called_so(tilt, is_seen):
    levels, log_probability = tilted(tilt)
    seen = levels if is_seen else drawn(levels.logsnr, levels.quantiles[:, :0])
    density = Evidence.from_levels(seen).density(np.linspace(-8, 8, 401))
    error = density.log_p - log_probability
    claimed = error_of(density)
    assert (np.abs(error - error.mean()) < 4.5 * claimed + 1e-4).all()
    if is_seen:
        assert density.kind == "function"
        assert np.quantile(np.abs(error - error.mean()), 0.95) < 0.03


def rises_of(levels, log_weight_over_p):
    grid, density = estimate(levels)
    exact = Curve(log_weight_over_p(grid), np.zeros((len(grid), len(grid))), 0.0, False)
    return Estimate(20_000, grid, density, exact, exact, [], is_variance_preserving=False).rising


def test_noise_is_not_called_a_rise():
    # a flat weight, 1 / p times p, in 10 repetitions of 1,000 levels
    mixture = Mixture()
    actual = [
        rises_of(mixture.draw(1000, seed), lambda grid: -mixture.log_density(grid))
        for seed in range(10)
    ]
    assert [rises for rises in actual if rises] == []


def test_a_rise_is_found():
    # the weight rises by a factor of e over [-4, 0] and falls beyond
    mixture = Mixture()

    def log_weight_over_p(grid):
        return -np.abs(grid) / 4 - mixture.log_density(grid)

    for seed in range(2):
        [(start, end)] = rises_of(mixture.draw(20_000, seed), log_weight_over_p)
        assert start < -3
        assert abs(end) < 0.7


def test_rises_are_found_in_exact_curves():
    x = np.linspace(-3, 3, 601)
    none = np.zeros((601, 601))
    assert significant_rises(x, -x, none) == []
    assert significant_rises(x, np.ones(601), none) == []
    np.testing.assert_allclose(significant_rises(x, -np.abs(x), none), [(-3, 0)], atol=1e-9)
    two = np.cos(2 * np.pi * x / 3)  # rises on [-1.5, 0] and [1.5, 3]
    actual = significant_rises(x, two, none)
    np.testing.assert_allclose(actual, [(-1.5, 0.0), (1.5, 3.0)], atol=0.06)


def test_a_rise_that_is_not_excluded_is_told_with_its_factor():
    # independent errors of .1: three standard errors of a difference are .3 * sqrt(2)
    x = np.linspace(0, 1, 11)
    [(start, end, factor)] = possible_rises(x, np.zeros(11), 0.01 * np.eye(11))[:1]
    assert start < end
    assert factor == pytest.approx(np.exp(0.3 * 2**0.5))
    assert possible_rises(x, np.zeros(11), np.full((11, 11), 0.01)) == []  # a constant is no rise
    assert possible_rises(x, -10 * x, 0.01 * np.eye(11)) == []


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_of_a_coefficient_that_is_zero_at_half_of_the_levels_is_finite(seed):
    rng = np.random.default_rng(seed)
    logsnr, grid = rng.uniform(-8, 27, 20_000), np.linspace(-8, 27, NUM_POINTS)
    coefficient = np.exp(-logsnr) * rng.exponential(size=len(logsnr)) * (logsnr < 8)
    curve = Curve.from_samples(logsnr, coefficient, grid)
    assert np.isfinite(curve.log).all()
    assert np.median(np.abs(curve.log + grid)[grid < 7]) < 0.1
    assert (curve.log < -8)[grid > 9].all()


def test_a_curve_of_few_scattered_values_is_finite():
    rng = np.random.default_rng(0)
    logsnr, grid = rng.uniform(-5, 5, 60), np.linspace(-5, 5, NUM_POINTS)
    curve = Curve.from_samples(logsnr, rng.exponential(size=60) * (logsnr > 0), grid)
    assert curve.is_fitted and np.isfinite(curve.log).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("is_used", "rise"),
    [
        (lambda t: t > 0.5, None),
        (lambda t: t < 0.5, 0.0),  # where w begins
        (lambda t: (t < 0.3) | (t > 0.5), 2 * math.log(0.7 / 0.3)),
    ],
)
def test_dropped_samples_make_no_rise_but_where_they_end(is_used, rise, seed):
    def loss(network, x):
        t, eps = torch.rand(len(x)), torch.randn_like(x)
        at = t.reshape(-1, 1, 1, 1)
        error = (network((1 - at) * x + at * eps, t) - (eps - x)).square().mean((1, 2, 3))
        return error[is_used(t)].mean()

    result = audit.probe(loss, X[:64], 4000, seed=seed)
    assert {item.kind for item in result.diagnostics} == {"unused", "normalized-weights"}
    assert result.is_monotone is (rise is None)
    assert [end for _, end in result.rising] == (
        [] if rise is None else [pytest.approx(rise, abs=0.3)]
    )
    t = torch.sigmoid(-result.logsnr / 2)
    inside = is_used(t + 0.03) & is_used(t - 0.03) & (result.logsnr.abs() < 5)
    exact = -2 * torch.log(torch.cosh(result.logsnr / 4)) + 2 * torch.log1p(
        (-result.logsnr / 2).exp()
    )
    ratio = (result.weight.log() - exact)[inside]
    assert (ratio - ratio.median()).abs().max() < 0.05


def test_every_step_of_an_uneven_multinomial_has_its_probability():
    """The first and the last ones, too, which few samples have: w is the one of even steps."""
    weights = torch.tensor([1.0] * 300 + [4.0] * 400 + [1.0] * 300)
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)

    def loss(network, x):
        t = torch.multinomial(weights, len(x), replacement=True)
        squared, eps = alpha_bar[t].float().view(-1, 1, 1, 1), torch.randn_like(x)
        error = network(squared.sqrt() * x + (1 - squared).sqrt() * eps, t) - eps
        return (error.square().mean((1, 2, 3)) / weights[t]).mean()

    result, ddpm = audit.probe(loss, X), audit.from_recipe("ddpm")
    ratio = (result.weight / ddpm.weighting(result.logsnr)).log()
    assert (ratio - ratio.median())[result.logsnr < 7].abs().max() < 0.03
    assert result.rising[-1][1] == pytest.approx(ddpm.rising[-1][1], abs=0.2)
