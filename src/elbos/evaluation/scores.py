"""Sample-quality scores of a model, as frozen dataclasses."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from elbos.base.records import from_json
from elbos.evaluation.metrics import (
    SAMPLE_METRICS,
    UNKNOWN,
    SampleMetric,
    Value,
    leading_distance,
)

_FLAT = {"is_flat": True}  # fields without nesting in JSON, see `records`


def _scores_as_json(values: Mapping[str, Value]) -> dict[str, float | None]:
    found: dict[str, float | None] = {metric.name: None for metric in SAMPLE_METRICS}
    for name, one in values.items():
        found[name] = one.value
        found |= {} if one.standard_error is None else {f"{name}_se": one.standard_error}
    return found


def _scores_from_json(data: Mapping[str, Any]) -> dict[str, Value]:
    """Return all scores in JSON values, also of metrics that are not registered here.

    Scores may be merged into the other entries of a set of images, which are left out.
    """
    registered = {metric.name for metric in SAMPLE_METRICS}
    others = {f.name for kind in (SampleSet, Baseline, SamplingProtocol) for f in fields(kind)}
    numbers = {name for name, value in data.items() if type(value) in (int, float)} - others
    return {
        name: Value(from_json(float, value), from_json(float | None, data.get(f"{name}_se")))
        for name, value in data.items()
        if value is not None and name in registered | numbers and not name.endswith("_se")
    }


@dataclass(frozen=True)
class Scores:
    """Sample-quality scores of one set of images, keyed by metric name."""

    values: Mapping[str, Value] = field(
        metadata={**_FLAT, "encode": _scores_as_json, "decode": _scores_from_json}
    )

    def __getitem__(self, metric: SampleMetric) -> Value:
        return self.values.get(metric.name, UNKNOWN)


@dataclass(frozen=True, kw_only=True)
class SampleSet:
    seed: int
    scores: Scores = field(metadata=_FLAT)


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Sample-quality scores of real held-out images.

    They are a baseline for samples; empty if there are too few images.
    """

    split: str
    num: int
    scores: Scores = field(metadata=_FLAT)


@dataclass(frozen=True, kw_only=True)
class SampleSets:
    """Sample-quality scores of sample sets drawn with different seeds.

    Each set has `num` samples; mean and standard deviation are over seeds.
    """

    num: int
    sets: tuple[SampleSet, ...]
    mean: Mapping[str, float]
    std: Mapping[str, float] | None

    @classmethod
    def from_scores(cls, num: int, scores: Mapping[int, Scores]) -> "SampleSets":
        """Combine the scores of several seeds into mean and standard deviation.

        For one seed, the standard deviation is None.
        """
        names = next(iter(scores.values())).values
        values = {name: [one.values[name].value for one in scores.values()] for name in names}
        return cls(
            num=num,
            sets=tuple(SampleSet(seed=seed, scores=one) for seed, one in scores.items()),
            mean={name: statistics.fmean(found) for name, found in values.items()},
            std={name: statistics.stdev(found) for name, found in values.items()}
            if len(scores) > 1
            else None,
        )

    def __getitem__(self, metric: SampleMetric) -> Value:
        """Return the mean and the standard deviation of a metric over seeds.

        For one seed, the value and its standard error.
        """
        if self.std is None:
            return self.sets[0].scores[metric]
        return Value(self.mean.get(metric.name, math.nan), self.std.get(metric.name))


@dataclass(frozen=True, kw_only=True)
class SamplingProtocol:
    """Settings with which samples were generated and scored.

    Attributes:
        reference: Split of the real images, `num_reference` in number; the kernel distance uses
            `num_kernel_reference`, precision and recall `num_precision_recall` on either side.
        num_evaluations: Network evaluations per sample.
        guidance: Guidance scale, 1 without guidance; applied at log-SNRs in `guidance_logsnr`.
        num_samples: Number of samples in a set, one set per seed.
    """

    extractor: str
    reference: str
    num_reference: int
    num_features: int
    num_kernel_reference: int
    num_precision_recall: int
    sampler: str
    sampler_label: str
    grid: str
    grid_label: str
    num_steps: int
    num_evaluations: int
    guidance: float
    guidance_logsnr: tuple[float, ...] | None
    num_samples: int
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class SampleQuality:
    """Sample-quality scores of one model and of real images.

    `matched` scores as many samples as the baseline has images; None if these are not fewer.
    """

    protocol: SamplingProtocol
    samples: SampleSets = field(metadata=_FLAT)
    matched: SampleSets | None
    baseline: Baseline

    def comparable(self, metric: SampleMetric) -> SampleSets:
        """Return the sample scores to compare with the scores of real images.

        For a metric that depends on sample size, they are of as many samples as there are real
        images, otherwise of all.
        """
        return self.matched if self.matched and metric.depends_on_num else self.samples

    @property
    def metrics(self) -> list[SampleMetric]:
        """Metrics of sample quality that were computed for the samples.

        The primary distance is first.
        """
        leading = leading_distance((self.matched or self.samples).num, self.protocol.num_features)
        known = [m for m in SAMPLE_METRICS if m.name in self.samples.sets[0].scores.values]
        return sorted(known, key=lambda metric: metric is not leading)


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    protocol: SamplingProtocol = field(metadata=_FLAT)
    scores: Scores = field(metadata=_FLAT)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Sample-quality scores for several sampler settings.

    They are by sampler, noise-level grid and number of network evaluations; `best` has the lowest
    Fréchet distance.
    """

    points: tuple[SweepPoint, ...]
    num_samples: int
    seed: int
    baseline: Baseline
    best: SweepPoint
