"""What runs are compared by."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SAMPLERS = {"ancestral": "ancestral", "heun": "Heun"}
_SCORES = {
    "frechet": ("frechet_distance", "Fréchet distance", "FD", True),
    "kernel": ("kernel_distance", "kernel distance", "KD", True),
    "precision": ("precision", "precision", "precision", False),
    "recall": ("recall", "recall", "recall", False),
}


@dataclass(frozen=True)
class Metric:
    """A column of the table.

    Args:
        key: Names it in a report.
        title: In words.
        short: As the head of a column.
        is_lower_better: Its direction.
        sampler: The sampler whose samples it is of, or None.
        name: What scores.json calls it.
    """

    key: str
    title: str
    short: str
    is_lower_better: bool
    sampler: str | None
    name: str

    def value(self, scores: Mapping[str, Any]) -> float | None:
        """Its value in a run's scores."""
        if self.sampler is None:
            return float(scores[self.name])
        samples = scores["samples"]
        return None if samples is None else samples[self.sampler][self.name]

    def floor(self, scores: Mapping[str, Any]) -> float | None:
        """The value of real images."""
        floor = scores["floor"]
        return None if self.sampler is None or floor is None else floor[self.name]


def _of_samples(score: str) -> list[Metric]:
    name, title, short, is_lower_better = _SCORES[score]
    return [
        Metric(f"{score}_{key}", f"{title}, {word}", f"{short}, {word}", is_lower_better, key, name)
        for key, word in SAMPLERS.items()
    ]


BITS = Metric("bits_per_dim", "bits/dim", "bits/dim", True, None, "bits_per_dim")
_DISTANCES = {score: _of_samples(score) for score in ("frechet", "kernel")}
METRICS = [
    *(*_DISTANCES["frechet"], BITS, *_DISTANCES["kernel"]),
    *(metric for score in ("precision", "recall") for metric in _of_samples(score)),
]
"""All of them."""


def main_metrics(scores: Mapping[str, Any]) -> list[Metric]:
    """The metrics that have verdicts: bits/dim and, for each sampler, one distance. The Fréchet
    distance of fewer samples than there are features is mostly bias: of those it is the kernel
    distance.

    Args:
        scores: Of a run.
    """
    num_samples, num_features = scores["num_compared"], scores["num_features"]
    is_few = num_samples is not None and num_features is not None and num_samples < num_features
    distances = _DISTANCES["kernel" if is_few else "frechet"]
    return [one for one in (*distances, BITS) if one.value(scores) is not None]
