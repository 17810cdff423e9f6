"""What a result draws of an objective, over noise levels and over training."""

from dataclasses import dataclass

Known = float | None
"""A number, or None where there is none, as for NaN."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weighting and density of noise levels over log-SNR.

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
    """Nats per dimension over log-SNR, mean over seeds."""

    logsnr: tuple[float, ...]
    nats_per_dim: tuple[Known, ...]


@dataclass(frozen=True, kw_only=True)
class LearningCurve:
    """Validation ELBO in bits per dimension over images seen, mean over seeds."""

    images: tuple[float, ...]
    bits_per_dim: tuple[Known, ...]


@dataclass(frozen=True, kw_only=True)
class Density:
    """The density of an adaptive schedule after some images, in equal bins of log-SNR."""

    images: float
    p: tuple[float, ...]
