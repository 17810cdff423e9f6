"""Settings of a comparison: training objectives, common training settings, seeds and scoring."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from elbos.base.checks import Typed
from elbos.base.codec import parse
from elbos.comparison.variants import Variant
from elbos.evaluation.features import ExtractorConfig, Lite0
from elbos.evaluation.metrics import MIN_IMAGES
from elbos.models.samplers import Sampler
from elbos.training.choices import Weight
from elbos.training.config import Config, Output
from elbos.training.data.given import Given
from elbos.training.network import OwnNetwork
from elbos.training.sampling import Sampling

NUM_VALIDATIONS = 8
DEFAULT_SAMPLERS = ("ancestral=Ancestral(),64", "heun=Heun(),18")


def parse_samplings(texts: Iterable[str]) -> dict[str, Sampling]:
    """Parse the names and settings of samplers, `NAME=SAMPLER,NUM_STEPS`.

    Raises:
        ValueError: If a text is not of this form.
    """
    samplings = {}
    for text in texts:
        name, _, settings = (part.strip() for part in text.partition("="))
        where = f"sampler {name!r} (a sampler and a number of steps)"
        if name in samplings:
            raise ValueError(f"{where} is given twice: give each a name of its own.")
        sampler, num_steps = parse(tuple[Sampler, int], settings, where)
        samplings[name] = Sampling(sampler=sampler, num_steps=num_steps)
    return samplings


@dataclass(frozen=True, kw_only=True)
class Scoring(Typed):
    """Settings for scoring trained models: test images, samples, feature extractor and samplers."""

    num_images: int = 2_000
    """Number of test images whose ELBO is measured, at least 2; at most all are used."""

    num_samples: int = 2_000
    """Samples per sampler. Compare distances at equal numbers of samples only."""

    extractor: ExtractorConfig = field(default_factory=Lite0)
    """The network that computes the features of images."""

    samplings: Annotated[dict[str, Sampling], tyro.conf.Suppress] = field(
        default_factory=lambda: parse_samplings(DEFAULT_SAMPLERS)
    )
    """Samplings by name. Default: DDPM's ancestral sampler, and EDM's for CIFAR-10, Heun's."""

    def __post_init__(self) -> None:
        if self.num_images < 2 or self.num_samples < MIN_IMAGES:
            raise ValueError(
                f"num_images is {self.num_images}, num_samples {self.num_samples}: give at least 2 "
                f"and {MIN_IMAGES}."
            )
        for name in self.samplings:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9.-]{0,31}", name) or name == "type":
                raise ValueError(f"A sampler cannot be called {name[:32]!r}: give letters, digits.")


@dataclass(frozen=True, kw_only=True)
class Experiment(Typed):
    """Settings of a comparison of training objectives.

    All share the configuration, in which objective and seed are replaced. Seeds are those of
    initial weights, order of the data, training noise and sample noise, one replicate each.

    Raises:
        ValueError: If objectives or seeds are empty or repeated, or cannot be trained.
    """

    config: Config
    scoring: Scoring = field(default_factory=Scoring)
    objectives: tuple[Variant, ...]
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self) -> None:
        if not self.objectives or not self.seeds:
            raise ValueError("There is nothing to compare: give an objective and a seed or more.")
        for part in (self.config.data, self.config.network):
            if isinstance(part, Given | OwnNetwork):  # runs are made in separate processes
                raise ValueError(
                    f"{part.name} is user-defined: a comparison needs settings that fit in files."
                )
        names = [objective.name for objective in self.objectives]
        for what, items in (("objective", names), ("seed", list(map(str, self.seeds)))):
            if twice := [item for item in items if items.count(item) > 1]:
                raise ValueError(f"The {what} {twice[0]} is given twice.")
        for objective in self.objectives:
            objective.config(self.config)  # raises if the loss is not usable
        replace(self.config, seed=min(self.seeds))  # raises if the seed is invalid

    def run_config(self, objective: Variant, seed: int) -> Config:
        return replace(objective.config(self.config), seed=seed)

    @property
    def weightings(self) -> tuple[Weight, ...]:
        return tuple({repr(o.weighting): o.weighting for o in self.objectives}.values())


def shared_config(config: Config) -> Config:
    """Set the logging and checkpoint intervals that a comparison needs."""
    num, output = config.num_images, config.output
    output = Output(
        log_every=max(num // 50, 1),
        validate_every=max(num // NUM_VALIDATIONS, 1),
        save_every=max(num // 4, 1),
        num_kept=output.num_kept,
        trackers=output.trackers,
    )
    return replace(config, output=output)
