"""Settings of optimizer, averages, output and execution."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from elbos.base.checks import Typed, require_positive

Tracker = Literal[
    "tensorboard", "wandb", "trackio", "mlflow", "comet_ml", "aim", "clearml", "dvclive", "swanlab"
]
MIN_WIDTH, MAX_WIDTH = 0.001, 12**-0.5


@dataclass(frozen=True, kw_only=True)
class Optimizer(Typed):
    """Optimizer: AdamW or Muon, with linear warm-up and, by default, cosine decay to zero."""

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

    def __post_init__(self) -> None:
        require_positive(learning_rate=self.learning_rate, max_grad_norm=self.max_grad_norm)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}: give two numbers from 0 to below 1.")
        if self.weight_decay < 0 or self.warmup_images < 0:
            raise ValueError("weight_decay and warmup_images cannot be below 0.")


@dataclass(frozen=True, kw_only=True)
class Averaging(Typed):
    """Average of the weights over the training steps (EMA), which is sampled and evaluated."""

    relative_width: float = 0.063
    """Standard deviation of the steps that are averaged over, as a share of all steps so far."""

    snapshot_widths: tuple[float, ...] = ()
    """Relative widths of further averages, whose snapshots are stored: from them `elbos ema`
    computes the average of any width after the training. EDM2 has 0.05 and 0.1."""

    snapshot_every: int | None = None
    """Images from one snapshot to the next. Default: a 32nd of the training, which gives any width
    from 0.04 to 0.2 to within 1 %."""

    def __post_init__(self) -> None:
        if self.snapshot_every is not None:
            require_positive(snapshot_every=self.snapshot_every)
        if not 0 < self.relative_width < MAX_WIDTH:
            raise ValueError(
                f"relative_width is {self.relative_width}: give a share above 0 and below "
                f"{MAX_WIDTH:.4f}, the width of the mean of all steps."
            )
        widths = self.snapshot_widths
        if len({*widths}) < len(widths) or not all(MIN_WIDTH <= w < MAX_WIDTH for w in widths):
            raise ValueError(
                f"snapshot_widths are {widths}: give different shares from {MIN_WIDTH} to below "
                f"{MAX_WIDTH:.4f}, such as 0.05 and 0.1."
            )


@dataclass(frozen=True, kw_only=True)
class Output(Typed):
    """Output files of a run and their intervals in images, without effect on the training."""

    log_every: int = 5_000
    """A line in metrics.jsonl."""

    validate_every: int = 50_000
    """Validation ELBO and a grid of samples, and at the end."""

    save_minutes: float = 10.0
    """Minutes from one checkpoint to the next; there is one at the end, too. A crash loses at most
    this time."""

    save_every: int | None = None
    """Further checkpoints at multiples of this number of images."""

    num_kept: int = 2
    """Number of the latest checkpoints that are not deleted."""

    trackers: Annotated[tuple[Tracker, ...], tyro.conf.arg(metavar="NAME...")] = ()
    """Experiment trackers that receive log, validations and grids of samples: tensorboard,
    wandb, trackio, mlflow, comet_ml, aim, clearml, dvclive, swanlab."""

    def __post_init__(self) -> None:
        require_positive(
            log_every=self.log_every,
            validate_every=self.validate_every,
            save_every=1 if self.save_every is None else self.save_every,
            save_minutes=self.save_minutes,
            num_kept=self.num_kept,
        )


@dataclass(frozen=True, kw_only=True)
class Execution(Typed):
    """Execution of a run: memory, processes and compilation.

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

    use_tf32: bool = True
    """Multiply float32 numbers in TF32, of 10 bits, on GPUs where precision is fp32: its
    rounding is far below the noise of training, and it is several times as fast."""

    use_checkpointing: bool = False
    """Activation checkpointing: compute each block again in the backward pass, and store no
    activations inside of it: less memory, a third more work."""

    def __post_init__(self) -> None:
        require_positive(num_micro_batches=self.num_micro_batches, shard_size=self.shard_size)
