"""Settings of an evaluation: which quantities are measured, and how precisely."""

from dataclasses import dataclass, field
from typing import Literal

from elbos.base.checks import Typed, require_positive
from elbos.evaluation.features import ExtractorConfig, Lite0
from elbos.evaluation.metrics import MIN_IMAGES
from elbos.validation.measurements import MIN_TUNING_SAMPLES


@dataclass(frozen=True, kw_only=True)
class OdeConfig(Typed):
    """Settings for measuring the likelihood under the probability-flow ODE."""

    num_images: int = 100
    """Number of images, or 0 to skip; each image takes hundreds of evaluations with gradient."""

    tolerance: float = 1e-4
    """Relative and absolute tolerance of a solver step, in nats per dimension."""

    dequantization: Literal["truncated-normal", "uniform"] = "truncated-normal"
    """Noise on discrete data: the noise that the network knows, or noise over the whole cell."""

    trace: Literal["hutchinson", "exact"] = "hutchinson"
    """Trace estimator: one random probe per image, or one backward pass per dimension."""

    def __post_init__(self) -> None:
        require_positive(tolerance=self.tolerance)
        if self.num_images < 0 or self.num_images == 1:
            raise ValueError(
                f"ode.num_images is {self.num_images}: give at least 2, or 0 to skip it."
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Typed):
    """Settings of an evaluation: images, likelihood, sample quality and precision."""

    split: Literal["test", "val", "train", "all"] | None = None
    """Split of the data whose images are evaluated. Default: test; all pictures of a folder that
    has no sub-folders train and test, unless the run was trained on it."""

    num_images: int | None = None
    """Number of images to evaluate, the same images for every run; at least 2. Default: all."""

    target_se: float | None = None
    """Target standard error of the bound, in bits/dim: rounds are added until it is reached, or
    until the variation between images dominates."""

    num_pilot_images: int = 500
    """Images in the pilot, with 32 evaluations each, which finds the noise levels that matter most.
    With fewer than 38 images, each has more evaluations."""

    seed: int = 0
    """Seed of the noise, of the noise levels and of the samples."""

    ode: OdeConfig = field(default_factory=OdeConfig)

    num_samples: int = 10_000
    """Number of samples, or 0 to skip sample quality. Compare distances at equal numbers only."""

    extractor: ExtractorConfig = field(default_factory=Lite0)
    """The network that computes the features of images."""

    def __post_init__(self) -> None:
        if self.target_se is not None:
            require_positive(target_se=self.target_se)
        for name, least in (("num_images", 2), ("num_pilot_images", MIN_TUNING_SAMPLES)):
            num = getattr(self, name)
            if num is not None and num < least:
                raise ValueError(f"{name} is {num}: give at least {least}, or leave it out.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: give a whole number from 0.")
        if self.num_samples != 0 and self.num_samples < MIN_IMAGES:
            raise ValueError(
                f"num_samples is {self.num_samples}: give at least {MIN_IMAGES}, or 0 for none."
            )
