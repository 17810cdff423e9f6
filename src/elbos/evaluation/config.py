"""Settings of an evaluation: the measurements and their precision."""

from dataclasses import dataclass, field
from typing import Literal

from elbos.base.checks import Typed, require_finite, require_positive
from elbos.evaluation.features import ExtractorConfig, Lite0
from elbos.evaluation.metrics import MIN_IMAGES


@dataclass(frozen=True, kw_only=True)
class OdeConfig(Typed):
    """Settings of the ODE likelihood."""

    num_images: int = 100
    """On so many images, 0 for none; some hundred evaluations each, with gradient."""

    tolerance: float = 1e-4
    """Relative and absolute tolerance of a step, in nats per dimension."""

    dequantization: Literal["truncated-normal", "uniform"] = "truncated-normal"
    """Noise on discrete data: the noise that the network knows, or noise over the whole cell."""

    trace: Literal["hutchinson", "exact"] = "hutchinson"
    """One random probe per image, or one backward pass per dimension."""

    def __post_init__(self) -> None:
        require_positive(tolerance=self.tolerance)
        if self.num_images < 0 or self.num_images == 1:
            raise ValueError(
                f"ode.num_images is {self.num_images}: give at least 2, or 0 to leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Typed):
    """Settings of an evaluation."""

    split: Literal["test", "val", "train"] = "test"
    """Which images."""

    num_images: int | None = None
    """How many of them, the same for every run; at least 2. Default: all."""

    num_rounds: int = 2
    """Rounds of 4 network evaluations per image, at least 2: they show how precise the bound is."""

    target_se: float | None = None
    """Measure until the standard error of the bound, in bits/dim, is this; or as near as the images
    allow, whose own scatter is a floor."""

    num_pilot_images: int = 500
    """Images in the first pass, of 32 evaluations each, which finds the levels that matter. Fewer
    than 38 images have more evaluations each."""

    seed: int = 0
    """Seed of noise and noise levels, and of the first set of samples."""

    ode: OdeConfig = field(default_factory=OdeConfig)

    floor: bool = False
    """Also compute the least loss that any denoiser can have on the training images, by noise
    level: minutes for 60,000 images of 28x28 pixels; stored for all runs on the same data."""

    floor_images: int | None = None
    """Training images that are noised for it, at least 2, each of which is compared with all of
    them; fewer cost less, and give a larger error. Default: all."""

    num_samples: int = 10_000
    """Samples in a set; 0 leaves sample quality out. Distances depend on it: compare equals."""

    num_sets: int = 1
    """Sets, of as many seeds. Several give a mean and a standard deviation."""

    extractor: ExtractorConfig = field(default_factory=Lite0)
    """The network whose features are compared."""

    sweep: bool = False
    """Also measure quality by sampler, grid and number of evaluations."""

    sweep_evaluations: tuple[int, ...] = (8, 16, 32, 64)
    """Network evaluations per sample, in the sweep."""

    sweep_samples: int = 2_000
    """Samples of each point of the sweep."""

    def __post_init__(self) -> None:
        require_finite(self)
        require_positive(num_sets=self.num_sets)
        if self.target_se is not None:
            require_positive(target_se=self.target_se)
        for name in ("num_images", "num_rounds", "num_pilot_images", "floor_images"):
            num = getattr(self, name)
            if num is not None and num < 2:
                raise ValueError(f"{name} is {num}: give at least 2, or leave it out.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: give a whole number from 0.")
        if self.num_samples != 0 and self.num_samples < MIN_IMAGES:
            raise ValueError(
                f"num_samples is {self.num_samples}: give at least {MIN_IMAGES}, or 0 to leave "
                "quality out."
            )
        if self.sweep and self.num_samples == 0:
            raise ValueError("num_samples is 0, which leaves the sweep out, too: give more.")
        if self.sweep_samples < MIN_IMAGES or min(self.sweep_evaluations, default=0) < 4:
            raise ValueError(
                f"A sweep takes at least {MIN_IMAGES} samples, and 4 evaluations for each."
            )
