r"""Training functions: `train` for a configuration, `fit` for a user-defined network and dataset.

    run = elbos.fit(network, dataset, objective, run="runs/mine", num_images=1_000_000)
    x = run.sample(64)

Both use the same `Trainer`, and the same call again resumes either.
"""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from torch import nn

from elbos.base.checks import typed
from elbos.base.conditions import Condition
from elbos.base.processes import Processes
from elbos.base.sharing import naming_lost_processes
from elbos.runs.run import Run
from elbos.theory.objective import Objective
from elbos.theory.tabulated import Tabulated
from elbos.training.choices import require_storable
from elbos.training.config import Averaging, Config, Execution, Optimizer, Output, Precision
from elbos.training.data import Given, GivenData, Samples
from elbos.training.directory import RunDirectory, require_same_data
from elbos.training.execution import keep_freed_memory, resolved
from elbos.training.monitor import OnImages, require_installed
from elbos.training.network import OwnNetwork, require_storable_state
from elbos.training.sampling import Sampling
from elbos.training.trainer import Trainer


@naming_lost_processes()
def train(config: Config, path: Path | str, on_images: OnImages = lambda _: None) -> None:
    """Train a model from a configuration.

    The training resumes from the latest checkpoint in the run directory, if there is one.

    Args:
        config: The configuration.
        path: The run directory, created if missing.
        on_images: Called with the number of images seen, after each step.

    Raises:
        ValueError: If the directory holds another configuration or is in use, or the data or the
            latest checkpoint are unusable.
        Diverged: If a loss or gradient is not finite; the latest checkpoint precedes the
            divergence.
        Interrupted: On SIGINT or SIGTERM, with a checkpoint written.
        OSError: If a file cannot be written; the latest checkpoint is complete.
    """
    _train(config, RunDirectory(Path(path)), config.data.load, on_images)


@typed
@naming_lost_processes()
def fit(
    network: nn.Module,
    dataset: Any,
    objective: Objective,
    *,
    run: Path | str,
    num_images: int,
    batch_size: int = 128,
    learning_rate: float | None = None,
    validation: Any = None,
    num_levels: int | None = None,
    cond_dropout: float = 0.0,
    null_cond: Condition = None,
    is_bounded: bool = True,
    num_workers: int = 0,
    optimizer: Optimizer | None = None,
    averaging: Averaging | None = None,
    sampling: Sampling | None = None,
    output: Output | None = None,
    execution: Execution | None = None,
    precision: Precision = "auto",
    seed: int = 0,
    on_images: OnImages = lambda _: None,
) -> Run:
    r"""Train a user-defined network on a user-defined dataset.

    The trained model is returned. The training has all features of `elbos train`: checkpoints, from
    which the same call resumes bit for bit; an average of the weights; a log, validation and sample
    grids in the run directory; a progress bar; several processes, under torchrun or `accelerate
    launch`.

    Args:
        network: Called as `network(z, logsnr, cond)`, or `network(z, logsnr)` if the data have no
            condition; returns a tensor of the shape of `z`. Training starts from its current
            weights and changes them in place. On several processes, training starts from the
            weights of the main process, and the network has to call each of its layers in every
            forward pass, without writing to its weights. With sharding (`execution.shard_size`
            above 1) a copy is trained: your network receives the weights when training ends, also
            if it is stopped or diverges, and `on_images` sees the initial weights.
        dataset: A dataset with a length and items `dataset[i]`, which are `x` or `(x, cond)`: `x` a
            tensor of numbers from -1 to 1, `cond` a class label, a tensor, or a dict of tensors.
            Augmentation may use torch's random numbers, which are seeded for each batch. A resumed
            run checks on 16 samples that the dataset is the same, unless it augments with other
            random numbers.
        objective: Weighting, schedule and prediction type. A weighting given as a function is
            tabulated at 2,001 points; an adaptive schedule starts uniform, whatever it has learned.
        run: The run directory, created if missing.
        num_images: Length of the training in images, counted with repetition.
        batch_size: Images per step, summed over all processes.
        learning_rate: The peak learning rate of AdamW. Default: 1e-3. Give this or `optimizer`.
        validation: A held-out dataset on which the likelihood bound is logged. Default: no
            validation.
        num_levels: The number $K$ of values $2k/(K-1) - 1$ of discrete data, 256 for 8-bit images,
            so that the likelihood is that of pixel values. Default: continuous data.
        cond_dropout: Probability of replacing a condition by `null_cond`, below 1, for
            classifier-free guidance. Default: 0.
        null_cond: The null (unconditional) condition of one sample, in a batch of one, `[1, ...]`:
            a label beyond the classes, or the embedding of an empty text. Required for
            `cond_dropout`.
        is_bounded: Whether `x` has to be in [-1, 1]; False for latents.
        num_workers: Data-loading processes per training process. Default: 0, the training process
            itself.
        optimizer: Optimizer settings with their learning rate. Default: AdamW with `learning_rate`,
            warm-up and decay.
        averaging: Width of the average of the weights.
        sampling: Sampler settings for sample grids, and the default for samples of the run.
        output: Which files are written, and how often.
        execution: Gradient accumulation, sharding, torch.compile.
        precision: bf16 autocast or fp32. Default: bf16 on hardware with fast bf16.
        seed: Seed of data order, noise and noise levels.
        on_images: Called with the number of images seen, after each step.

    Raises:
        ValueError: If an argument is of another type, data, network, objective and settings do not
            fit each other, as far as a few samples tell, the network's weights or the objective
            cannot be stored, or the directory is of another run. Nothing is written then.
        Diverged, Interrupted, OSError: As `train` does.

    Examples:
        See examples/own_network.py.
    """
    if learning_rate is not None:
        if optimizer is not None:
            raise ValueError(
                f"learning_rate is {learning_rate}, and optimizer has one, too: give "
                f"Optimizer(learning_rate={learning_rate}, ...) alone."
            )
        optimizer = Optimizer(learning_rate=learning_rate)
    data = GivenData.from_datasets(
        dataset,
        validation,
        num_levels=num_levels,
        is_bounded=is_bounded,
        null_cond=null_cond,
        needs_null=cond_dropout > 0,
    )
    require_storable_state(network)
    weighting: Any = objective.weighting
    try:
        require_storable(weighting)
    except ValueError:  # a function of the user's
        weighting = Tabulated.from_function(weighting)
    config = Config(
        data=Given(name=data.spec.name),
        network=OwnNetwork(name=type(network).__name__),
        parameterization=objective.parameterization,
        schedule=objective.schedule,
        weighting=weighting,
        optimizer=optimizer or Optimizer(),
        averaging=averaging or Averaging(),
        sampling=sampling or Sampling(),
        output=output or Output(),
        execution=execution or Execution(),
        num_images=num_images,
        batch_size=batch_size,
        label_dropout=cond_dropout,
        precision=precision,
        seed=seed,
    )
    directory = RunDirectory(Path(run))
    require_same_data(data, Processes.joined(config.execution.timeout_hours))
    _train(config, directory, lambda: data, on_images, network=network, num_workers=num_workers)
    return Run(directory.path, network, null_cond=null_cond)


def _train(
    config: Config,
    run: RunDirectory,
    load: Callable[[], Samples],
    on_images: OnImages,
    **arguments: Any,
) -> None:
    require_installed(config.output.trackers)
    processes = Processes.joined(config.execution.timeout_hours)
    if processes.device.type == "cpu":
        keep_freed_memory()
    config = resolved(config, run, processes)
    trainer = Trainer(config, run, load(), processes, **arguments)  # raises before it writes
    with ExitStack() as stack:

        def claimed() -> None:
            if processes.is_main:
                stack.enter_context(run.lock())
                run.claim(config, trainer.data)

        processes.together(claimed)
        trainer.train(on_images)
        processes.wait()  # the main process writes the last things
