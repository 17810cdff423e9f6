"""Results of one training objective: scores, and curves over noise levels and over the training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Known = float | None
"""A number; None if it is missing or NaN."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weighting and noise-level density as functions of the log-SNR.

    The weighting is scaled to a maximum of 1. An adaptive density is that of the first seed; None
    if unknown.
    """

    logsnr: tuple[float, ...]
    w: tuple[Known, ...]
    p: tuple[Known, ...] | None


@dataclass(frozen=True, kw_only=True)
class LevelCurve:
    """Mean over seeds of a quantity as a function of log-SNR.

    Values are in nats per dimension.
    """

    logsnr: tuple[float, ...]
    nats_per_dim: tuple[Known, ...]


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Validation ELBO over the number of training images.

    Values are in bits per dimension, averaged over seeds.
    """

    images: tuple[float, ...]
    bits_per_dim: tuple[Known, ...]


@dataclass(frozen=True, kw_only=True)
class Density:
    """Density of an adaptive noise schedule at one stage of the training.

    It is given in equal bins of log-SNR.
    """

    images: float
    p: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """Metric for comparing training objectives.

    It includes the value of real data. Differences in a main metric have verdicts.
    """

    key: str
    title: str
    short: str
    is_lower_better: bool
    is_main: bool
    baseline: Known = field(metadata={"json": "floor"})


def metric_key(metric: str, sampler: str) -> str:
    """Return the key of a metric of samples, such as "frechet_heun" for the sampler "heun"."""
    return f"{metric.removesuffix('_distance')}_{sampler}"


@dataclass(frozen=True, kw_only=True)
class Score:
    """Values of one metric for one objective over all seeds.

    They are compared with the best objective.

    Attributes:
        values: The known values by seed, with their mean and standard deviation.
        is_best: Whether this objective has the best mean.
        is_best_within_error: Whether the mean does not differ significantly from the best.
        is_unresolved: Whether the values scatter over seeds more than ten times as much as is
            typical, so that a difference from the best is undecided; excludes
            `is_best_within_error`.
        detectable: The smallest difference from the best that would be significant.
    """

    values: Mapping[int, float]
    mean: Known
    std: Known
    is_best: bool
    is_best_within_error: bool
    is_unresolved: bool
    detectable: Known


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Failure to train or score a model with one seed.

    The reason is one line. It is final if another attempt would fail again, for example with a
    non-finite loss.
    """

    seed: int
    reason: str
    is_final: bool


@dataclass(frozen=True, kw_only=True)
class ObjectiveResult:
    """Results of one training objective.

    Attributes:
        name: Name of the objective.
        parameterization, schedule, weighting: Components of the objective, as Python code.
        is_monotone: Whether the weighting never increases with log-SNR between the ends.
        rising: Intervals of log-SNR in which the weighting increases.
        status: "complete", "incomplete" or "failed": all, some or no seeds have scores.
        failures: Reasons for the missing scores.
        elbo, curve: Negative ELBO of data noised to each log-SNR; the loss, which is its slope.
        density: Evolution of an adaptive density; None for fixed schedules.
    """

    name: str
    parameterization: str
    schedule: str
    weighting: str
    is_monotone: bool
    rising: tuple[tuple[float, float], ...]
    status: Literal["complete", "incomplete", "failed"]
    failures: tuple[Failure, ...]
    scores: Mapping[str, Score]
    weights: Weights | None
    elbo: LevelCurve | None
    curve: LevelCurve | None
    learning: LearningCurve | None
    density: tuple[Density, ...] | None

    @property
    def is_complete(self) -> bool:
        return self.status == "complete"

    @property
    def has_curves(self) -> bool:
        return bool(self.learning or self.elbo or self.curve)
