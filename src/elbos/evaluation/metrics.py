"""Metrics of sample quality, by which models are compared.

A metric is a function of the features of samples and of real images, with an entry in
`SAMPLE_METRICS`. Evaluations of this process include it in their files, tables and pages. The runs
of a comparison are scored in other processes, by the metrics of this file. To add a metric:

    SAMPLE_METRICS.append(SampleMetric("my_metric", "my metric", "mine", False, compute=function))
"""

from collections.abc import Callable
from dataclasses import dataclass

from elbos.evaluation.estimators import (
    Statistics,
    frechet_distance,
    inception_score,
    kernel_distance,
)
from elbos.evaluation.features import Features
from elbos.evaluation.reference import Reference

MIN_IMAGES = 20
"""The smallest number of images that can be scored: two per split of the Inception score."""


@dataclass(frozen=True)
class Value:
    """Value of a metric, and its standard error over images; None if unknown."""

    value: float
    standard_error: float | None = None


@dataclass(frozen=True)
class FeatureSets:
    """Features of generated samples, in random order, and of real images, by one extractor."""

    samples: Features
    reference: Reference
    is_inception: bool

    def inception_score(self) -> Value | None:
        """Return the Inception score of the samples; None without class logits."""
        if self.samples.logits is None:
            return None
        return Value(inception_score(self.samples.logits))


@dataclass(frozen=True)
class SampleMetric:
    """Metric of sample quality computed from features of images.

    Attributes:
        name: Name in files; `title` and `short` are those in texts and tables.
        compute: Function that returns the value; None if the features do not allow it.
        depends_on_num: Whether the expected value depends on the number of samples, so that only
            sets of equal size are comparable.
    """

    name: str
    title: str
    short: str
    is_lower_better: bool
    compute: Callable[[FeatureSets], Value | None]
    depends_on_num: bool = True


FRECHET_DISTANCE = SampleMetric(
    "frechet_distance",
    "Fréchet distance",
    "FD",
    is_lower_better=True,
    compute=lambda sets: Value(
        frechet_distance(sets.reference.statistics, Statistics.from_features(sets.samples.pooled))
    ),
)
KERNEL_DISTANCE = SampleMetric(
    "kernel_distance",
    "kernel distance",
    "KD",
    is_lower_better=True,
    compute=lambda sets: Value(
        *kernel_distance(
            sets.samples.pooled, sets.reference.rows, reference_kernel=sets.reference.kernel
        )
    ),
    depends_on_num=False,
)
SAMPLE_METRICS: list[SampleMetric] = [
    FRECHET_DISTANCE,
    KERNEL_DISTANCE,
    SampleMetric(
        "inception_score",
        "Inception score",
        "IS",
        is_lower_better=False,
        compute=lambda sets: sets.inception_score() if sets.is_inception else None,
    ),
    SampleMetric(
        "classifier_score",
        "classifier score",
        "CS",
        is_lower_better=False,
        compute=lambda sets: None if sets.is_inception else sets.inception_score(),
    ),
]
"""All metrics of samples, in the order of table columns; users may append metrics."""


def leading_distance(num_samples: int, num_features: int) -> SampleMetric:
    """Return the Fréchet distance, or the kernel distance of fewer samples than features."""
    return KERNEL_DISTANCE if num_samples < num_features else FRECHET_DISTANCE


def scores(sets: FeatureSets) -> dict[str, Value]:
    values = {metric.name: metric.compute(sets) for metric in SAMPLE_METRICS}
    return {name: value for name, value in values.items() if value is not None}
