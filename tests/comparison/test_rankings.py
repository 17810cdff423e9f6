"""Rank correlations are scipy's, and their intervals and p-values hold."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from elbos.comparison.statistics import MIN_WEIGHTINGS, rank_correlations


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def ranked(x, y, **options):
    """The rank correlation of objectives with a weighting each."""
    return rank_correlations(x, y, [str(i) for i in range(len(y))], **options)


@pytest.mark.parametrize("num_values", [3, 1000])
def test_rho_is_spearmans_of_the_means(num_values, rng):
    """With ties and without; as many rows as seeds, so that the two cannot be mistaken."""
    x = rng.integers(num_values, size=(6, 6, 7)).astype(float)
    y = rng.integers(num_values, size=(6, 6)).astype(float)
    found = ranked(x, y, num_draws=50)
    for k in range(7):
        expected = stats.spearmanr(x[:, :, k].mean(1), y.mean(1)).statistic
        assert found.rho[k] == pytest.approx(expected, abs=1e-12)


def multisets(num):
    """Draws with replacement of `num` out of as many, and in how many orders each may come."""
    for draw in itertools.combinations_with_replacement(range(num), num):
        repeats = math.prod(math.factorial(draw.count(k)) for k in range(num))
        yield draw, math.factorial(num) // repeats


def test_interval_is_of_all_that_rows_and_seeds_can_be_resampled_to():
    """6 rows and 2 seeds: of all 6^6 x 2^2 draws, between the quantiles 0.5 % below and above."""
    x = np.array([[0.0, 1.0], [10.0, 12.0], [20.0, 27.0], [33.0, 30.0], [40.0, 44.0], [50.0, 59.0]])
    y = np.array([[0.0, 2.0], [10.0, 10.0], [28.0, 20.0], [21.0, 26.0], [40.0, 40.0], [36.0, 41.0]])
    draws = []
    for (rows, num), (seeds, times) in itertools.product(multisets(6), multisets(2)):
        means = [scores[np.ix_(rows, seeds)].mean(1) for scores in (x, y)]
        if len(set(rows)) > 1:
            draws += [stats.spearmanr(*means).statistic] * (num * times)
    assert len(draws) == (6**6 - 6) * 2**2
    low = np.quantile(draws, [0.02, 0.03])
    high = np.quantile(draws, [0.97, 0.98])
    assert -1 < low[0] < 0.6  # or the test would be one of all draws, or of none
    found = ranked(x[:, :, None], y, num_draws=20_000)
    assert low[0] - 1e-12 <= found.low[0] <= low[1] + 1e-12
    assert high[0] - 1e-12 <= found.high[0] <= high[1] + 1e-12


def test_seeds_are_blocks(rng):
    """What a seed does to all rows changes nothing, in any draw; whole numbers, to be exact."""
    x = rng.integers(100, size=(6, 3, 2)).astype(float)
    y = rng.integers(100, size=(6, 3)).astype(float)
    shift = 1000.0 * rng.integers(100, size=3)
    before, after = ranked(x, y), ranked(x + shift[:, None], y - shift)
    for name in ("rho", "low", "high"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_seeds_are_resampled():
    """Two that rank rows in opposite ways: each is drawn twice in a quarter of the draws."""
    ranks = np.arange(8.0)
    y = np.stack([ranks, -0.9 * ranks], 1)
    found = ranked(np.stack([ranks, ranks], 1)[:, :, None], y)
    assert (found.rho[0], found.low[0], found.high[0]) == (1, -1, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_of_itself_it_is_one_in_every_draw(sign, rng):
    """However noisy: quantity and score are of the same seeds."""
    y = rng.normal(size=(7, 3))
    found = ranked(y[:, :, None], sign * y)
    assert found.rho[0] == found.low[0] == found.high[0] == sign


def test_from_one_seed_only_ranks_matter(rng):
    x, y = rng.normal(size=(9, 1, 3)), rng.normal(size=(9, 1))
    before, after = ranked(x, y), ranked(np.exp(x), y**3)
    for name in ("rho", "low", "high"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_each_quantity_is_on_its_own_and_draws_are_reproducible(rng):
    """And another seed moves the ends, a little."""
    x, y = rng.normal(size=(12, 3, 4)), rng.normal(size=(12, 3))
    together = ranked(x, y)
    other = ranked(x, y, seed=1)
    for name in ("rho", "low", "high"):
        alone = [getattr(ranked(x[:, :, [k]], y), name)[0] for k in range(4)]
        np.testing.assert_array_equal(getattr(together, name), alone)
    np.testing.assert_array_equal(together.rho, other.rho)
    assert not np.array_equal(together.low, other.low)
    width = together.high - together.low
    assert np.abs(together.low - other.low).max() < 0.1 * width.min()


def test_interval_holds_the_estimate_where_no_draw_does():
    """Noise of 10 seeds that cancels in their mean, and in next to none of the draws."""
    noise = np.random.default_rng(0).normal(size=(12, 10))
    noise -= noise.mean(1, keepdims=True)
    ranks = np.arange(12.0)[:, None]
    found = ranked(np.repeat(ranks, 10, 1)[:, :, None], ranks + 1e4 * noise)
    assert found.rho[0] == found.high[0] == 1
    assert found.low[0] < 0


@pytest.mark.parametrize("num_rows", [MIN_WEIGHTINGS, pytest.param(12, marks=pytest.mark.slow)])
def test_intervals_hold_the_truth(num_rows, rng):
    """Of normal rows, in 95 %, less 4 binomial standard errors; 200 experiments.

    Their rank correlation is 6/pi asin(rho/2), and little noise between seeds lowers it little.
    """
    num_held = 0
    for k in range(200):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=num_rows).T[:, :, None]
        x, y = (each + rng.normal(size=3) + 0.1 * rng.normal(size=(num_rows, 3)) for each in (x, y))
        found = ranked(x[:, :, None], y, num_draws=200, seed=k)
        num_held += found.low[0] <= 6 / math.pi * math.asin(0.3) <= found.high[0]
    assert num_held / 200 > 0.95 - 4 * math.sqrt(0.05 * 0.95 / 200)


def test_rows_that_are_all_equal_have_no_rank(rng):
    """A quantity of which all means are equal, though seeds differ, beside one that ranks."""
    x, y = rng.normal(size=(6, 2, 2)), rng.normal(size=(6, 2))
    x[:, :, 0] = [0.25, -0.25]
    x[1, :, 0] = [-0.5, 0.5]
    found = ranked(x, y)
    for values in (found.rho, found.low, found.high):
        np.testing.assert_array_equal(np.isnan(values), [True, False])
    assert 0 < found.p_value <= 1
    found = ranked(x, np.ones((6, 2)))
    assert np.isnan([found.rho, found.low, found.high]).all() and math.isnan(found.p_value)


def test_objectives_of_one_weighting_are_one_witness(rng):
    """Copies of objectives with their weightings change nothing; several count as their mean."""
    x, y, names = rng.normal(size=(8, 3, 4)), rng.normal(size=(8, 3)), list("abcdefgh")
    alone = rank_correlations(x, y, names)
    copied = rank_correlations(np.repeat(x, 2, 0), np.repeat(y, 2, 0), sorted(names + names))
    apart = rank_correlations(
        np.concatenate([x + 1, x - 1]), np.concatenate([y - 2, y + 2]), names + names
    )
    for found in (copied, apart):
        for name in ("rho", "low", "high", "p_value"):
            np.testing.assert_allclose(getattr(found, name), getattr(alone, name), atol=1e-12)


def test_five_weightings_have_no_rank_correlation(rng):
    """However many objectives."""
    with pytest.raises(ValueError, match=rf"{MIN_WEIGHTINGS} weightings or more: there are 5"):
        rank_correlations(rng.normal(size=(9, 2, 1)), rng.normal(size=(9, 2)), "aabbccdde")


def test_p_value_is_of_the_largest_of_all_permutations(rng):
    """Of 6 weightings and 5 levels, each of the 720 orders."""
    x, y = rng.normal(size=(6, 5)), rng.normal(size=6)
    ranks, orders = stats.rankdata(x, axis=0), list(itertools.permutations(stats.rankdata(y)))
    of_orders = np.corrcoef(ranks.T, orders)[:5, 5:].max(0)
    first = orders.index(tuple(stats.rankdata(y)))
    expected = np.mean(np.array(of_orders) >= of_orders[first] - 1e-9)
    assert ranked(x[:, None], y[:, None], num_draws=10).p_value == pytest.approx(expected)


@pytest.mark.parametrize("num", [6, pytest.param(9, marks=pytest.mark.slow)])
def test_p_value_knows_of_the_choice_of_the_best_level(num, rng):
    """Of 30 levels that say nothing it is below 0.05 in 5 % of 200 experiments, and 4 standard
    errors, although the largest correlation is mostly above 0.7.
    """
    found = [
        ranked(rng.normal(size=(num, 1, 30)), rng.normal(size=(num, 1)), num_draws=2)
        for _ in range(200)
    ]
    share = np.mean([one.p_value <= 0.05 for one in found])
    assert share < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 200)
    assert np.median([one.rho.max() for one in found]) > 0.6
