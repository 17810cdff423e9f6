"""Sample-quality scores of a model, as frozen dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass

from elbos.evaluation.metrics import SAMPLE_METRICS, SampleMetric, Value, leading_distance


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Sample-quality scores of real held-out images, empty if these are too few."""

    split: str
    num: int
    scores: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class SamplingProtocol:
    """Settings with which samples were generated and scored.

    Attributes:
        reference: Split of the real images, `num_reference` in number; the kernel distance uses
            `num_kernel_reference`, precision and recall `num_precision_recall` on either side.
        num_evaluations: Network evaluations per sample.
        guidance: Guidance scale, 1 without guidance.
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
    num_samples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class SampleQuality:
    """Sample-quality scores of one model and of real images, by the metric's name."""

    protocol: SamplingProtocol
    scores: Mapping[str, Value]
    baseline: Baseline

    @property
    def metrics(self) -> list[SampleMetric]:
        """Metrics of sample quality that were computed for the samples.

        The primary distance is first.
        """
        num = min(self.protocol.num_samples, self.baseline.num)
        leading = leading_distance(num, self.protocol.num_features)
        measured = [metric for metric in SAMPLE_METRICS if metric.name in self.scores]
        return sorted(measured, key=lambda metric: metric is not leading)

    def real(self, metric: SampleMetric) -> Value | None:
        """Return the score of real images, if it can be compared with that of the samples.

        A metric that depends on the number of images needs as many test images as samples.
        """
        is_comparable = self.baseline.num >= self.protocol.num_samples
        if metric.depends_on_num and not is_comparable:
            return None
        return self.baseline.scores.get(metric.name)
