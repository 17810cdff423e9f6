"""Results of one objective: scores, and curves over noise levels and training."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Known = float | None
"""A number; None if it is missing or NaN."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weighting and training density of noise levels, tabulated over log-SNR.

    Attributes:
        logsnr: The grid.
        w: The weighting, over its maximum.
        p: The density trained on, of the first seed where it adapts; None if not known.
    """

    logsnr: tuple[float, ...]
    w: tuple[Known, ...]
    p: tuple[Known, ...] | None


@dataclass(frozen=True, kw_only=True)
class LevelCurve:
    """A curve in nats per dimension over log-SNR, averaged over seeds."""

    logsnr: tuple[float, ...]
    nats_per_dim: tuple[Known, ...]


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Validation ELBO in bits per dimension over images seen, averaged over seeds."""

    images: tuple[float, ...]
    bits_per_dim: tuple[Known, ...]


@dataclass(frozen=True, kw_only=True)
class Density:
    """Density of an adaptive schedule at one training stage, in equal bins of log-SNR."""

    images: float
    p: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A metric by which objectives are compared, with its names, direction and baseline.

    Attributes:
        key: Its name in `ObjectiveResult.scores`.
        title: In words.
        short: As the head of a column.
        is_lower_better: Its direction.
        is_main: Whether its differences have verdicts.
        baseline: Its value for test images in place of samples; None if it is missing.
    """

    key: str
    title: str
    short: str
    is_lower_better: bool
    is_main: bool
    baseline: Known = field(metadata={"json": "floor"})


@dataclass(frozen=True, kw_only=True)
class Score:
    """Values of one metric for one objective, and the comparison with the best objective.

    Attributes:
        values: By seed, as far as there are any.
        mean: Their mean; None of none.
        std: Their standard deviation; None of less than two.
        is_best: Whether it is the best mean.
        is_best_within_error: Whether it does not differ significantly from the best.
        is_unresolved: Whether that is because it scatters more than ten times as much over seeds
            as is typical: then it is not `is_best_within_error`.
        detectable: The difference from the best that would be significant.
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
    """The reason why one seed of an objective has no scores.

    Attributes:
        seed: The seed.
        reason: One line.
        is_final: Whether another try would end the same, as where the loss is not finite.
    """

    seed: int
    reason: str
    is_final: bool


@dataclass(frozen=True, kw_only=True)
class ObjectiveResult:
    """Results of one objective: scores, weighting and curves.

    Attributes:
        name: Its name.
        parameterization, schedule, weighting: As Python.
        is_monotone: Whether the weighting never increases with log-SNR between the ends.
        rising: Intervals of log-SNR in which it increases.
        status: Whether all seeds have scores, some or none.
        failures: Why some have none.
        scores: By the metric's key.
        weights: What it was trained on.
        elbo: Loss of the ELBO of data noised to each log-SNR.
        curve: Loss at each log-SNR, the slope of `elbo`.
        learning: Validation ELBO while training.
        density: How an adaptive schedule evolved; None of others.
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
        """Return whether all seeds have scores; only complete objectives are compared."""
        return self.status == "complete"

    @property
    def has_curves(self) -> bool:
        """Return whether the result contains any curve over images seen or noise levels."""
        return bool(self.learning or self.elbo or self.curve)
