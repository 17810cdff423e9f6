"""Results of a comparison: one tidy table of scores, and what follows from it.

Statistics, report page, Markdown, terminal and `Comparison.table` all read the same rows, which
report.json stores.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from elbos.base.codec import Stored
from elbos.base.extras import shown_by
from elbos.comparison.statistics import Differences, differences

Number = float | None
"""A number; None if it is missing or NaN."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Value of one metric for one trained model, and its standard error over images."""

    objective: str
    seed: int
    metric: str
    value: float
    error: Number = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Metric of a comparison: a main one has verdicts; the baseline is the value of real data."""

    key: str
    title: str
    short: str
    is_lower_better: bool
    is_main: bool
    baseline: Number


BITS_PER_DIM = Metric(
    key="bits_per_dim",
    title="bits/dim",
    short="bits/dim",
    is_lower_better=True,
    is_main=True,
    baseline=None,
)


def loss_key(weighting: str) -> str:
    """Return the metric's key of the loss under a weighting, given by its repr."""
    return f"loss under {weighting}"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Quantity as a function of the log-SNR, or of the number of training images."""

    x: tuple[float, ...]
    y: tuple[Number, ...]


@dataclass(frozen=True, kw_only=True)
class Failure:
    seed: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class ObjectiveResult:
    """Training objective, with curves averaged over its seeds.

    Attributes:
        parameterization, schedule, weighting: Components of the objective, as Python code.
        rising: Intervals of log-SNR in which the weighting increases.
        failures: Reasons for missing scores.
        w, p: Weighting and density of noise levels over log-SNR. The weighting has a maximum of 1.
            An adaptive density is that of the first seed at the end; None if unknown.
        elbo, loss: Negative ELBO of data noised to each log-SNR; the loss, which is its slope. Both
            are in nats/dim.
        learning: Validation ELBO in bits/dim over training images.
    """

    name: str
    parameterization: str
    schedule: str
    weighting: str
    rising: tuple[tuple[float, float], ...]
    failures: tuple[Failure, ...]
    w: Curve
    p: Curve | None
    elbo: Curve | None
    loss: Curve | None
    learning: Curve | None

    @property
    def is_monotone(self) -> bool:
        return not self.rising


@dataclass(frozen=True, kw_only=True)
class Score:
    """Scores of one objective in one metric, compared with the best objective.

    Attributes:
        values: The values by seed, with their mean and standard deviation.
        is_best_within_error: Whether the mean does not differ significantly from the best.
        is_unresolved: Whether the values scatter over seeds more than ten times as much as is
            typical, so that a difference from the best is undecided; excludes
            `is_best_within_error`.
        detectable: The smallest difference from the best that would be significant.
    """

    values: Mapping[int, float]
    is_best: bool = False
    is_best_within_error: bool = False
    is_unresolved: bool = False
    detectable: Number = None

    @property
    def mean(self) -> float:
        return float(np.mean([*self.values.values()]))

    @property
    def std(self) -> Number:
        return float(np.std([*self.values.values()], ddof=1)) if len(self.values) > 1 else None


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference of two objectives in one metric, `objective` minus `minus`, paired by seed.

    Attributes:
        metric: Key of the metric.
        mean: Difference of the means over seeds.
        low, high: Confidence interval; None without verdicts.
        is_unresolved: Whether the difference is not significant and either objective is erratic.
    """

    objective: str
    minus: str
    metric: str
    mean: float
    low: Number = None
    high: Number = None
    is_unresolved: bool = False

    @property
    def detectable(self) -> Number:
        """Half-width of the interval: a larger difference would be significant."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2

    @property
    def is_significant(self) -> bool | None:
        """Return whether the confidence interval excludes zero; None without an interval."""
        return None if self.detectable is None else abs(self.mean) > self.detectable

    def verdict(self, metric: Metric) -> Literal["better", "worse", "same", "unresolved"] | None:
        """Judge the objective against the other one; None without an interval."""
        if self.is_significant is None:
            return None
        if self.is_significant:
            return "better" if (self.mean < 0) == metric.is_lower_better else "worse"
        return "unresolved" if self.is_unresolved else "same"


class Pair(NamedTuple):
    """Names of two objectives that differ only in the weighting: monotone in one, not the other."""

    monotone: str
    non_monotone: str


@dataclass(frozen=True, kw_only=True)
class Comparison(Stored):
    """Results of a comparison of training objectives.

    Attributes:
        name: The comparison's directory.
        command: The command line; None from Python.
        num_test_images: Test images whose ELBO was measured.
        num_samples: Samples generated per run and sampler; None for points.
        num_baseline: Test images in the real-data baseline.
        num_images: Images seen by each run.
        metrics: All metrics, with the main ones, which have verdicts, first.
        rows: The scores of all models; a metric not in `metrics` is the loss under a weighting.
        protocol: Settings of training and scoring that all models share, in words.
        num_levels: $K$ of discrete data.
        long_warmup: Warning about a warm-up that takes a large part of the training.
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("differences",)

    name: str
    command: str | None = None
    data: str | None
    num_test_images: int | None
    num_samples: int | None
    num_baseline: int | None
    num_images: int
    num_parameters: int | None
    seeds: tuple[int, ...]
    logsnr_min: float
    logsnr_max: float
    metrics: tuple[Metric, ...]
    objectives: tuple[ObjectiveResult, ...]
    rows: tuple[Row, ...]
    protocol: Mapping[str, str]
    num_levels: int | None = None
    long_warmup: str | None = None

    def __repr__(self) -> str:
        return (
            f"Comparison({self.name!r}, {len(self.objectives)} objectives, {len(self.seeds)} seeds)"
        )

    @property
    def main_metrics(self) -> tuple[Metric, ...]:
        """Metrics in which differences between objectives are tested for significance."""
        return tuple(metric for metric in self.metrics if metric.is_main)

    @property
    def complete(self) -> tuple[ObjectiveResult, ...]:
        """Objectives that have scores for all seeds; only these are compared."""
        return tuple(o for o in self.objectives if self.num_scored(o) == len(self.seeds))

    def num_scored(self, objective: ObjectiveResult) -> int:
        """Return the number of seeds for which an objective has scores."""
        scored = {row.seed for row in self.rows if row.objective == objective.name}
        return len(scored & {*self.seeds})

    @cached_property
    def values(self) -> Mapping[str, Mapping[str, Mapping[int, float]]]:
        """Values by objective, metric and seed."""
        values: dict[str, dict[str, dict[int, float]]] = {o.name: {} for o in self.objectives}
        for row in self.rows:
            values[row.objective].setdefault(row.metric, {})[row.seed] = row.value
        return values

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Planned comparisons, chosen by the objectives and not by their scores."""
        return tuple(
            Pair(monotone.name, rising.name)
            for rising in self.complete
            for monotone in self.complete
            if monotone.is_monotone
            and not rising.is_monotone
            and monotone.parameterization == rising.parameterization
            and monotone.schedule == rising.schedule
        )

    @cached_property
    def statistics(self) -> Mapping[str, Differences]:
        """Differences between the complete objectives, by main metric that has verdicts."""
        order = {o.name: i for i, o in enumerate(self.complete)}
        scores = [
            [[self.values[name][metric.key][seed] for seed in self.seeds] for name in order]
            for metric in self.main_metrics
        ]
        if not order or not scores:
            return {}
        planned = [(order[pair.monotone], order[pair.non_monotone]) for pair in self.pairs]
        tested = differences(np.array(scores), planned)
        return {m.key: d for m, d in zip(self.main_metrics, tested, strict=True) if d is not None}

    @cached_property
    def scores(self) -> Mapping[str, Mapping[str, Score]]:
        """Scores by objective and metric."""
        return {
            name: {m.key: self._score(name, m) for m in self.metrics if m.key in by_metric}
            for name, by_metric in self.values.items()
        }

    def _score(self, name: str, metric: Metric) -> Score:
        values, names = self.values[name][metric.key], [o.name for o in self.complete]
        tested = self.statistics.get(metric.key)
        if tested is None or name not in names:
            return Score(values=values)
        i, best = names.index(name), tested.best(metric.is_lower_better)
        is_near = not tested.is_significant[best, i]
        is_unresolved = bool(is_near and tested.is_wild[i] and i != best)
        return Score(
            values=values,
            is_best=i == best,
            is_best_within_error=bool(is_near and not is_unresolved),
            is_unresolved=is_unresolved,
            detectable=None if i == best else float(tested.half_widths[best, i]),
        )

    @cached_property
    def differences(self) -> tuple[Difference, ...]:
        """Each complete objective minus the first one, in every main metric."""
        pairs = [(other.name, self.complete[0].name) for other in self.complete[1:]]
        return tuple(self.difference(*pair, m) for pair in pairs for m in self.main_metrics)

    def difference(self, objective: str, minus: str, metric: Metric) -> Difference:
        """Estimate the difference of two complete objectives in one metric, paired by seed."""
        first, second = (self.scores[name][metric.key].mean for name in (objective, minus))
        mean, reach, is_unresolved = first - second, None, False
        if (tested := self.statistics.get(metric.key)) is not None:
            names = [o.name for o in self.complete]
            i, j = names.index(objective), names.index(minus)
            reach = float(tested.half_widths[i, j])
            is_unresolved = bool(tested.is_wild[[i, j]].any() and not tested.is_significant[i, j])
        return Difference(
            objective=objective,
            minus=minus,
            metric=metric.key,
            mean=mean,
            low=None if reach is None else mean - reach,
            high=None if reach is None else mean + reach,
            is_unresolved=is_unresolved,
        )

    def table(self) -> Any:
        """Return the tidy table: a row for each objective, seed and metric, with value and error.

        It is a pandas DataFrame if pandas is installed, else a list of dictionaries.
        """
        records = [vars(row) for row in self.rows]
        try:
            import pandas
        except ImportError:
            return records
        return pandas.DataFrame(records)

    def _repr_markdown_(self) -> str:
        text: str = shown_by(self, "tables").results_table(self).markdown()
        return text

    def to_markdown(self) -> str:
        text: str = shown_by(self).page(self, {}).markdown()
        return text

    def to_html(self, path: str | Path, samples: Mapping[str, bytes] | None = None) -> None:
        """Write the comparison as a self-contained HTML page, with sample images by objective.

        Raises:
            OSError: If the page cannot be written.
        """
        shown_by(self).page(self, samples or {}).write_html(path)
