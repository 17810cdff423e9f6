"""Results of a comparison as frozen dataclasses, which are stored in report.json."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from elbos.base.pages import shown_by
from elbos.base.records import from_json, require_format, to_json
from elbos.comparison.objective_result import Known, Metric, ObjectiveResult

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FORMAT = 1  # version of report.json


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference between two objectives in one metric.

    Attributes:
        mean: Difference of the means over seeds, monotone minus non-monotone.
        low, high: Confidence interval of the difference; None without verdicts.
        detectable: Half-width of the interval: a larger difference would be significant.
        is_unresolved: Whether the difference is not significant and either objective is erratic.
    """

    mean: float
    low: Known = None
    high: Known = None
    detectable: Known = None
    is_unresolved: bool = False

    @property
    def is_significant(self) -> bool | None:
        """Return whether the confidence interval of the difference excludes zero.

        None without an interval.
        """
        if self.low is None or self.high is None:
            return None
        return not self.low <= 0 <= self.high

    def verdict(self, metric: Metric) -> Literal["better", "worse", "same", "unresolved"] | None:
        """Judge whether the monotone weighting scores better than the non-monotone one.

        It is "better", "worse", "same" or "unresolved"; None without a confidence interval.
        """
        if self.is_significant is None:
            return None
        if self.is_significant:
            return "better" if (self.mean < 0) == metric.is_lower_better else "worse"
        return "unresolved" if self.is_unresolved else "same"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two training objectives that differ only in the weighting.

    The weighting is monotone in one and non-monotone in the other.
    """

    monotone: str
    non_monotone: str
    differences: Mapping[str, Difference]


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of one metric over all objectives.

    Attributes:
        residual_std: Standard deviation of a score after removing the common effect of each seed.
        detectable: The smallest significant difference from the best objective, median over the
            other objectives.
        erratic: Objectives that scatter more than ten times as much over seeds as is typical.
        pairing: Ratio of the standard errors of a difference without and with shared seeds.
    """

    num_objectives: int = field(metadata={"json": "num_rows"})
    num_seeds: int
    residual_std: float
    detectable: float
    erratic: tuple[str, ...]
    pairing: float


@dataclass(frozen=True, kw_only=True)
class TestedWeighting:
    """Weighting under which all models are tested.

    The objectives that were trained with it are named.
    """

    name: str
    objectives: tuple[str, ...] = field(metadata={"json": "rows"})


@dataclass(frozen=True, kw_only=True)
class Losses:
    """Relative test losses of every model under every weighting.

    Losses are divided by the lowest loss under the same weighting.
    """

    objectives: tuple[str, ...] = field(metadata={"json": "rows"})
    weightings: tuple[TestedWeighting, ...]
    relative: tuple[tuple[Known, ...], ...]


@dataclass(frozen=True, kw_only=True)
class RankCorrelation:
    """Spearman's rank correlations of several quantities with one metric.

    Confidence intervals are at 95 %. The p-value is that of the largest correlation, by
    permutation; None if unknown.
    """

    rho: tuple[Known, ...]
    low: tuple[Known, ...]
    high: tuple[Known, ...]
    p_value: Known = None


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Rank correlations of ELBOs and weighted losses with the main metrics.

    They are over the objectives with monotone weightings.

    Attributes:
        objectives: The monotone objectives; objectives with the same weighting are averaged.
        by_level: By metric, the correlation of the ELBO at each noise level.
        by_weighting: By metric, the correlation of the loss under each weighting.
    """

    objectives: tuple[str, ...]
    weightings: tuple[str, ...]
    num_seeds: int
    logsnr: tuple[float, ...]
    by_level: Mapping[str, RankCorrelation]
    by_weighting: Mapping[str, RankCorrelation]


@dataclass(frozen=True, kw_only=True)
class SamplerProtocol:
    """Settings of one sampler in a comparison."""

    sampler: str
    grid: str
    num_steps: int
    num_evaluations: int


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Settings of training and scoring that all models of a comparison share.

    Attributes:
        network, optimizer: Network and optimizer, as Python code.
        clipped: For each objective, the share of steps with clipped gradients, mean over seeds.
        condition: The condition of the network in the likelihood measurement.
        samplers: Samplers by name; empty for points.
        features: Name of the feature extractor; None for points.
        long_warmup: Warning about a warm-up that takes a large part of the training.
        num_levels: $K$ of discrete data.
    """

    batch_size: int
    network: str
    optimizer: str
    precision: str
    clipped: Mapping[str, float]
    condition: str | None
    samplers: Mapping[str, SamplerProtocol]
    features: str | None
    hardware: tuple[str, ...]
    versions: tuple[str, ...]
    long_warmup: str | None = None
    num_levels: int | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Results of a comparison of training objectives.

    Attributes:
        name: The comparison's directory.
        command: The command line; None from Python.
        data: Name of the dataset.
        num_test_images: Test images whose ELBO was measured.
        num_samples: Samples generated per run and sampler; None for points.
        num_compared: Samples used in metrics that depend on the number of samples.
        num_baseline: Test images in the real-data baseline.
        num_images: Images seen by each run.
        logsnr_min, logsnr_max: Ends of all schedules.
        metrics: All metrics, with the main ones, which have verdicts, first.
        objectives: Results of the objectives, in the given order.
        statistics: Statistics by metric; None for metrics without verdicts.
        pairs: Planned comparisons, chosen by the objectives and not by their scores.
        losses: Loss of every model under every weighting.
        ranking: Rank correlations; None for fewer than six monotone weightings.
        remarks: Remarks on these results, added by hand.
    """

    name: str
    command: str | None = None
    data: str | None
    num_test_images: int | None
    num_samples: int | None
    num_compared: int | None = None
    num_features: int | None = None
    num_baseline: int | None = field(metadata={"json": "num_floor"})
    num_images: int
    num_parameters: int | None
    seeds: tuple[int, ...]
    logsnr_min: float
    logsnr_max: float
    metrics: tuple[Metric, ...]
    objectives: tuple[ObjectiveResult, ...] = field(metadata={"json": "rows"})
    statistics: Mapping[str, Statistics | None]
    pairs: tuple[Pair, ...]
    losses: Losses | None
    ranking: Ranking | None
    protocol: Protocol | None
    remarks: tuple[str, ...] = ()

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
        """Objectives that have scores for all seeds.

        Only these are compared.
        """
        return tuple(one for one in self.objectives if one.is_complete)

    @property
    def erratic(self) -> dict[str, tuple[str, ...]]:
        return {key: one.erratic for key, one in self.statistics.items() if one and one.erratic}

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as JSON values for report.json."""
        return {"format": FORMAT, **to_json(self)}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Comparison":
        """Restore a comparison from the JSON values of a report.json.

        Raises:
            ValueError: If the content is not a comparison of this version.
        """
        try:
            require_format(value, FORMAT)
            found: Comparison = from_json(cls, value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"This is not a report of this version ({error}): compare again, from the scores."
            ) from error
        return found

    def table(self) -> Any:
        """Return a table of the scores of all objectives.

        It has mean and standard deviation over seeds, with a column per metric. Returns a pandas
        DataFrame if pandas is installed, else a list of dictionaries.
        """
        records = [
            {
                "objective": one.name,
                "is_monotone": one.is_monotone,
                **{key: score.mean for key, score in one.scores.items()},
                **{f"{key}_std": score.std for key, score in one.scores.items()},
            }
            for one in self.objectives
        ]
        try:
            import pandas
        except ImportError:
            return records
        return pandas.DataFrame(records).set_index("objective")

    def plot(self) -> "Figure | None":
        """Return a figure of ELBO and loss over log-SNR.

        The ELBO is that of noisy data; None without scores.
        """
        figure: Figure | None = shown_by(self, "figures").levels_figure(self)
        return figure

    def _repr_html_(self) -> str:
        html: str = shown_by(self, "tables").results_table(self).html()
        return html

    def to_markdown(self) -> str:
        text: str = shown_by(self).markdown(self)
        return text

    def to_html(self, path: str | Path, samples: Mapping[str, bytes] | None = None) -> None:
        """Write the report of the comparison as a self-contained HTML page.

        Sample images of each objective are optional.

        Raises:
            OSError: If the page cannot be written.
        """
        shown_by(self).write_page(self, Path(path), samples or {})
