r"""Which rows of a comparison differ, and which quantities rank them as a score does.

Each of $R$ rows (training objectives) is trained from the same $n$ seeds, and the same seed is the
same initial weights, order of data and noise in every row: a randomized complete block design, with
rows as treatments and seeds as blocks. A score is a row's, a seed's, and an error,

$$y_{rs} = \mu_r + b_s + e_{rs}, \qquad
  \mathrm{MSE} = \frac{\sum_{rs} (y_{rs} - \bar y_{r\cdot} - \bar y_{\cdot s} + \bar y)^2}
                      {(R - 1)(n - 1)}.$$

What a seed does to all rows cancels in their differences. All of them at once have the confidence
of Tukey's honestly significant difference,

$$|(\bar y_i - \bar y_j) - (\mu_i - \mu_j)| \le \mathrm{HSD}
  = q_{0.95;\,R,\,(R-1)(n-1)} \sqrt{\mathrm{MSE} / n}
  \quad \text{for all } i, j, \text{ in 95 \% of experiments},$$

with $q$ the quantile of the studentized range (of $\max - \min$ of $R$ means: no further
$\sqrt 2$). Drawn as $\bar y_r \pm m_r$ with $m_r = \mathrm{HSD} / 2$, rows differ where their
intervals are apart.

This takes errors of all rows for equally large, which they are not. With three seeds no row alone
says how large its are, but one whose residuals are larger than $\sqrt{\mathrm{MSE}}$ has a margin
that is wider by as much,

$$m_r = \tfrac12 \mathrm{HSD}\, \max(1, s_r / \sqrt{\mathrm{MSE}}), \qquad
  s_r^2 = \frac{R}{R - 1} \sum_s \frac{e_{rs}^2}{n - 1}.$$

One that would widen the intervals of all others is left out of all sums, the largest variance
first, while Cochran's test finds an outlier at the level $a = 10^{-4}$:

$$\frac{\max_r s_r^2}{\sum_r s_r^2} > \frac{F}{F + R - 1}, \qquad
  F = F_{1 - a/R;\,n-1,\,(R-1)(n-1)}.$$

Such an erratic row has a margin of its own, Student's, of its difference to the mean of the others.

The few pairs of rows that are asked about in particular pool nothing. Their differences of each
seed, $d_s = y_{is} - y_{js}$, have Student's interval, with Bonferroni's correction for $m$ pairs,

$$\bar d \pm t_{1 - 0.05/2m;\,n-1} \sqrt{\mathrm{Var}(d) / n}.$$

Whether a quantity $x$, such as the ELBO at a noise level, ranks rows as the score $y$ does is
Spearman's $\rho$ of their means over seeds. Its interval is of the bootstrap over rows, which are
taken for a sample of the objectives there could be, and over seeds.

References:
    Student (1908), The probable error of a mean
    Cochran (1941), The distribution of the largest of a set of estimated variances
    Tukey (1953), The problem of multiple comparisons
    Efron & Tibshirani (1993), An Introduction to the Bootstrap
"""

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.stats import f as fisher
from scipy.stats import rankdata, studentized_range
from scipy.stats import t as student

CONFIDENCE = 0.95
NUM_DRAWS = 2000
_OUTLIER_LEVEL = 1e-4  # blatant outliers: of a few rows that scatter more, some left out is worse


@lru_cache
def _quantile(num_rows: int, dof: int) -> float:
    """Of the studentized range: half a second to compute, and one for all scores of a table."""
    return float(studentized_range.ppf(CONFIDENCE, num_rows, dof))


@dataclass(frozen=True)
class Blocks:
    r"""The additive model, fitted to one score of $R \ge 2$ rows and $n \ge 2$ seeds.

    Args:
        means: $\bar y_r$, of each row.
        num_seeds: $n$.
        is_erratic: Which rows are left out of the pool, as their errors are larger.
        residual_std: $\sqrt{\mathrm{MSE}}$, the error of one score of the others. Exactly zero
            where the residuals are no more than rounding, as of rows that are identical.
        row_std: $s_r$, of a row in the pool; of an erratic one, that of its difference to the mean
            of the pool, over seeds.
        pairing: By which factor the shared seeds narrow the standard error of a difference: the one
            that independent seeds would have, from the variance within rows, over the one it has.
            At least $\sqrt{(R-1)/R}$, and 1 on average where seeds make no difference. None without
            errors: nothing is left to narrow.
    """

    means: Float64[np.ndarray, " r"]
    num_seeds: int
    is_erratic: Bool[np.ndarray, " r"]
    residual_std: float
    row_std: Float64[np.ndarray, " r"]
    pairing: float | None

    @classmethod
    def of(cls, scores: Float64[np.ndarray, "r n"]) -> "Blocks | None":
        """From one score of all rows and seeds; None of a single row or a single seed.

        Raises:
            ValueError: If some scores are not finite.
        """
        _require_finite(scores)
        num_rows, num_seeds = scores.shape
        if num_rows < 2 or num_seeds < 2:
            return None
        is_erratic = _erratic(scores)
        pool = scores[~is_erratic]
        residuals, is_exact = _residuals(pool)
        mse = float(np.square(residuals).sum()) / ((len(pool) - 1) * (num_seeds - 1))
        row_std = (scores - pool.mean(0)).std(1, ddof=1)
        row_std[~is_erratic] = residuals.std(1, ddof=1) * math.sqrt(len(pool) / (len(pool) - 1))
        return cls(
            means=scores.mean(1),
            num_seeds=num_seeds,
            is_erratic=is_erratic,
            residual_std=0.0 if is_exact else math.sqrt(mse),
            row_std=row_std,
            pairing=None if is_exact else math.sqrt(float(pool.var(1, ddof=1).mean()) / mse),
        )

    @property
    def num_pooled(self) -> int:
        """Rows in the pool."""
        return int((~self.is_erratic).sum())

    @property
    def dof(self) -> int:
        """Degrees of freedom of the residuals, $(R - 1)(n - 1)$ of the pool."""
        return (self.num_pooled - 1) * (self.num_seeds - 1)

    @cached_property
    def half_width(self) -> float:
        """HSD: how far any difference of two means may be from the truth, all at once."""
        standard_error = self.residual_std / math.sqrt(self.num_seeds)
        return _quantile(self.num_pooled, self.dof) * standard_error

    @cached_property
    def margins(self) -> Float64[np.ndarray, " r"]:
        r"""$m_r$: rows whose intervals `means` $\pm$ `margins` do not overlap differ."""
        own = _student(len(self.means), self.num_seeds) * self.row_std / math.sqrt(self.num_seeds)
        excess = np.maximum(1.0, self.row_std / self.residual_std) if self.residual_std else 1.0
        margins: Float64[np.ndarray, " r"] = np.where(
            self.is_erratic, own, self.half_width / 2 * excess
        )
        return margins

    def is_best_within_error(self, is_lower_better: bool) -> Bool[np.ndarray, " r"]:
        """Which rows do not differ significantly from the best; the best itself among them."""
        best = int(self.means.argmin() if is_lower_better else self.means.argmax())
        reach = self.margins + self.margins[best]
        is_near: Bool[np.ndarray, " r"] = np.abs(self.means - self.means[best]) <= reach
        return is_near


def _residuals(scores: Float64[np.ndarray, "r n"]) -> tuple[Float64[np.ndarray, "r n"], bool]:
    """What is left without row and seed, and whether that is rounding."""
    within = scores - scores.mean(1)[:, None]
    residuals = within - within.mean(0)
    rounding = np.finfo(np.float64).eps * scores.size * np.abs(scores).max()
    return residuals, bool(np.abs(residuals).max() <= rounding)


def _erratic(scores: Float64[np.ndarray, "r n"]) -> Bool[np.ndarray, " r"]:
    """Rows of outlying variance, found one after another; three at least are left."""
    is_erratic = np.zeros(len(scores), dtype=bool)
    while (num_rows := int((~is_erratic).sum())) > 3:
        residuals, is_exact = _residuals(scores[~is_erratic])
        squares = np.square(residuals).sum(1)
        share = cochran(num_rows, scores.shape[1], _OUTLIER_LEVEL)
        if is_exact or squares.max() <= share * squares.sum():
            break
        is_erratic[np.flatnonzero(~is_erratic)[squares.argmax()]] = True
    return is_erratic


@lru_cache
def cochran(num_rows: int, num_seeds: int, level: float) -> float:
    """The share of the largest of `num_rows` variances in their sum, above which it is an outlier.

    Examples:
        >>> [round(cochran(num_rows, 3, 0.05), 3) for num_rows in (5, 10)]  # as tables have it
        [0.684, 0.445]
    """
    dof = num_seeds - 1
    quantile = float(fisher.ppf(1 - level / num_rows, dof, (num_rows - 1) * dof))
    return quantile / (quantile + num_rows - 1)


def _student(num_comparisons: int, num_seeds: int) -> float:
    """The quantile of Student's distribution, with Bonferroni's correction."""
    return float(student.ppf(1 - (1 - CONFIDENCE) / (2 * num_comparisons), num_seeds - 1))


def paired_interval(
    differences: Float64[np.ndarray, " n"], num_pairs: int
) -> tuple[float, float] | None:
    """Where the true mean is of one of `num_pairs` differences, in 95 % of experiments for all of
    them at once; None where the seeds do not tell, as of a single one, or if all have one value,
    which scores that are counts of images may.

    Args:
        differences: Of two rows, seed by seed.
        num_pairs: Pairs of rows that are looked at.

    Raises:
        ValueError: If some differences are not finite.
    """
    _require_finite(differences)
    num, mean = len(differences), float(differences.mean())
    if num < 2 or (mean != 0 and np.ptp(differences) <= 1e-12 * abs(mean)):
        return None
    half_width = _student(num_pairs, num) * float(differences.std(ddof=1)) / math.sqrt(num)
    return mean - half_width, mean + half_width


@dataclass(frozen=True)
class Correlation:
    r"""Spearman's rank correlation of each of $k$ quantities with a score.

    Args:
        rho: The estimates; NaN where all rows have the same mean of the quantity, or of the score.
        low: Lower ends of the 95 % intervals; NaN where `rho` is.
        high: Upper ends.
    """

    rho: Float64[np.ndarray, " k"]
    low: Float64[np.ndarray, " k"]
    high: Float64[np.ndarray, " k"]


def rank_correlations(
    x: Float64[np.ndarray, "r n k"],
    y: Float64[np.ndarray, "r n"],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Correlation:
    r"""How well each of $k$ quantities ranks rows as a score does.

    A draw of the bootstrap takes rows with replacement and, independently, seeds: the same ones in
    all rows, for quantities and score, as seeds are blocks. Draws without a rank correlation, as of
    one row only, are left out. The interval is from the 2.5th to the 97.5th percentile, and extends
    to the estimate where that is outside: resampled seeds add to the noise in the means, so that
    draws lie closer to zero than a high estimate does.

    Args:
        x: Quantities, lower is better.
        y: Score, lower is better: that both are is a positive correlation.
        num_draws: Of the bootstrap. Default: ends move by a tenth of the interval's width at most.
        seed: Of the bootstrap.

    Raises:
        ValueError: If there are fewer than 4 rows, or some values are not finite.
    """
    num_rows, num_seeds = y.shape
    if num_rows < 4:
        raise ValueError(f"A rank correlation is of 4 rows or more: there are {num_rows}.")
    _require_finite(x, y)
    rng = np.random.default_rng(seed)
    rows = rng.integers(num_rows, size=(num_draws, num_rows))
    seeds = rng.integers(num_seeds, size=(num_draws, num_seeds))
    x, y = np.moveaxis(x, 2, 0), y[None]
    rho = _spearman(x, y, np.arange(num_rows)[None], np.arange(num_seeds)[None])[:, 0]
    ends = [_percentiles(draws) for draws in _spearman(x, y, rows, seeds)]
    low, high = np.array(ends).reshape(-1, 2).T
    return Correlation(rho, np.minimum(rho, low), np.maximum(rho, high))


def _spearman(
    x: Float[np.ndarray, "k r n"],
    y: Float[np.ndarray, "1 r n"],
    rows: Int[np.ndarray, "d r"],
    seeds: Int[np.ndarray, "d n"],
) -> Float64[np.ndarray, "k d"]:
    """Of each draw of rows and seeds; NaN where either side is the same for all of its rows."""
    x, y = _ranks(x, rows, seeds), _ranks(y, rows, seeds)
    with np.errstate(invalid="ignore"):
        rho: Float64[np.ndarray, "k d"] = (x * y).sum(2) / np.sqrt(
            np.square(x).sum(2) * np.square(y).sum(2)
        )
    return rho


def _ranks(
    values: Float[np.ndarray, "k r n"], rows: Int[np.ndarray, "d r"], seeds: Int[np.ndarray, "d n"]
) -> Float64[np.ndarray, "k d r"]:
    """Of the rows of each draw by their sums over its seeds, around their mean; ties share theirs.

    Seeds are added one by one: a row that is drawn twice has twice exactly the same sum.
    """
    sums = np.zeros((len(values), *rows.shape))
    for seed in seeds.T:
        sums += values[:, rows, seed[:, None]]
    ranks: Float64[np.ndarray, "k d r"] = rankdata(sums, axis=2) - (rows.shape[1] + 1) / 2
    return ranks


def _percentiles(draws: Float64[np.ndarray, " d"]) -> tuple[float, float]:
    kept = draws[~np.isnan(draws)]
    if not kept.size:
        return math.nan, math.nan
    low, high = np.quantile(kept, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _require_finite(*values: Float[np.ndarray, "..."]) -> None:
    for each in values:
        num_bad = int((~np.isfinite(each)).sum())
        if num_bad:
            raise ValueError(f"{num_bad} of {each.size} scores are NaN or infinite.")
