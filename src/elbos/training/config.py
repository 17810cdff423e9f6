"""Configuration of a run: frozen dataclasses, from which the command line is derived.

Everything but `output` and `execution` decides the numbers that a run produces, so a run directory
belongs to one configuration. `choices` has the classes of its parts, `settings` the smaller ones.

"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from elbos.base import files
from elbos.base.checks import require_finite, require_positive
from elbos.base.codec import decode, encode, require_encodable
from elbos.theory.objective import Objective
from elbos.theory.tabulated import require_reach
from elbos.training.choices import (
    Data,
    Network,
    NoiseSchedule,
    Prediction,
    Weight,
    require_storable,
)
from elbos.training.directory import RunDirectory
from elbos.training.sampling import Sampling
from elbos.training.settings import Averaging, Execution, Optimizer, Output

Precision = Literal["auto", "bf16", "fp32"]
NUM_SNAPSHOTS = 32
MAX_WARMUP = 0.2  # share of the run; a longer warm-up is reported


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of a training run."""

    data: Data
    """Training data."""

    network: Network
    """Network that is trained."""

    parameterization: Prediction
    """Prediction type of the network."""

    schedule: NoiseSchedule
    """Distribution of the noise levels in training, without effect on the optimum."""

    weighting: Weight
    """Weight of each noise level in the loss: the training objective."""

    optimizer: Optimizer = field(default_factory=Optimizer)
    averaging: Averaging = field(default_factory=Averaging)
    sampling: Sampling = field(default_factory=Sampling)
    output: Output = field(default_factory=Output)
    execution: Execution = field(default_factory=Execution)

    num_images: int = 1_000_000
    """Length of the training: images seen, counted with repetition. A larger number than that of
    the run in --run extends it."""

    batch_size: int = 128
    """Images per step, over all processes, whose number does not change the result."""

    use_labels: bool = True
    """Condition the network on the class, where the data have classes."""

    label_dropout: float = 0.1
    """Probability of dropping a label in training, so that the network is conditional and
    unconditional, as classifier-free guidance requires."""

    precision: Precision = "auto"
    """bf16 autocast or fp32. By default bf16 where the machine computes in it at least as fast."""

    init: Path | None = None
    """A run directory, whose averaged weights are the initial weights. Default: random ones."""

    seed: int = 0
    """Seed of the weights, the order of the data, the noise and the noise levels."""

    def __post_init__(self) -> None:
        require_storable(self.weighting)
        require_encodable(self)
        require_positive(batch_size=self.batch_size)
        if self.num_images < self.batch_size:
            raise ValueError(
                f"num_images is {self.num_images}: give at least batch_size, {self.batch_size}."
            )
        if not 0 <= self.label_dropout <= 1:
            raise ValueError(f"label_dropout is {self.label_dropout}: give a share from 0 to 1.")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: give a whole number from 0.")
        if self.init is not None:  # absolute: the run may be resumed from another folder
            object.__setattr__(self, "init", files.expanded(self.init))
        require_finite(self)
        require_reach(self.weighting, self.schedule.logsnr_min, self.schedule.logsnr_max)
        self.require_usable_loss()
        self.require_guidable(self.sampling)
        self.sampling.logsnrs(self.schedule)  # raises if the range is empty

    def require_usable_loss(self) -> None:
        """Raise a ValueError if the factor of the loss is negative, infinite or zero everywhere."""
        times = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
        logsnr = self.schedule.logsnr(times)
        factor = self.objective.coefficient(logsnr).float()
        is_usable = factor.isfinite() & (factor >= 0)
        if not is_usable.all():
            worst = int(is_usable.logical_not().nonzero()[0])
            raise ValueError(
                f"The factor of the loss is {factor[worst]:.3g} at log-SNR {logsnr[worst]:.3g}, "
                f"with {self.weighting} and {self.schedule}: change one of them."
            )
        if not factor.any():
            raise ValueError(
                f"The loss is zero: {self.weighting} vanishes on the range of {self.schedule}."
            )

    def require_guidable(self, sampling: Sampling) -> None:
        """Raise a ValueError for guidance unless the network trains with and without labels."""
        if sampling.guidance != 1 and not (self.use_labels and 0 < self.label_dropout < 1):
            raise ValueError(
                f"guidance is {sampling.guidance}, but the network does not learn both with and "
                "without labels: train with labels and a label_dropout between 0 and 1, or leave "
                "guidance at 1."
            )

    def identity(self) -> dict[str, Any]:
        """Encode all settings that affect the run's results: all but `output` and `execution`.

        Names of runs and keys of scores are digests of this encoding.
        """
        encoded: dict[str, Any] = encode(self)
        del encoded["output"], encoded["execution"]
        return encoded

    @property
    def snapshot_every(self) -> int:
        """Number of images between two snapshots of the averaged weights."""
        return self.averaging.snapshot_every or -(-self.num_images // NUM_SNAPSHOTS)

    @property
    def num_steps(self) -> int:
        """Number of optimizer steps: `num_images / batch_size`, rounded up."""
        return -(-self.num_images // self.batch_size)

    def learning_rate(self, step: int) -> float:
        """Compute the learning rate of a step: linear warm-up, times cosine decay if configured."""
        num_images = (step + 1) * self.batch_size
        warmup = min(1.0, num_images / max(self.optimizer.warmup_images, 1))
        decay = 0.5 * (1 + math.cos(math.pi * step / self.num_steps))
        if not self.optimizer.use_decay:
            decay = 1.0
        return self.optimizer.learning_rate * warmup * decay

    @property
    def long_warmup(self) -> str | None:
        """Warning text for a warm-up longer than a fifth of the run; None for a shorter warm-up."""
        share = self.optimizer.warmup_images / self.num_images
        if share <= MAX_WARMUP:
            return None
        steps = range(0, self.num_steps, math.ceil(self.num_steps / 1_000))
        reached = max(map(self.learning_rate, steps))
        return (
            f"the learning rate reaches {reached:.2g} of {self.optimizer.learning_rate:.2g}, as "
            f"warm-up takes {min(share, 1):.0%} of the run"
        )

    @property
    def objective(self) -> Objective:
        """Training objective: weighting, noise schedule and prediction type."""
        return Objective(
            weighting=self.weighting,
            schedule=self.schedule,
            parameterization=self.parameterization,
        )


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training settings of a model, for reports.

    Unknown settings are None, such as those of a model that was trained elsewhere.
    """

    weighting: str | None
    schedule: str | None
    parameterization: str
    network: str
    num_parameters: int
    optimizer: str | None
    images_seen: int | None
    batch_size: int | None
    precision: str | None
    data: str | None
    seed: int | None


def read_config(path: Path) -> Config:
    """Read a configuration file: the output of `elbos train --dry-run`, or a run's config.json.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If the file holds no configuration.
    """
    try:
        config: Config = decode(Config, files.read_json(path))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} is not a configuration ({error}): `elbos train PRESET --dry-run` prints one."
        ) from error
    return config


def run_config(directory: RunDirectory) -> Config:
    """Read the configuration of a run from config.json.

    Raises:
        FileNotFoundError: If this is not a run directory.
        ValueError: If config.json is not a configuration.
    """
    file = directory.path / "config.json"
    if not file.exists():
        raise FileNotFoundError(
            f"{directory.path} is not a run directory, it has no config.json: see `elbos train`."
        )
    try:
        config: Config = decode(Config, directory.read("config.json"))
    except ValueError as error:
        raise ValueError(
            f"{file} is not a configuration ({error}): restore the original file, which "
            "`elbos train PRESET --dry-run` prints, or name another run directory."
        ) from error
    return config
