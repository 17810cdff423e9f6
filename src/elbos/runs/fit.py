r"""Training of a user-defined network on a user-defined dataset.

run = elbos.fit(network, dataset, objective, run="runs/mine", num_images=1_000_000)
x = run.sample(64)
"""

import copy
from pathlib import Path
from typing import Any

from torch import nn

from elbos.base.checks import typed
from elbos.base.conditions import Condition
from elbos.base.errors import Diverged, Interrupted
from elbos.base.processes import Processes, naming_lost_processes
from elbos.runs.run import Run
from elbos.theory.objective import Objective
from elbos.theory.weightings import Tabulated
from elbos.training import checkpoint
from elbos.training.choices import require_storable
from elbos.training.config import Averaging, Config, Execution, Optimizer, Output, Precision
from elbos.training.data.given import Given, GivenData
from elbos.training.directory import RunDirectory, require_same_data
from elbos.training.loop import OnImages, train
from elbos.training.network import OwnNetwork, require_storable_state
from elbos.training.sampling import Sampling


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
            above 1) a copy is trained: your network receives the weights of the last
            checkpoint when training ends, also if it is stopped or diverges, and `on_images` sees
            the initial weights.
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
        ValueError: If an argument is of another type, data, objective and settings do not fit each
            other, as far as a few samples tell, the network's weights or the objective cannot be
            stored, or the directory is of another run. Nothing is written then. A network that
            does not fit the data fails by its own error, in the first step.
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
    require_same_data(data, Processes.joined())
    trained = network
    if config.execution.shard_size > 1:  # the user's network stays unsharded
        trained = copy.deepcopy(network)
    ended: Diverged | Interrupted | None = None
    try:
        train(config, run, on_images, data=data, network=trained, num_workers=num_workers)
    except (Diverged, Interrupted) as error:
        ended = error
    newest = checkpoint.latest(RunDirectory(Path(run)).checkpoints)
    if trained is not network and newest is not None:
        network.load_state_dict(checkpoint.read(newest, "network")[1]["network"])
    if ended is not None:
        raise ended
    return Run(run, network, null_cond=null_cond)
