r"""Significance of differences between objectives, and rank correlations with scores.

Each of $R$ objectives is trained from the same $n$ seeds, and the same seed is the same initial
weights, order of data and noise for every objective: a randomized complete block design, with
objectives as treatments and seeds as blocks. A score is an objective's, a seed's, and an error,

$$y_{rs} = \mu_r + b_s + e_{rs}, \qquad
  s_r^2 = \frac{R}{R - 1} \sum_s \frac{(y_{rs} - \bar y_{r\cdot} - \bar y_{\cdot s} + \bar y)^2}
                                      {n - 1}.$$

The common effect of a seed cancels in differences between objectives. With few seeds $s_r^2$ is a
poor estimate of an objective's scatter. It is therefore raised to at least the typical variance,
$s_0^2$; and, since it may be small by chance in one score of an objective that scatters in most
scores, its ratio to $s_0^2$ is raised to at least the median ratio over the main metrics,

$$v_r = s_0^2 \max\Bigl(1,\ \frac{s_r^2}{s_0^2},\
  \operatorname*{median}_{\text{main metrics}} \frac{s_r^2}{s_0^2}\Bigr).$$

$s_0^2$ is the median of all $s_r^2$, divided by that of equal errors of variance 1, or the mean of
all $s_r^2$, MSE, if smaller: a few objectives that scatter more than most do not widen all
intervals. A wild objective, whose standard deviation over seeds is more than ten times the typical
one (the lower median), is excluded from $s_0^2$ and from the seed means $\bar y_{\cdot s}$.

Two objectives differ significantly in a main metric where

$$|\bar y_i - \bar y_j| > c_{ij} \sqrt{(v_i + v_j) / n}.$$

There are two families of pairs, each with an error rate of 2.5 %. For the $m$ planned pairs, chosen
before any results, $c$ is Student's quantile with Bonferroni's correction for pairs and $K$ main
metrics. For all other pairs, of which the report marks those with the best objective, $c$ is a
quantile of Tukey's studentized range,

$$c_\text{planned} = t_{1 - 0.025 / 2mK;\,\nu_{ij}}, \qquad
  c_\text{others} = q_{1 - 0.025 / K;\,R,\,\nu_{ij}} / \sqrt 2.$$

The degrees of freedom are Satterthwaite's, as $s_0^2$ is known from many objectives, and an excess
$v_r - s_0^2$ from the $n$ seeds of one,

$$\nu_{ij} = \min\Bigl(\nu_0,\ \frac{(v_i + v_j)^2}{(2 s_0^2)^2 / \nu_0
  + \bigl((v_i - s_0^2)^2 + (v_j - s_0^2)^2\bigr) / (n - 1)}\Bigr), \qquad
  \nu_0 = (n - 1) \min\bigl(3,\ \max(1,\ \tfrac{R - 1}{2})\bigr).$$

The probability of any wrong verdict in a report is then about 5 % at most; if one family is empty,
the other has all 5 %. For two objectives this is the paired t-test. With equal errors $s_0^2$ would
have as many as $(R - 1)(n - 1)$ degrees of freedom: the smaller number allows for unequal errors,
and `benchmarks/coverage.py` measures for which errors this suffices.

The range of $R$ independent normal numbers, over a standard deviation $s$ that is estimated with
$\nu$ degrees of freedom, exceeds $q$ with probability

$$\int_0^\infty f_\nu(s)\,\bigl(1 - H(q s)\bigr)\,ds, \qquad
  H(w) = R \int \varphi(z)\,\bigl(\Phi(z) - \Phi(z - w)\bigr)^{R - 1}\,dz,$$

with $z$ the largest number. In $\ln s$ and in $z$ both integrands are analytic and vanish at either
end, where equally spaced sums converge exponentially: quantiles are right to 1e-8.

Agreement between the rankings of objectives by a quantity, such as the ELBO at a noise level, and
by a score is measured by Spearman's $\rho$ of means over seeds and over the objectives of a
weighting, which are not independent. The largest $\rho$ of many noise levels is tested by permuting
scores among weightings.

References:
    Student (1908), The probable error of a mean
    Satterthwaite (1946), An approximate distribution of estimates of variance components
    Tukey (1953), The problem of multiple comparisons
    Smyth (2004), Linear models and empirical Bayes methods: why variances are not each by itself
    Westfall & Young (1993), Resampling-Based Multiple Testing: the permutation of a maximum
    Efron & Tibshirani (1993), An Introduction to the Bootstrap
    Trefethen & Weideman (2014), The exponentially convergent trapezoidal rule
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.optimize import brentq
from scipy.special import gammaln, ndtr
from scipy.stats import chi2, rankdata
from scipy.stats import t as student

CONFIDENCE = 0.95
MIN_WEIGHTINGS = 6  # with 5, up to 16 % of bootstrap intervals missed in simulations
NUM_DRAWS = 2000
NUM_PERMUTATIONS = 5040  # every permutation of 7 weightings
_WILD = 10.0  # ratio of the standard deviation to the typical one
_MULTIPLES = np.array([1.0, 1.25, 1.5, 2.0, 2.5, 3.0])
_LARGEST = np.linspace(-9, 9, 145)
_DENSITY = np.exp(-np.square(_LARGEST) / 2) / math.sqrt(2 * math.pi) * np.ptp(_LARGEST[:2])
_MAX_LOG_QUANTILE = 20.0

Pair = tuple[int, int]


@dataclass(frozen=True)
class Differences:
    r"""Differences in one score between $R \ge 2$ objectives.

    Args:
        means: Mean $\bar y_r$ of each objective.
        half_widths: $c_{ij} \sqrt{(v_i + v_j) / n}$: a larger difference is significant.
        residual_std: $\sqrt{\mathrm{MSE}}$ of a score, without the common effects of seeds.
        is_wild: Objectives that scatter more than ten times as much over seeds as is typical.
        pairing: Ratio of the standard errors of a difference with independent seeds (estimated from
            the variance within objectives) and with shared seeds. At least $\sqrt{(R-1)/R}$, and
            1 on average if seeds have no common effect.
    """

    means: Float64[np.ndarray, " r"]
    half_widths: Float64[np.ndarray, "r r"]
    residual_std: float
    is_wild: Bool[np.ndarray, " r"]
    pairing: float

    @property
    def is_significant(self) -> Bool[np.ndarray, "r r"]:
        apart: Bool[np.ndarray, "r r"] = np.abs(self.means[:, None] - self.means) > self.half_widths
        return apart

    def best(self, is_lower_better: bool) -> int:
        """Return the index of the objective with the best mean score.

        A wild objective is the best only if it is significantly better than the best tame one.
        """
        costs = self.means if is_lower_better else -self.means
        tame = int(np.where(self.is_wild, np.inf, costs).argmin())
        is_eligible = ~self.is_wild | (self.is_significant[tame] & (costs < costs[tame]))
        return int(np.where(is_eligible, costs, np.inf).argmin())


def differences(
    scores: Float64[np.ndarray, "k r n"], planned: Sequence[Pair] = ()
) -> list["Differences | None"]:
    """Compute the differences between all pairs of objectives.

    The differences and their thresholds of significance are returned for each main metric. None for
    a metric of a single objective or seed, or without scatter.

    Args:
        scores: Scores by main metric, objective and seed.
        planned: Pairs chosen before any results were seen, as indices of objectives.

    Raises:
        ValueError: If some scores are not finite.
    """
    _require_finite(scores)
    num_scores, num_objectives, num_seeds = scores.shape
    if num_objectives < 2 or num_seeds < 2:
        return [None] * num_scores
    found = [_Scatter.from_scores(one) for one in scores]
    known = [scatter.variances / scatter.typical for scatter in found if scatter is not None]
    excess = np.median(known, 0) if known else np.ones(num_objectives)
    return [
        None
        if scatter is None
        else Differences(
            means=one.mean(1),
            half_widths=_half_widths(scatter, excess, num_scores, num_seeds, planned),
            residual_std=math.sqrt(scatter.mse),
            is_wild=scatter.is_wild,
            pairing=scatter.pairing,
        )
        for one, scatter in zip(scores, found, strict=True)
    ]


@dataclass(frozen=True)
class _Scatter:
    """Variances of one score over seeds.

    They are the mean square error, the typical variance $s_0^2$, and the variance $s_r^2$ of each
    objective.
    """

    mse: float
    typical: float
    variances: Float64[np.ndarray, " r"]
    is_wild: Bool[np.ndarray, " r"]
    pairing: float

    @classmethod
    def from_scores(cls, scores: Float64[np.ndarray, "r n"]) -> "_Scatter | None":
        num_objectives, num_seeds = scores.shape
        within, dof, std = scores - scores.mean(1)[:, None], num_seeds - 1, scores.std(1, ddof=1)
        is_wild = np.zeros(num_objectives, dtype=bool)
        if min(num_objectives, num_seeds) > 2:
            is_wild = std > _WILD * np.sort(std)[(num_objectives - 1) // 2]
        pool = within[~is_wild]
        residuals = within - pool.mean(0)
        rounding = np.finfo(np.float64).eps * scores.size * np.abs(scores).max()
        if np.abs(residuals[~is_wild]).max() <= rounding:
            return None
        variances = residuals.var(1, ddof=1)
        variances[~is_wild] *= len(pool) / (len(pool) - 1)
        mse = float(variances[~is_wild].mean())
        median = float(np.median(variances[~is_wild])) * dof / float(chi2.median(dof)) or mse
        pairing = math.sqrt(float(pool.var(1, ddof=1).mean()) / mse)
        return cls(mse, min(mse, median), variances, is_wild, pairing)


def _half_widths(
    scatter: _Scatter,
    excess: Float64[np.ndarray, " r"],
    num_scores: int,
    num_seeds: int,
    planned: Sequence[Pair],
) -> Float64[np.ndarray, "r r"]:
    num_objectives = len(excess)
    num_others = num_objectives * (num_objectives - 1) // 2 - len(planned)
    level = (1 - CONFIDENCE) / num_scores / (2 if planned and num_others else 1)
    own = scatter.variances / scatter.typical
    excess = np.maximum(np.maximum(own, excess), 1) - 1  # of v, in typical variances
    total = 2 + excess[:, None] + excess
    num_tame = int((~scatter.is_wild).sum())
    most = (num_seeds - 1) * float(np.clip((num_tame - 1) / 2, 1, 3))
    lone = (excess[:, None] ** 2 + excess**2) / (num_seeds - 1)
    dof = np.minimum(most, total**2 / (4 / most + lone))
    nodes = (num_seeds - 1) * _MULTIPLES  # quantiles are interpolated over degrees of freedom
    known = [math.log(range_quantile(level, num_objectives, float(node))) for node in nodes]
    critical = np.exp(np.interp(-1 / dof, -1 / nodes, known)) / math.sqrt(2)
    for i, j in planned:
        critical[i, j] = critical[j, i] = student.isf(level / (2 * len(planned)), dof[i, j])
    widths: Float64[np.ndarray, "r r"] = critical * np.sqrt(scatter.typical * total / num_seeds)
    return widths


@lru_cache
def range_quantile(level: float, num: int, dof: float) -> float:
    """Return an upper quantile of the studentized range of `num` normal numbers.

    The range exceeds the value with a given probability. The probability, `level`, is from 1e-5 to
    1/2, and there is at least one degree of freedom.
    """
    step = 0.4 / math.sqrt(dof + 4)  # a fraction of the width of the density of ln s
    log_s = np.arange(-30.0, 3.0, step)
    half = dof / 2
    log_f = math.log(2) + half * math.log(half) - gammaln(half) + dof * log_s
    log_f -= half * np.exp(2 * log_s)
    is_kept = log_f > -40
    s, mass = np.exp(log_s[is_kept]), step * np.exp(log_f[is_kept])

    def excess(log_q: float) -> float:
        below = ndtr(_LARGEST - math.exp(log_q) * s[:, None])
        within = num * (ndtr(_LARGEST) - below) ** (num - 1) @ _DENSITY
        return float(mass @ (1 - within)) - level

    return math.exp(brentq(excess, -_MAX_LOG_QUANTILE, _MAX_LOG_QUANTILE, xtol=1e-11))


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlations between $k$ quantities and a score.

    They are taken over weightings.

    Args:
        rho: The estimates; NaN if all weightings have the same mean of the quantity or the score.
        low, high: Ends of the pointwise 95 % intervals.
        p_value: Fraction of permutations of the scores among weightings whose largest correlation
            is at least as large as the observed one.
    """

    rho: Float64[np.ndarray, " k"]
    low: Float64[np.ndarray, " k"]
    high: Float64[np.ndarray, " k"]
    p_value: float


def rank_correlations(
    x: Float64[np.ndarray, "r n k"],
    y: Float64[np.ndarray, "r n"],
    weightings: Sequence[str],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> Correlation:
    """Return Spearman's rank correlations between $k$ quantities and a score.

    They are taken over weightings. Objectives with the same weighting are averaged. A bootstrap
    draw resamples weightings with replacement and, independently, seeds, which are the same for all
    objectives, quantities and scores. Draws without a rank correlation are excluded. The interval
    is from the 2.5th to the 97.5th percentile, extended to include the estimate: resampled seeds
    add noise to the means, so that draws lie closer to zero than a high estimate.

    Args:
        x: Quantities of each objective and seed.
        y: Score of each objective and seed, with the same direction as `x` (lower is better).
        weightings: Identifier of each objective's weighting.
        num_draws: Number of bootstrap draws. Default: interval ends vary by at most a tenth of the
            interval's width.
        seed: Seed of the bootstrap and of random permutations.

    Raises:
        ValueError: If some values are not finite, or there are fewer than 6 different weightings.
    """
    names = list(dict.fromkeys(weightings))
    if len(names) < MIN_WEIGHTINGS:
        raise ValueError(
            f"A rank correlation is of {MIN_WEIGHTINGS} weightings or more: there are {len(names)}."
        )
    _require_finite(x, y)
    members = [np.array([one == name for one in weightings]) for name in names]
    x = np.moveaxis(np.array([x[is_of].mean(0) for is_of in members]), 2, 0)
    y = np.array([y[is_of].mean(0) for is_of in members])[None]
    num, num_seeds = y.shape[1:]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(num, size=(num_draws, num))
    seeds = rng.integers(num_seeds, size=(num_draws, num_seeds))
    every_weighting, every_seed = np.arange(num)[None], np.arange(num_seeds)[None]
    rho = _spearman(x, y, every_weighting, every_seed)[:, 0]
    low, high = np.full((2, len(x)), math.nan)
    for i, draws in enumerate(_spearman(x, y, drawn, seeds)):
        if (known := draws[~np.isnan(draws)]).size:
            low[i], high[i] = np.quantile(known, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    ranks = [_ranks(values, every_weighting, every_seed)[:, 0] for values in (x, y)]
    p_value = _p_value_of_largest(ranks[0], ranks[1][0], rng)
    return Correlation(rho, np.minimum(rho, low), np.maximum(rho, high), p_value)


def _p_value_of_largest(
    x: Float64[np.ndarray, "k w"], y: Float64[np.ndarray, " w"], rng: np.random.Generator
) -> float:
    scale = np.linalg.norm(x, axis=1)
    if not y.any() or not scale.any():
        return math.nan
    if math.factorial(len(y)) <= NUM_PERMUTATIONS:
        orders = np.array(list(itertools.permutations(range(len(y)))))
    else:
        drawn = [rng.permutation(len(y)) for _ in range(NUM_PERMUTATIONS - 1)]
        orders = np.array([np.arange(len(y)), *drawn])
    known = x[scale > 0] / scale[scale > 0, None]
    largest = (known @ y[orders].T).max(0)
    return float((largest >= known.dot(y).max() - 1e-9).mean())


def _spearman(
    x: Float[np.ndarray, "k r n"],
    y: Float[np.ndarray, "1 r n"],
    drawn: Int[np.ndarray, "d r"],
    seeds: Int[np.ndarray, "d n"],
) -> Float64[np.ndarray, "k d"]:
    x, y = _ranks(x, drawn, seeds), _ranks(y, drawn, seeds)
    with np.errstate(invalid="ignore"):
        rho: Float64[np.ndarray, "k d"] = (x * y).sum(2) / np.sqrt(
            np.square(x).sum(2) * np.square(y).sum(2)
        )
    return rho


def _ranks(
    values: Float[np.ndarray, "k r n"],
    drawn: Int[np.ndarray, "d r"],
    seeds: Int[np.ndarray, "d n"],
) -> Float64[np.ndarray, "k d r"]:
    # seeds are added one by one: a weighting that is drawn twice has exactly the same sum twice
    sums = np.zeros((len(values), *drawn.shape))
    for seed in seeds.T:
        sums += values[:, drawn, seed[:, None]]
    ranks: Float64[np.ndarray, "k d r"] = rankdata(sums, axis=2) - (drawn.shape[1] + 1) / 2
    return ranks


def _require_finite(*values: Float[np.ndarray, "..."]) -> None:
    for each in values:
        num_bad = int((~np.isfinite(each)).sum())
        if num_bad:
            raise ValueError(f"{num_bad} of {each.size} scores are NaN or infinite.")
