"""Configuration of a training run: frozen dataclasses, from which the command line is derived.

All settings but `output` and `execution` affect the numbers that a run produces, so a run directory
belongs to one configuration. `choices` lists the classes that a configuration may hold.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import nn

from elbos.base import files
from elbos.base.checks import Typed, require_positive
from elbos.base.codec import decode, encode, normalize
from elbos.theory.objective import Objective
from elbos.theory.weightings import require_reach
from elbos.training import choices
from elbos.training.data.dataset import DataSpec
from elbos.training.randomness import seed_of
from elbos.training.sampling import Sampling

Precision = Literal["auto", "bf16", "fp32"]
Tracker = Literal[
    "tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab"
]
MAX_WARMUP = 0.2  # share of the run; a longer warm-up is reported
MAX_WIDTH = 12**-0.5


@dataclass(frozen=True, kw_only=True)
class Optimizer(Typed):
    """AdamW or Muon optimizer with learning-rate warm-up and decay."""

    use_muon: bool = False
    """Muon for the matrices of inner layers and AdamW for the rest, or AdamW for all."""

    learning_rate: float = 1e-3
    """Peak of the learning rate."""

    betas: tuple[float, float] = (0.9, 0.99)
    """Decay rates of the first and second moment."""

    weight_decay: float = 0.01
    """Decoupled weight decay."""

    warmup_images: int = 10_000
    """Images over which the learning rate rises linearly to its peak."""

    use_decay: bool = True
    """Cosine decay of the learning rate to zero at the end of the training. A run without decay can
    be extended as if it had been longer from the start."""

    max_grad_norm: float = 1.0
    """Maximal norm of the gradient (clipping); metrics.jsonl has the share of clipped steps."""


@dataclass(frozen=True, kw_only=True)
class Averaging(Typed):
    """Moving average of the weights (EMA) for sampling and evaluation."""

    relative_width: float = 0.063
    """Standard deviation of the steps that are averaged over, as a share of all steps so far."""


@dataclass(frozen=True, kw_only=True)
class Output(Typed):
    """Output files, and logging intervals in training images."""

    log_every: int = 5_000
    """A line in metrics.jsonl."""

    validate_every: int = 50_000
    """Validation ELBO and a grid of samples, and at the end."""

    save_minutes: float = 10.0
    """Minutes from one checkpoint to the next; there is one at the end, too. A crash loses at most
    this time."""

    save_every: int | None = None
    """Further checkpoints at multiples of this number of images; `num_kept` counts them, too."""

    num_kept: int = 2
    """Number of the latest checkpoints that are not deleted."""

    trackers: Annotated[tuple[Tracker, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Experiment trackers that receive the log and validations: tensorboard, wandb,
    trackio, mlflow, comet_ml, aim, clearml, dvclive, swanlab."""


@dataclass(frozen=True, kw_only=True)
class Execution(Typed):
    """Execution settings of a training run: memory, processes and compilation.

    These settings change the training by rounding and dropout masks alone: a run may be resumed
    with other settings, on another number of processes.
    """

    num_micro_batches: int = 1
    """Micro-batches of each process's share of a batch: as many times less memory for activations,
    with the same gradients."""

    shard_size: int = 1
    """Processes that share one copy of weights, gradients and moments. 1 is data parallelism, the
    fastest if memory suffices; the number of processes needs the least memory."""

    compile: Literal["auto", "on", "off"] = "auto"
    """Compile network and loss by torch.compile. By default on GPUs: the first step takes longer,
    and later steps are faster."""

    use_checkpointing: bool = False
    """Activation checkpointing: compute each block again in the backward pass, and store no
    activations inside of it: less memory, a third more work."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Configuration of a training run."""

    data: choices.Data
    """Training data."""

    network: choices.Network
    """Network that is trained."""

    parameterization: choices.Prediction
    """Prediction type of the network."""

    schedule: choices.NoiseSchedule
    """Distribution of the noise levels in training, without effect on the optimum."""

    weighting: choices.Weight
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
    """Probability of dropping a label in training, below 1, so that the network is conditional and
    unconditional, as classifier-free guidance requires."""

    precision: Precision = "auto"
    """bf16 autocast or fp32. By default bf16 where the machine computes in it at least as fast."""

    seed: int = 0
    """Seed of the weights, the order of the data, the noise and the noise levels."""

    def __post_init__(self) -> None:
        optimizer, output = self.optimizer, self.output
        choices.require_storable(self.weighting)
        normalize(self)
        require_positive(
            batch_size=self.batch_size,
            learning_rate=optimizer.learning_rate,
            max_grad_norm=optimizer.max_grad_norm,
            log_every=output.log_every,
            validate_every=output.validate_every,
            save_every=1 if output.save_every is None else output.save_every,
            save_minutes=output.save_minutes,
            num_kept=output.num_kept,
            num_micro_batches=self.execution.num_micro_batches,
            shard_size=self.execution.shard_size,
        )
        if not all(0 <= beta < 1 for beta in optimizer.betas):
            raise ValueError(f"betas are {optimizer.betas}: give two numbers from 0 to below 1.")
        if optimizer.weight_decay < 0 or optimizer.warmup_images < 0:
            raise ValueError("weight_decay and warmup_images cannot be below 0.")
        if not 0 < self.averaging.relative_width < MAX_WIDTH:
            raise ValueError(
                f"relative_width is {self.averaging.relative_width}: give a share above 0 and "
                f"below {MAX_WIDTH:.4f}, the width of the mean of all steps."
            )
        if self.num_images < self.batch_size:
            raise ValueError(
                f"num_images is {self.num_images}: give at least batch_size, {self.batch_size}."
            )
        if not 0 <= self.label_dropout < 1:
            raise ValueError(
                f"label_dropout is {self.label_dropout}: give a share from 0 to below 1; "
                "--no-use-labels trains without labels."
            )
        seed_of(self.seed)  # raises for a negative one
        require_reach(self.weighting, self.schedule.logsnr_min, self.schedule.logsnr_max)
        self.require_guidable(self.sampling)
        self.sampling.logsnrs(self.schedule)  # raises if the range is empty
        _ = self.objective  # raises if the factor of the loss is not finite

    def require_guidable(
        self, sampling: Sampling, data: DataSpec | None = None, *, has_null: bool = False
    ) -> None:
        """Raise a ValueError if the network does not learn what guidance needs, as far as known."""
        learns_both = self.use_labels and self.label_dropout > 0
        if data is not None and data.num_classes is None:
            learns_both = learns_both and has_null
        if sampling.guidance != 1 and not learns_both:
            raise ValueError(
                f"guidance is {sampling.guidance}, but the network does not learn both with and "
                "without labels: train with classes, or conditions and their null_cond, and a "
                "label_dropout above 0, or leave guidance at 1."
            )

    def uses_labels(self, data: DataSpec) -> bool:
        return self.use_labels and data.num_classes is not None

    def build_network(self, data: DataSpec) -> nn.Module:
        """Build the network with random weights of the run's seed, in channels-last memory."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.seed) % 2**63)
            num_classes = data.num_classes if self.uses_labels(data) else None
            network: nn.Module = self.network.build(data.shape, num_classes)
        return network.to(memory_format=torch.channels_last)  # type: ignore[no-any-return, call-overload]

    def identity(self) -> dict[str, Any]:
        """Return the settings that affect the results of a run, as JSON values."""
        encoded: dict[str, Any] = encode(self, has_defaults=False)
        for name in ("output", "execution"):
            encoded.pop(name, None)
        return encoded

    @property
    def num_steps(self) -> int:
        return -(-self.num_images // self.batch_size)

    def learning_rate(self, step: int) -> float:
        num_images = (step + 1) * self.batch_size
        warmup = min(1.0, num_images / max(self.optimizer.warmup_images, 1))
        decay = 0.5 * (1 + math.cos(math.pi * step / self.num_steps))
        if not self.optimizer.use_decay:
            decay = 1.0
        return self.optimizer.learning_rate * warmup * decay

    @property
    def long_warmup(self) -> str | None:
        """Warning of a warm-up that takes more than a fifth of the training, or None."""
        share = self.optimizer.warmup_images / self.num_images
        return f"warm-up takes {min(share, 1):.0%} of the run" if share > MAX_WARMUP else None

    @property
    def objective(self) -> Objective:
        return Objective(
            weighting=self.weighting,
            schedule=self.schedule,
            parameterization=self.parameterization,
        )


def read_config(path: Path) -> Config:
    """Read a run's config.json, or the output of `elbos train --dry-run`."""
    try:
        config: Config = decode(Config, files.read_value(path))
    except ValueError as error:
        raise ValueError(
            f"{path} is not a configuration ({error}): restore the original file, or write a new "
            "one by `elbos train PRESET --dry-run`."
        ) from error
    return config
