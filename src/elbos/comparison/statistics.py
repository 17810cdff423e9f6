r"""Significance of differences between objectives.

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

References:
    Student (1908), The probable error of a mean
    Satterthwaite (1946), An approximate distribution of estimates of variance components
    Tukey (1953), The problem of multiple comparisons
    Smyth (2004), Linear models and empirical Bayes methods: why variances are not each by itself
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy
from jaxtyping import Bool, Float64

CONFIDENCE = 0.95
_WILD = 10.0  # ratio of the standard deviation to the typical one
_MULTIPLES = np.array([1.0, 1.25, 1.5, 2.0, 2.5, 3.0])

Pair = tuple[int, int]


@cache
def _range_quantile(level: float, num: int, dof: float) -> float:  # takes a second for some
    return float(scipy.stats.studentized_range.isf(level, num, dof))


@dataclass(frozen=True)
class Differences:
    r"""Differences in one score between $R \ge 2$ objectives.

    Args:
        means: Mean $\bar y_r$ of each objective.
        half_widths: $c_{ij} \sqrt{(v_i + v_j) / n}$: a larger difference is significant.
        residual_std: $\sqrt{\mathrm{MSE}}$ of a score, without the common effects of seeds.
        is_wild: Objectives that scatter more than ten times as much over seeds as is typical.
    """

    means: Float64[np.ndarray, " r"]
    half_widths: Float64[np.ndarray, "r r"]
    residual_std: float
    is_wild: Bool[np.ndarray, " r"]

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
    """Compute the differences between all pairs of objectives in each main metric.

    None for a metric of a single objective or seed, or without scatter.

    Args:
        scores: Scores by main metric, objective and seed.
        planned: Pairs chosen before any results were seen, as indices of objectives.

    Raises:
        ValueError: If some scores are not finite.
    """
    if num_bad := int((~np.isfinite(scores)).sum()):
        raise ValueError(f"{num_bad} of {scores.size} scores are NaN or infinite.")
    num_scores, num_objectives, num_seeds = scores.shape
    if num_objectives < 2 or num_seeds < 2:
        return [None] * num_scores
    scatters = [_Scatter.from_scores(metric) for metric in scores]
    ratios = [scatter.variances / scatter.typical for scatter in scatters if scatter is not None]
    excess = np.median(ratios, 0) if ratios else np.ones(num_objectives)
    return [
        None
        if scatter is None
        else Differences(
            means=metric.mean(1),
            half_widths=_half_widths(scatter, excess, num_scores, num_seeds, planned),
            residual_std=math.sqrt(scatter.mse),
            is_wild=scatter.is_wild,
        )
        for metric, scatter in zip(scores, scatters, strict=True)
    ]


@dataclass(frozen=True)
class _Scatter:
    """MSE, typical variance $s_0^2$ and variances $s_r^2$ of one score over seeds."""

    mse: float
    typical: float
    variances: Float64[np.ndarray, " r"]
    is_wild: Bool[np.ndarray, " r"]

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
        of_chance = float(scipy.stats.chi2.median(dof))
        median = float(np.median(variances[~is_wild])) * dof / of_chance or mse
        return cls(mse, min(mse, median), variances, is_wild)


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
    ratios = np.maximum(scatter.variances / scatter.typical, excess)
    excess = np.maximum(ratios, 1) - 1  # excess of v, in typical variances
    total = 2 + excess[:, None] + excess
    num_tame = int((~scatter.is_wild).sum())
    most = (num_seeds - 1) * float(np.clip((num_tame - 1) / 2, 1, 3))
    lone = (excess[:, None] ** 2 + excess**2) / (num_seeds - 1)
    dof = np.minimum(most, total**2 / (4 / most + lone))
    nodes = (num_seeds - 1) * _MULTIPLES  # quantiles are interpolated over degrees of freedom
    quantiles = np.log([_range_quantile(level, num_objectives, node) for node in nodes.tolist()])
    critical = np.exp(np.interp(-1 / dof, -1 / nodes, quantiles)) / math.sqrt(2)
    for i, j in planned:
        critical[i, j] = critical[j, i] = scipy.stats.t.isf(level / (2 * len(planned)), dof[i, j])
    widths: Float64[np.ndarray, "r r"] = critical * np.sqrt(scatter.typical * total / num_seeds)
    return widths
