"""Intervals hold what they should as often as they should, whatever seeds do to all rows."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from elbos.compare.statistics import Blocks, paired_interval, rank_correlations

SIZES = [(2, 2), (2, 7), (3, 4), (4, 4), (6, 3)]  # rows, seeds


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def experiment(rng, num_rows, num_seeds, *, seed_std=5.0, row_std=1.0):
    """Scores and true row means; errors are standard normal."""
    rows = row_std * rng.normal(size=num_rows)
    seeds = seed_std * rng.normal(size=num_seeds)
    return rows[:, None] + seeds + rng.normal(size=(num_rows, num_seeds)), rows


def least_squares(scores):
    """Residual sum of squares and degrees of freedom of the additive model, from dummies."""
    num_rows, num_seeds = scores.shape
    dummies = np.array(
        [
            np.concatenate([np.eye(num_rows)[r], np.eye(num_seeds)[s]])
            for r in range(num_rows)
            for s in range(num_seeds)
        ]
    )
    solution, _, rank, _ = np.linalg.lstsq(dummies, scores.flatten())
    return np.square(scores.flatten() - dummies @ solution).sum(), scores.size - rank


def everything(blocks):
    """All that is said about the rows but their means."""
    return [blocks.residual_std, blocks.pairing, blocks.half_width, *sorted(blocks.margins)]


@pytest.mark.parametrize("size", SIZES)
def test_errors_are_those_of_the_least_squares_fit(size, rng):
    scores, _ = experiment(rng, *size)
    blocks = Blocks.of(scores)
    squares, dof = least_squares(scores)
    assert blocks.dof == dof
    assert blocks.residual_std == pytest.approx(math.sqrt(squares / dof), rel=1e-10)


@pytest.mark.parametrize("num_rows", [2, 3, 6])
def test_hsd_is_tukeys(num_rows, rng):
    """In units of a mean's standard error, that of R groups of R, of as many degrees of freedom."""
    groups = rng.normal(size=(num_rows, num_rows))
    tukey = stats.tukey_hsd(*groups)
    half_width = (tukey.confidence_interval(0.95).high - tukey.statistic)[0, 1]
    unit = math.sqrt(groups.var(1, ddof=1).mean() / num_rows)
    scores, _ = experiment(rng, num_rows, num_rows + 1)
    blocks = Blocks.of(scores)
    squares, dof = least_squares(scores)
    assert dof == num_rows * (num_rows - 1)
    expected = half_width / unit * math.sqrt(squares / dof / (num_rows + 1))
    assert blocks.half_width == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("num_seeds", [2, 3, 8])
def test_of_two_rows_it_is_the_paired_t_test(num_seeds, rng):
    scores, _ = experiment(rng, 2, num_seeds)
    test = stats.ttest_rel(*scores)
    expected = test.confidence_interval(0.95)
    blocks = Blocks.of(scores)
    mean, half_width = blocks.means[0] - blocks.means[1], blocks.half_width
    assert (mean - half_width, mean + half_width) == pytest.approx(tuple(expected), rel=1e-6)
    assert paired_interval(scores[0] - scores[1], 1) == pytest.approx(tuple(expected), rel=1e-10)


@pytest.mark.parametrize("num_seeds", [2, 3, 8])
def test_pairing_is_the_ratio_of_paired_to_unpaired_t(num_seeds, rng):
    scores, _ = experiment(rng, 2, num_seeds)
    expected = stats.ttest_rel(*scores).statistic / stats.ttest_ind(*scores).statistic
    assert Blocks.of(scores).pairing == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("seed_std", "expected"), [(3.0, math.sqrt(10)), (0.0, 1.0)])
def test_pairing_narrows_by_what_seeds_share(seed_std, expected, rng):
    """To 4 standard errors of a standard deviation, n = 20,000 seeds."""
    scores, _ = experiment(rng, 6, 20_000, seed_std=seed_std)
    assert Blocks.of(scores).pairing == pytest.approx(expected, rel=4 / math.sqrt(2 * 20_000))


@pytest.mark.parametrize("num_rows", [2, 5])
def test_pairing_is_least_where_all_seeds_have_one_mean(num_rows, rng):
    scores, _ = experiment(rng, num_rows, 4)
    pairing = Blocks.of(scores - scores.mean(0)).pairing
    assert pairing == pytest.approx(math.sqrt((num_rows - 1) / num_rows), rel=1e-10)


def test_all_differences_hold_at_once_in_95_percent_of_experiments(rng):
    """Within 4 binomial standard errors, 1,000 experiments of 6 rows and 3 seeds.

    Seeds differ by 5 times the error. The largest difference of estimates from the truth decides.
    """
    num_failed = 0
    for _ in range(1000):
        scores, rows = experiment(rng, 6, 3)
        blocks = Blocks.of(scores)
        num_failed += np.ptp(blocks.means - rows) > blocks.half_width
    assert abs(num_failed / 1000 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 1000)


def test_equal_rows_are_not_called_erratic(rng):
    """In 10^-4 of experiments: in two of 1,000 at most, of 10 rows and 3 seeds."""
    found = [Blocks.of(experiment(rng, 10, 3)[0]).is_erratic.any() for _ in range(1000)]
    assert sum(found) <= 2


def test_a_row_that_scatters_more_has_a_wider_margin(rng):
    """By the ratio of its residuals' standard deviation, in an additive model, to that of all."""
    scores, _ = experiment(rng, 6, 4)
    scores[2] += 3 * rng.normal(size=4)
    blocks = Blocks.of(scores)
    residuals = scores - scores.mean(1, keepdims=True) - scores.mean(0) + scores.mean()
    std = residuals.std(1, ddof=1) * math.sqrt(6 / 5)
    pooled = math.sqrt(np.square(std).mean())
    np.testing.assert_allclose(
        blocks.margins, blocks.half_width / 2 * np.maximum(1, std / pooled), rtol=1e-10
    )
    assert blocks.margins[2] > 1.5 * blocks.margins.min()


SCATTER = {
    "alike": np.ones(15),
    "one 10": np.r_[10, np.ones(14)],
    "one 30": np.r_[30, np.ones(14)],
    "three 4": np.r_[4, 4, 4, np.ones(12)],
    "spread": np.geomspace(0.3, 3, 15),
}


@pytest.mark.parametrize(
    ("scatter", "num_seeds", "expected"),
    [
        *[("alike", 3, 0.027), ("alike", 5, 0.029), ("one 10", 3, 0.085), ("one 10", 5, 0.043)],
        *[("one 30", 3, 0.050), ("one 30", 5, 0.032), ("three 4", 3, 0.118)],
        *[("three 4", 5, 0.085), ("spread", 3, 0.089), ("spread", 5, 0.063)],
    ],
)
def test_equal_rows_are_told_apart_as_seldom_as_the_guide_says(scatter, num_seeds, expected, rng):
    """In docs/compare.md, of 1,500 tables; here of 500, within 4 binomial standard errors."""
    num_apart = 0
    for _ in range(500):
        blocks = Blocks.of(SCATTER[scatter][:, None] * rng.normal(size=(15, num_seeds)))
        reach = blocks.margins[:, None] + blocks.margins
        num_apart += bool((np.abs(blocks.means[:, None] - blocks.means) > reach).any())
    error = math.sqrt(expected * (1 - expected) * (1 / 500 + 1 / 1500))
    assert abs(num_apart / 500 - expected) < 4 * error


def test_an_erratic_row_widens_no_other_interval(rng):
    """One of error 30, nine of error 1: found, and the others have what they have without it."""
    scores, _ = experiment(rng, 10, 3)
    scores[4] += 30 * rng.normal(size=3)
    others = np.arange(10) != 4
    blocks, without = Blocks.of(scores), Blocks.of(scores[others])
    assert blocks.is_erratic.tolist() == (~others).tolist()
    assert blocks.margins[others] == pytest.approx(without.margins)
    assert (blocks.dof, blocks.pairing) == (without.dof, pytest.approx(without.pairing))
    assert blocks.margins[4] > 10 * blocks.margins[0]


def test_differences_hold_with_an_erratic_row(rng):
    """All pairs apart by their margins at once, in 95 % of 1,000 experiments less 4 binomial
    standard errors; errors of 1, and of 30 in one of 10 rows.
    """
    num_held = 0
    for _ in range(1000):
        scores, rows = experiment(rng, 10, 3)
        scores[4] += 30 * rng.normal(size=3)
        blocks = Blocks.of(scores)
        errors = blocks.means - rows
        apart = np.abs(errors[:, None] - errors)
        reach = blocks.margins[:, None] + blocks.margins
        num_held += bool((apart <= reach)[~np.eye(10, dtype=bool)].all())
    assert num_held / 1000 > 0.95 - 4 * math.sqrt(0.05 * 0.95 / 1000)


def test_pairs_hold_at_once_whatever_other_rows_do(rng):
    """Three pairs, of errors 1, 10 and 100: all intervals hold in 95 percent of 2,000 experiments
    of 3 seeds, within 4 binomial standard errors; Bonferroni's is short of Sidak's by 0.0008.
    """
    errors, num_failed = np.array([1.0, 10.0, 100.0])[:, None], 0
    for _ in range(2000):
        intervals = [paired_interval(d, 3) for d in errors * rng.normal(size=(3, 3))]
        num_failed += any(not low <= 0 <= high for low, high in intervals)
    assert abs(num_failed / 2000 - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000) + 0.0008


def test_a_pair_has_an_interval_of_its_own():
    """Narrow, although a row beside it scatters; of one seed there is none."""
    low, high = paired_interval(np.array([1.0, 1.1, 0.9]), 1)
    assert (low, high) == pytest.approx((1 - 4.302653 * 0.1 / 3**0.5, 1 + 4.302653 * 0.1 / 3**0.5))
    assert paired_interval(np.array([1.0]), 1) is None
    assert paired_interval(np.array([0.0005, 0.0005]), 1) is None  # as counts of images may be
    assert paired_interval(np.zeros(2), 1) == (0, 0)
    with pytest.raises(ValueError, match="1 of 2 scores are NaN"):
        paired_interval(np.array([1.0, np.nan]), 1)


def test_the_best_row_is_among_the_best_in_95_percent_of_experiments_or_more(rng):
    """All rows equal: each is; less 4 binomial standard errors, 500 experiments."""
    num_missed = 0
    for _ in range(500):
        scores, _ = experiment(rng, 6, 3, row_std=0.0)
        num_missed += not Blocks.of(scores).is_best_within_error(is_lower_better=True)[2]
    assert num_missed / 500 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 500)


@pytest.mark.parametrize("is_lower_better", [True, False])
def test_rows_are_best_if_their_difference_to_the_best_may_be_zero(is_lower_better, rng):
    """As they are if intervals of `margin` around the means overlap."""
    for _ in range(20):
        blocks = Blocks.of(experiment(rng, 6, 3, row_std=3.0)[0])
        order = np.argsort(blocks.means)
        best = int(order[0] if is_lower_better else order[-1])
        found = blocks.is_best_within_error(is_lower_better)
        low, high = blocks.means - blocks.margins, blocks.means + blocks.margins
        for row in range(6):
            assert found[row] == (low[row] <= high[best] and low[best] <= high[row])
        assert 1 <= found.sum() < 6


def test_lower_is_better_is_the_mirror_image_of_higher(rng):
    scores, _ = experiment(rng, 6, 3, row_std=5.0)
    lower = Blocks.of(scores).is_best_within_error(is_lower_better=True)
    higher = Blocks.of(-scores).is_best_within_error(is_lower_better=False)
    np.testing.assert_array_equal(lower, higher)
    assert lower[Blocks.of(scores).means.argmin()]
    assert not lower[Blocks.of(scores).means.argmax()]


@pytest.mark.parametrize("size", SIZES)
def test_what_a_seed_does_to_all_rows_changes_nothing_but_means(size, rng):
    """Nor does it change pairing, if all seeds do the same."""
    scores, _ = experiment(rng, *size)
    shift = 10 * rng.normal(size=size[1])
    before, after = Blocks.of(scores), Blocks.of(scores + shift)
    np.testing.assert_allclose(after.means, before.means + shift.mean(), rtol=1e-10)
    but_pairing = [value for k, value in enumerate(everything(before)) if k != 1]
    found = [value for k, value in enumerate(everything(after)) if k != 1]
    assert found == pytest.approx(but_pairing, rel=1e-9, abs=1e-12)
    same = everything(Blocks.of(scores + 10))
    assert same == pytest.approx(everything(before), rel=1e-9, abs=1e-12)


def test_rows_and_seeds_may_come_in_any_order(rng):
    scores, _ = experiment(rng, 5, 3, row_std=5.0)
    order = rng.permutation(5)
    before, after = Blocks.of(scores), Blocks.of(scores[order][:, [2, 0, 1]])
    np.testing.assert_allclose(after.means, before.means[order], rtol=1e-10)
    assert everything(after) == pytest.approx(everything(before), rel=1e-10)
    np.testing.assert_array_equal(
        after.is_best_within_error(True), before.is_best_within_error(True)[order]
    )


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_a_single_row_or_seed_has_no_interval(size, rng):
    assert Blocks.of(rng.normal(size=size)) is None


@pytest.mark.parametrize("offset", [0.0, 0.1, 12345.678])
def test_rows_that_differ_by_a_constant_have_no_error(offset, rng):
    """Exactly none, though rounding would leave some; identical rows are all best."""
    scores = np.repeat(rng.normal(size=(1, 3)), 4, axis=0) + offset * np.arange(4)[:, None]
    blocks = Blocks.of(scores)
    assert blocks.residual_std == blocks.half_width == blocks.margins.max() == 0
    assert blocks.pairing is None
    expected = [True, offset == 0, offset == 0, offset == 0]
    np.testing.assert_array_equal(blocks.is_best_within_error(True), expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_must_be_finite(bad, rng):
    scores = rng.normal(size=(4, 2))
    scores[1, 1] = bad
    with pytest.raises(ValueError, match=r"^1 of 8 scores are NaN or infinite\.$"):
        Blocks.of(scores)
    with pytest.raises(ValueError, match=r"^1 of 8 scores are NaN or infinite\.$"):
        rank_correlations(np.ones((4, 2, 3)), scores)
    with pytest.raises(ValueError, match=r"^1 of 8 scores are NaN or infinite\.$"):
        rank_correlations(scores[:, :, None], np.ones((4, 2)))


@pytest.mark.parametrize("num_values", [3, 1000])
def test_rho_is_spearmans_of_the_means(num_values, rng):
    """With ties and without; as many rows as seeds, so that the two cannot be mistaken."""
    x = rng.integers(num_values, size=(5, 5, 7)).astype(float)
    y = rng.integers(num_values, size=(5, 5)).astype(float)
    found = rank_correlations(x, y, num_draws=50)
    for k in range(7):
        expected = stats.spearmanr(x[:, :, k].mean(1), y.mean(1)).statistic
        assert found.rho[k] == pytest.approx(expected, abs=1e-12)


def multisets(num):
    """Draws with replacement of `num` out of as many, and in how many orders each may come."""
    for draw in itertools.combinations_with_replacement(range(num), num):
        repeats = math.prod(math.factorial(draw.count(k)) for k in range(num))
        yield draw, math.factorial(num) // repeats


def test_interval_is_of_all_that_rows_and_seeds_can_be_resampled_to():
    """5 rows and 2 seeds: of all 5^5 x 2^2 draws, between the quantiles 0.5 % below and above."""
    x = np.array([[0.0, 1.0], [10.0, 12.0], [20.0, 27.0], [33.0, 30.0], [40.0, 44.0]])
    y = np.array([[0.0, 2.0], [10.0, 10.0], [28.0, 20.0], [21.0, 26.0], [40.0, 40.0]])
    draws = []
    for (rows, num), (seeds, times) in itertools.product(multisets(5), multisets(2)):
        means = [scores[np.ix_(rows, seeds)].mean(1) for scores in (x, y)]
        if len(set(rows)) > 1:
            draws += [stats.spearmanr(*means).statistic] * (num * times)
    assert len(draws) == (5**5 - 5) * 2**2
    low = np.quantile(draws, [0.02, 0.03])
    high = np.quantile(draws, [0.97, 0.98])
    assert -1 < low[0] < 0.6  # or the test would be one of all draws, or of none
    found = rank_correlations(x[:, :, None], y, num_draws=20_000)
    assert low[0] - 1e-12 <= found.low[0] <= low[1] + 1e-12
    assert high[0] - 1e-12 <= found.high[0] <= high[1] + 1e-12


def test_seeds_are_blocks(rng):
    """What a seed does to all rows changes nothing, in any draw; whole numbers, to be exact."""
    x = rng.integers(100, size=(6, 3, 2)).astype(float)
    y = rng.integers(100, size=(6, 3)).astype(float)
    shift = 1000.0 * rng.integers(100, size=3)
    before, after = rank_correlations(x, y), rank_correlations(x + shift[:, None], y - shift)
    for name in ("rho", "low", "high"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_seeds_are_resampled():
    """Two that rank rows in opposite ways: each is drawn twice in a quarter of the draws."""
    ranks = np.arange(8.0)
    y = np.stack([ranks, -0.9 * ranks], 1)
    found = rank_correlations(np.stack([ranks, ranks], 1)[:, :, None], y)
    assert (found.rho[0], found.low[0], found.high[0]) == (1, -1, 1)


@pytest.mark.parametrize("sign", [1, -1])
def test_of_itself_it_is_one_in_every_draw(sign, rng):
    """However noisy: quantity and score are of the same seeds."""
    y = rng.normal(size=(7, 3))
    found = rank_correlations(y[:, :, None], sign * y)
    assert found.rho[0] == found.low[0] == found.high[0] == sign


def test_from_one_seed_only_ranks_matter(rng):
    x, y = rng.normal(size=(9, 1, 3)), rng.normal(size=(9, 1))
    before, after = rank_correlations(x, y), rank_correlations(np.exp(x), y**3)
    for name in ("rho", "low", "high"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_each_quantity_is_on_its_own_and_draws_are_reproducible(rng):
    """And another seed moves the ends, a little."""
    x, y = rng.normal(size=(12, 3, 4)), rng.normal(size=(12, 3))
    together = rank_correlations(x, y)
    other = rank_correlations(x, y, seed=1)
    for name in ("rho", "low", "high"):
        alone = [getattr(rank_correlations(x[:, :, [k]], y), name)[0] for k in range(4)]
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
    found = rank_correlations(np.repeat(ranks, 10, 1)[:, :, None], ranks + 1e4 * noise)
    assert found.rho[0] == found.high[0] == 1
    assert found.low[0] < 0


@pytest.mark.parametrize("num_rows", [7, 12])
def test_intervals_hold_the_truth(num_rows, rng):
    """Of normal rows, in 95 %, less 4 binomial standard errors; 200 experiments.

    Their rank correlation is 6/pi asin(rho/2), and little noise between seeds lowers it little.
    """
    num_held = 0
    for k in range(200):
        x, y = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=num_rows).T[:, :, None]
        x, y = (each + rng.normal(size=3) + 0.1 * rng.normal(size=(num_rows, 3)) for each in (x, y))
        found = rank_correlations(x[:, :, None], y, num_draws=200, seed=k)
        num_held += found.low[0] <= 6 / math.pi * math.asin(0.3) <= found.high[0]
    assert num_held / 200 > 0.95 - 4 * math.sqrt(0.05 * 0.95 / 200)


def test_rows_that_are_all_equal_have_no_rank(rng):
    """A quantity of which all means are equal, though seeds differ, beside one that ranks."""
    x, y = rng.normal(size=(5, 2, 2)), rng.normal(size=(5, 2))
    x[:, :, 0] = [0.25, -0.25]
    x[1, :, 0] = [-0.5, 0.5]
    found = rank_correlations(x, y)
    for values in (found.rho, found.low, found.high):
        np.testing.assert_array_equal(np.isnan(values), [True, False])
    found = rank_correlations(x, np.ones((5, 2)))
    assert np.isnan([found.rho, found.low, found.high]).all()


def test_three_rows_have_no_rank_correlation(rng):
    with pytest.raises(ValueError, match=r"^A rank correlation is of 4 rows or more: there are 3"):
        rank_correlations(rng.normal(size=(3, 2, 1)), rng.normal(size=(3, 2)))
