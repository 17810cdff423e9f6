"""The metrics of a comparison: bits/dim, and the library's metrics of samples for each sampler."""

from dataclasses import dataclass

from elbos.comparison.scores import RunScores
from elbos.evaluation.metrics import BITS_PER_DIM, SAMPLE_METRICS, Metric, leading_distance
from elbos.evaluation.scores import Scores

_SAMPLERS = {"heun": "Heun", "ddim": "DDIM", "unipc": "UniPC"}  # titles of names


@dataclass(frozen=True)
class SamplerMetric:
    """A metric of the library, of the samples of one sampler or of none.

    Attributes:
        metric: The metric.
        sampler: The name of the sampler; None of a metric that takes no samples.
    """

    metric: Metric
    sampler: str | None = None

    @property
    def key(self) -> str:
        """Its name in a result."""
        name = self.metric.name
        return f"{name.removesuffix('_distance')}_{self.sampler}" if self.sampler else name

    def with_sampler(self, title: str) -> str:
        """A title of the metric, with the sampler's."""
        return f"{title}, {_SAMPLERS.get(self.sampler, self.sampler)}" if self.sampler else title

    def value(self, scores: RunScores) -> float | None:
        """Its value in a run's scores."""
        if self.sampler is None:
            return scores.bits_per_dim
        return _value(self.metric, (scores.samples or {}).get(self.sampler))

    def baseline(self, scores: RunScores) -> float | None:
        """The value of real images in place of samples."""
        if self.sampler is None or scores.baseline is None:
            return None
        return _value(self.metric, scores.baseline.scores)


def _value(metric: Metric, scores: Scores | None) -> float | None:
    found = scores and scores.values.get(metric.name)
    return found.value if found else None


def measured_metrics(scores: RunScores) -> tuple[list[SamplerMetric], list[SamplerMetric]]:
    """The metrics that have verdicts, bits/dim and one distance for each sampler, and all others
    that a run has.

    The Fréchet distance of fewer samples than there are features is mostly bias: of those it is
    the kernel distance.
    """
    bits = SamplerMetric(BITS_PER_DIM)
    if not scores.samples or scores.num_compared is None or scores.num_features is None:
        return [bits], []
    leading = leading_distance(scores.num_compared, scores.num_features)
    of_samples = [
        SamplerMetric(metric, sampler)
        for metric in SAMPLE_METRICS
        for sampler, known in scores.samples.items()
        if metric.name in known.values
    ]
    main = [one for one in of_samples if one.metric is leading]
    return [*main, bits], [one for one in of_samples if one.metric is not leading]
