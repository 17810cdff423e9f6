"""Verdicts are as seldom wrong as they should, whatever seeds do to all objectives."""

import itertools
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from elbos.comparison.statistics import differences

SIZES = [(2, 2), (2, 7), (3, 4), (4, 4), (6, 3)]  # objectives, seeds

coverage = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def experiment(rng, num_rows, num_seeds, *, seed_std=5.0, row_std=1.0):
    """Scores and true means of objectives; errors are standard normal."""
    rows = row_std * rng.normal(size=num_rows)
    seeds = seed_std * rng.normal(size=num_seeds)
    return rows[:, None] + seeds + rng.normal(size=(num_rows, num_seeds)), rows


def of_one(scores, planned=()):
    """The differences in a single main score."""
    (actual,) = differences(scores[None], planned)
    return actual


def least_squares(scores):
    """Residuals of the additive model, from dummies, and their degrees of freedom."""
    num_rows, num_seeds = scores.shape
    dummies = np.array(
        [
            np.concatenate([np.eye(num_rows)[r], np.eye(num_seeds)[s]])
            for r in range(num_rows)
            for s in range(num_seeds)
        ]
    )
    solution, _, rank, _ = np.linalg.lstsq(dummies, scores.flatten())
    return (scores.flatten() - dummies @ solution).reshape(scores.shape), scores.size - rank


def everything(found):
    """All that is said about the objectives but their means."""
    return [found.residual_std, *sorted(found.half_widths.flatten())]


@pytest.mark.parametrize("size", SIZES)
def test_errors_are_those_of_the_least_squares_fit(size, rng):
    scores, _ = experiment(rng, *size)
    residuals, dof = least_squares(scores)
    expected = math.sqrt(np.square(residuals).sum() / dof)
    assert of_one(scores).residual_std == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("planned", [[], [(0, 1)]])
@pytest.mark.parametrize("num_seeds", [2, 3, 8])
def test_of_two_objectives_it_is_the_paired_t_test(num_seeds, planned, rng):
    scores, _ = experiment(rng, 2, num_seeds)
    expected = stats.ttest_rel(*scores).confidence_interval(0.95)
    actual = of_one(scores, planned)
    mean, half_width = actual.means[0] - actual.means[1], actual.half_widths[0, 1]
    assert (mean - half_width, mean + half_width) == pytest.approx(tuple(expected), rel=1e-6)


@pytest.mark.parametrize("num_seeds", [2, 3, 8])
def test_of_two_objectives_in_three_scores_it_is_bonferronis(num_seeds, rng):
    scores = np.array([experiment(rng, 2, num_seeds)[0] for _ in range(3)])
    for item, actual in zip(scores, differences(scores), strict=True):
        expected = stats.ttest_rel(*item).confidence_interval(1 - 0.05 / 3)
        assert 2 * actual.half_widths[0, 1] == pytest.approx(expected.high - expected.low, rel=1e-6)


def by_hand(scores, planned, pairs):
    """Half-widths of pairs, of scores without a wild objective, from the guide's formulas."""
    num_scores, num_rows, num_seeds = scores.shape
    variances = np.array(
        [least_squares(item)[0].var(1, ddof=1) * num_rows / (num_rows - 1) for item in scores]
    )
    mse = variances.mean(1)
    of_equals = stats.chi2(num_seeds - 1).median() / (num_seeds - 1)
    typical = np.minimum(mse, np.median(variances, 1) / of_equals)
    excess = np.median(variances / typical[:, None], 0)
    v = np.maximum(np.maximum(variances, typical[:, None]), typical[:, None] * excess)
    most = min(3, max(1, (num_rows - 1) / 2)) * (num_seeds - 1)
    actual = []
    for k, (i, j) in itertools.product(range(num_scores), pairs):
        mine = np.square([v[k, i] - typical[k], v[k, j] - typical[k]]).sum() / (num_seeds - 1)
        satterthwaite = (v[k, i] + v[k, j]) ** 2 / ((2 * typical[k]) ** 2 / most + mine)
        dof = min(most, satterthwaite)
        if (i, j) in planned:
            critical = stats.t(dof).isf(0.025 / num_scores / len(planned) / 2)
        else:
            range_ = stats.studentized_range(num_rows, dof)
            critical = range_.isf(0.025 / num_scores) / math.sqrt(2)
        actual.append(critical * math.sqrt((v[k, i] + v[k, j]) / num_seeds))
    return np.reshape(actual, (num_scores, len(pairs)))


@pytest.mark.parametrize("size", [(3, 4), (6, 3), (15, 5)])
def test_half_widths_are_those_of_the_formula(size, rng):
    """Of three scores, of errors up to 4 times as large as others; to 0.5 %, as quantiles of the
    studentized range are interpolated between degrees of freedom.
    """
    scale = rng.uniform(1, 4, size=size[0])[:, None]
    scores = experiment(rng, *size)[0] + scale * rng.normal(size=(3, *size))
    planned, pairs = [(0, 1), (0, 2)], [(0, 1), (0, 2), (1, 2)]
    actual = differences(scores, planned)
    assert not any(item.is_wild.any() for item in actual)
    for item, expected in zip(actual, by_hand(scores, planned, pairs), strict=True):
        half_widths = [item.half_widths[pair] for pair in pairs]
        np.testing.assert_allclose(half_widths[:2], expected[:2], rtol=1e-8)
        np.testing.assert_allclose(half_widths[2], expected[2], rtol=5e-3)


MOST = 0.06  # of reports with a false claim


@pytest.mark.parametrize("case", coverage["CASES"])
def test_false_claims_are_few(case):
    """In 60 reports of 15 equal objectives and three main scores, and 4 standard errors."""
    share = coverage["false_claims"](coverage["CASES"][case], 3, 60, seed=1)
    assert share < MOST + 4 * math.sqrt(MOST * (1 - MOST) / 60)


@pytest.mark.slow
@pytest.mark.parametrize("num_seeds", [2, 3, 5])
@pytest.mark.parametrize("num_objectives", coverage["FEWER"])
@pytest.mark.parametrize("case", coverage["WORST"])
def test_false_claims_are_few_of_fewer_objectives(case, num_objectives, num_seeds):
    """In 2,000 reports, to 4 standard errors."""
    errors = coverage["CASES"][case]
    share = coverage["false_claims"](errors, num_seeds, 2000, 2, num_objectives)
    assert share <= MOST + 4 * math.sqrt(MOST * (1 - MOST) / 2000)


@pytest.mark.parametrize(("num_seeds", "expected"), [(3, [6.2, 8.2, 25.2]), (5, [3.5, 4.5, 5.9])])
def test_differences_are_found_as_the_guide_says(num_seeds, expected):
    """With 80 % power, in standard deviations, to 5 %: planned, others, and planned ones alone."""
    actual = coverage["found_differences"](num_seeds, 100, seed=1)
    assert list(actual.values()) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("num_rows", [4, 10])
def test_a_wild_objective_widens_no_other_interval(num_rows, rng):
    """One of error 1000, the others of error 1: found, and they have what they have without it."""
    scores, _ = experiment(rng, num_rows, 5)
    scores[3] += 1000 * rng.normal(size=5)
    rest = np.arange(num_rows) != 3
    actual, without = of_one(scores), of_one(scores[rest])
    assert actual.is_wild.tolist() == (~rest).tolist()
    assert actual.residual_std == pytest.approx(without.residual_std)
    assert actual.half_widths[3, 0] > 100 * actual.half_widths[1, 0]


def test_a_wild_objective_is_best_only_if_that_is_significant(rng):
    scores, _ = experiment(rng, 10, 5, row_std=0.1)
    scores[4] += 100 * np.array([-2, -1, 0, 1, 1])  # the lowest mean, by 20
    lowest = of_one(scores)
    assert lowest.means.argmin() == 4 and lowest.is_wild[4]
    assert lowest.best(is_lower_better=True) != 4
    assert not lowest.is_significant[4].any()
    scores[4] -= 2000
    assert of_one(scores).best(is_lower_better=True) == 4


def test_an_excess_in_most_scores_counts_in_all(rng):
    """An objective whose errors are large in two scores of three, and small by chance in one."""
    scores = rng.normal(size=(3, 15, 3))
    before = differences(scores)
    scores[1:, 7] *= 5 / scores[1:, 7].std(1, ddof=1, keepdims=True)
    after = differences(scores)
    remaining = np.arange(15) != 7
    assert (after[0].half_widths[7, remaining] > 1.5 * before[0].half_widths[7, remaining]).all()
    rest = np.ix_(remaining, remaining)
    np.testing.assert_allclose(after[0].half_widths[rest], before[0].half_widths[rest], rtol=0.1)


def test_lower_is_better_is_the_mirror_image_of_higher(rng):
    scores, _ = experiment(rng, 6, 3, row_std=5.0)
    lower, higher = of_one(scores), of_one(-scores)
    assert lower.best(is_lower_better=True) == higher.best(is_lower_better=False)
    assert lower.best(is_lower_better=True) == scores.mean(1).argmin()
    np.testing.assert_allclose(lower.half_widths, higher.half_widths, rtol=1e-12)


def test_objectives_and_seeds_may_come_in_any_order(rng):
    scores, _ = experiment(rng, 5, 3, row_std=5.0)
    order = rng.permutation(5)
    before, after = of_one(scores), of_one(scores[order][:, [2, 0, 1]])
    np.testing.assert_allclose(after.means, before.means[order], rtol=1e-10)
    np.testing.assert_allclose(
        after.half_widths, before.half_widths[np.ix_(order, order)], rtol=1e-10
    )


@pytest.mark.parametrize("size", SIZES)
def test_what_a_seed_does_to_all_objectives_changes_nothing_but_means(size, rng):
    scores, _ = experiment(rng, *size)
    shift = 10 * rng.normal(size=size[1])
    before, after = of_one(scores), of_one(scores + shift)
    np.testing.assert_allclose(after.means, before.means + shift.mean(), rtol=1e-10)
    assert everything(after) == pytest.approx(everything(before), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1)])
def test_a_single_objective_or_seed_has_no_differences(size, rng):
    assert differences(rng.normal(size=(3, *size))) == [None] * 3


@pytest.mark.parametrize("offset", [0.0, 0.1, 12345.678])
def test_objectives_that_differ_by_a_constant_have_no_verdict(offset, rng):
    """In that score: nothing says how much they scatter. In another one they have theirs."""
    scores = np.repeat(rng.normal(size=(1, 3)), 4, axis=0) + offset * np.arange(4)[:, None]
    other, _ = experiment(rng, 4, 3)
    none, actual = differences(np.array([scores, other]))
    assert none is None
    assert actual.half_widths.min() > 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_must_be_finite(bad, rng):
    scores = rng.normal(size=(6, 2))
    scores[1, 1] = bad
    with pytest.raises(ValueError, match=r"^1 of 12 scores"):
        differences(scores[None])
