"""A comparison: which objectives, on what, with which seeds, and how they are scored."""

from dataclasses import dataclass, field, replace

from elbos.comparison.rows import ROWS, Row
from elbos.evaluation.features import Lite0, Network
from elbos.evaluation.metrics import MIN_IMAGES
from elbos.samplers import Ancestral, Heun
from elbos.schedules import Schedule
from elbos.training.choices import Weight
from elbos.training.config import Config, Output
from elbos.training.sampling import Sampling

NUM_VALIDATIONS, NUM_LOGGED, NUM_SAVED = 8, 50, 4
_LOOKS_AT_AN_IMAGE, _FEATURES_COST = 16.0, 2.0  # about, in network evaluations

DEFAULT_ROWS = (
    "iddpm",
    "eps-cosine-sigmoid-2",
    "eps-adaptive-sigmoid-2",
    "edm",
    "edm-adaptive",
    "edm-adaptive-sigmoid-2",
    "edm-adaptive-monotonic",
    "v-cosine",
    "v-adaptive-sigmoid-2",
    "sd3-adaptive",
    "sd3-adaptive-monotonic",
    "min-snr-adaptive",
    "min-snr-adaptive-monotonic",
    "flow",
    "elbo",
)


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """How runs are scored."""

    num_images: int = 2_000
    """Test images whose ELBO is measured, at most all there are; at least 2."""

    num_samples: int = 2_000
    """Samples in a set, for each of the two samplers. Distances depend on it: compare equals."""

    extractor: Network = field(default_factory=Lite0)
    """The network whose features are compared."""

    ancestral: Sampling = field(default_factory=lambda: Sampling(sampler=Ancestral(), num_steps=64))
    """DDPM's sampler, of the first order and with noise: it takes more steps."""

    heun: Sampling = field(default_factory=lambda: Sampling(sampler=Heun(), num_steps=18))
    """EDM's sampler, without noise: 35 evaluations in 18 steps, as for CIFAR-10."""

    def __post_init__(self) -> None:
        if self.num_images < 2 or self.num_samples < MIN_IMAGES:
            raise ValueError(
                f"num_images is {self.num_images}, num_samples {self.num_samples}: "
                f"give at least 2 and {MIN_IMAGES}."
            )
        kinds = type(self.ancestral.sampler), type(self.heun.sampler)
        if kinds != (Ancestral, Heun):
            names = ", ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"The samplers are {names}: leave them Ancestral, Heun.")

    @property
    def samplings(self) -> dict[str, Sampling]:
        """The two ways of sampling, by name."""
        return {"ancestral": self.ancestral, "heun": self.heun}

    def cost(self, schedule: Schedule, has_samples: bool) -> float:
        """Its work for a run, about, in network evaluations, to tell the time left; of points no
        samples are scored.
        """
        samples = len(self.samplings) * self._looks(schedule) * self.num_samples
        return samples * has_samples + _LOOKS_AT_AN_IMAGE * self.num_images

    def unit_cost(self, schedule: Schedule, what: str, unit: str) -> float:
        """The cost of one unit of a piece of this work, about."""
        if unit == "evaluations":
            return 1.0
        return self._looks(schedule) if what.startswith("samples") else _FEATURES_COST

    def _looks(self, schedule: Schedule) -> float:
        looks = [sampling.num_evaluations(schedule) for sampling in self.samplings.values()]
        return sum(looks) / len(looks)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Rows, trained and scored alike.

    Attributes:
        config: What all rows share; its objective and seed are replaced.
        scoring: How they are scored.
        rows: The objectives, at least one, with different names. Default: 15 of the built-in ones.
        seeds: Each a replicate: weights, order of the data, noise, and noise of the samples.
            Default: five; of three, intervals are 1.7 times as wide.

    Raises:
        ValueError: If there is no row or no seed, two rows have one name, a seed is there twice, or
            a row cannot be trained in this configuration.
    """

    config: Config
    scoring: Scoring = field(default_factory=Scoring)
    rows: tuple[Row, ...] = tuple(ROWS[name] for name in DEFAULT_ROWS)
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows]
        if not self.rows or not self.seeds:
            raise ValueError("There is nothing to compare: give at least one row and one seed.")
        for what, given in (("row", names), ("seed", [str(seed) for seed in self.seeds])):
            if twice := [one for one in given if given.count(one) > 1]:
                raise ValueError(f"The {what} {twice[0]} is given twice.")
        for row in self.rows:
            row.config(self.config)  # raises where it has no usable loss
        replace(self.config, seed=min(self.seeds))

    def run_config(self, row: Row, seed: int) -> Config:
        """What is trained for a row and a seed."""
        return replace(row.config(self.config), seed=seed)

    @property
    def weightings(self) -> tuple[Weight, ...]:
        """What losses are measured under: the weighting of every row."""
        return tuple({repr(row.weighting): row.weighting for row in self.rows}.values())


def shared_config(config: Config) -> Config:
    """The configuration of all rows, with logs and validations for the report's curves."""
    num = config.num_images
    output = Output(
        log_every=max(num // NUM_LOGGED, 1),
        validate_every=max(num // NUM_VALIDATIONS, 1),
        save_every=max(num // NUM_SAVED, 1),
        num_kept=config.output.num_kept,
        tensorboard=config.output.tensorboard,
    )
    return replace(config, output=output)
