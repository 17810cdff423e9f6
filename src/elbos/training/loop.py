r"""Training loop: from a configuration to a run directory, in the order in which it happens.

One step, in which all random numbers are a function of (seed, step, sample):

$$u, \epsilon \to \lambda = f(u) \to z = \alpha x + \sigma\epsilon \to \hat y
  \to \ell = \tfrac12 \tfrac{w}{p}\|\hat\epsilon - \epsilon\|^2
  \to \nabla \to \theta, \bar\theta, p.$$

So a run that resumes continues bit for bit, and several processes, which train on a share of every
batch each, draw the numbers of one. Only masks of dropout depend on the process.
"""

import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from elbos.base.conditions import Condition, cond_at, replace_conds, to_device
from elbos.base.errors import Diverged, Interrupted
from elbos.base.philox import Purpose, Stream, key_of
from elbos.base.processes import Processes, naming_lost_processes
from elbos.models.likelihood import warn_if_unresolved
from elbos.theory.denoiser import Denoiser, with_three_arguments
from elbos.theory.objective import Levels, Objective
from elbos.training import checkpoint, execution, sharding
from elbos.training.checkpoint import State
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.data.batches import Batches
from elbos.training.directory import RunDirectory
from elbos.training.log import Log, require_installed
from elbos.training.network import OwnNetwork
from elbos.training.randomness import seed_torch, times

OnImages = Callable[[int], None]


@naming_lost_processes()
def train(
    config: Config,
    path: Path | str,
    on_images: OnImages = lambda _: None,
    *,
    data: Samples | None = None,
    network: nn.Module | None = None,
    num_workers: int = 0,
) -> None:
    """Train a model from a configuration.

    The training resumes from the latest checkpoint in the run directory, if there is one.

    Args:
        config: The configuration.
        path: The run directory, created if missing.
        on_images: Called with the number of images seen, after each step.
        data: The training data. Default: as the configuration says.
        network: The network, trained in place. Default: as the configuration says, with random
            weights of its seed.
        num_workers: Processes that prefetch batches. Default: 0, threads do, or, of a
            user's dataset, this process itself.

    Raises:
        ValueError: If the directory holds another configuration or is in use, or the data or the
            latest checkpoint are unusable.
        Diverged: If a loss or gradient is not finite; the latest checkpoint precedes the
            divergence.
        Interrupted: On SIGINT or SIGTERM, with a checkpoint written.
        OSError: If a file cannot be written; the latest checkpoint is complete.
    """
    processes = Processes.joined()
    device, run = processes.device, RunDirectory(Path(path))
    batch_size, num_steps = config.batch_size, config.num_steps
    if batch_size < processes.num:
        raise ValueError(
            f"batch_size {batch_size} is less than one sample for each of {processes.num} "
            "processes: change one of them."
        )
    require_installed(config.output.trackers)
    execution.keep_freed_memory()
    if config.precision == "auto":  # a run keeps the precision that it was begun in
        is_started = (run.path / "config.json").exists()
        chosen = run.config().precision if is_started else execution.best_precision(device)
        config = replace(config, precision=processes.from_main(chosen))
    data = config.data.load() if data is None else data
    config.require_guidable(config.sampling, data.spec, has_null=data.null_cond is not None)
    network = config.build_network(data.spec) if network is None else network

    # What a step changes: the weights and their average, the optimizer, the adaptive schedule.
    layout = execution.memory_format(network)
    state = State.initial(network, config, processes)
    schedule, optimizer = state.schedule, state.optimizer
    objective = replace(config.objective, schedule=schedule)
    null_cond = to_device(data.null_cond, device)
    loss = Loss(network, objective, null_cond, seed=config.seed, label_dropout=config.label_dropout)
    if processes.is_main:
        warn_if_unresolved(schedule.logsnr_max, data.spec.num_levels)

    # Each process trains on its share of the global batch, in parts that fit in memory.
    share, key = processes.share(batch_size), key_of(config.seed)
    samples = torch.arange(batch_size, device=device)[share]
    num_parts = min(config.execution.num_micro_batches, batch_size // processes.num)
    ends = [len(samples) * i // num_parts for i in range(num_parts + 1)]
    parts = [slice(start, stop) for start, stop in itertools.pairwise(ends)]

    def is_due(every: int | None) -> bool:  # whether this step passes a multiple of images seen
        num_images = state.step * batch_size
        return every is not None and num_images // every > (num_images - batch_size) // every

    with ExitStack() as stack:

        def claim() -> None:
            if processes.is_main:
                stack.enter_context(run.claimed(config, data))

        processes.together(claim)
        if newest := processes.from_main(checkpoint.latest(run.checkpoints)):
            state.restore(newest)
        batches = Batches(data.train, batch_size, config.seed, share).prefetched(
            state.step, num_steps, num_workers=num_workers
        )
        stack.enter_context(closing(batches))
        stack.enter_context(execution.fast_kernels(device))
        autocast, augmented = execution.autocast(config.precision, device), data.augmented
        mode = config.execution.compile
        if mode == "on" or (mode == "auto" and device.type == "cuda"):
            stack.enter_context(execution.compiling())
            augmented = execution.compiled(loss, augmented)
        if config.execution.use_checkpointing:
            stack.enter_context(execution.checkpointed(network))
        distributed: nn.Module = loss
        if processes.num > 1 and config.execution.shard_size == 1:  # FSDP2 averages by itself
            is_user_defined = isinstance(config.network, OwnNetwork)
            distributed = sharding.replicated(loss, may_leave_unused=is_user_defined)
        is_stop_requested = stack.enter_context(stop_requests())
        log, saved = stack.enter_context(Log(config, run, state, processes)), time.monotonic()

        for step in range(state.step, num_steps):
            stored, cond, rows, epochs = next(batches).on(device)
            x = augmented(stored, key, rows, epochs)
            x = x.to(memory_format=layout) if x.ndim == 4 else x
            if not config.use_labels:
                cond = None

            # The times of the global batch are a regular grid with a random offset. What depends on
            # noise levels alone is computed in float64, and sent to the device as one tensor.
            logsnr = schedule.logsnr(times(config.seed, step, batch_size))
            levels = objective.levels(logsnr)
            sent = to_device(torch.stack(levels)[:, share].float(), device)

            seed_torch(config.seed, step, share.start, 1)  # masks of dropout
            number, losses = torch.tensor(step, device=device), []
            for part in parts:
                sharding.set_is_last_part(distributed, part.stop == len(samples))
                with autocast:
                    some = distributed(
                        x[part], sent[:, part], cond_at(cond, part), number, samples[part]
                    )
                # Processes average their gradients: this is the gradient of the global mean.
                (some.sum() * processes.num / batch_size).backward()
                losses.append(some.detach())

            limit = config.optimizer.max_grad_norm
            norm = sharding.unsharded(nn.utils.clip_grad_norm_(network.parameters(), limit))
            gathered = processes.gathered(torch.cat(losses), batch_size)
            received = execution.fetched(torch.cat([gathered, norm[None]]))
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate(step)
            optimizer.step()
            optimizer.zero_grad()
            if processes.num > 1:
                sharding.broadcast(network.buffers())  # of BatchNorm, say: the main process's
            state.step += 1
            state.ema.update(network, state.step)

            # The host waits for losses and norm here, while the device updates the weights.
            numbers = received().double()
            global_losses, grad_norm = numbers[:-1], numbers[-1].item()
            if not math.isfinite(grad_norm):
                worst = int(global_losses.nan_to_num(nan=math.inf).argmax())
                what = "gradient" if global_losses.isfinite().all() else "loss"
                raise Diverged(
                    f"The {what} of step {step} is not finite (largest loss at log-SNR "
                    f"{logsnr[worst]:.2f}). Checkpoints are from earlier steps: try a lower "
                    "--optimizer.learning-rate or --precision fp32, in a new run."
                )
            state.by_level.update(logsnr, global_losses / levels.w_over_p)  # NaN (0 / 0) is skipped
            schedule.update(logsnr, global_losses)  # changes an adaptive one alone

            log.step(global_losses.mean().item(), grad_norm, is_due(config.output.log_every))
            on_images(state.step * batch_size)
            is_last = state.step == num_steps
            is_time = time.monotonic() - saved > 60 * config.output.save_minutes
            is_stopping, is_time = processes.any(is_stop_requested(), is_time)
            if is_due(config.output.validate_every) or is_last:
                denoiser = Denoiser(state.ema.network, config.parameterization)
                with autocast:
                    log.validation(denoiser, data)
            if is_due(config.output.save_every) or is_time or is_last or is_stopping:
                state.save(run.checkpoints, config.output.num_kept, processes)
                saved = time.monotonic()
            if is_stopping and not is_last:
                raise Interrupted(
                    f"Stopped at step {state.step} of {num_steps}, which is saved: "
                    "the same command resumes there."
                )


class Loss(nn.Module):
    """Training loss that contains the network, so that both compile to one graph."""

    def __init__(
        self,
        network: nn.Module,
        objective: Objective,
        null_cond: Condition,
        *,
        seed: int,
        label_dropout: float,
    ) -> None:
        super().__init__()
        self.network = network
        self._called = with_three_arguments(network)
        self._objective, self._null_cond, self._dropout = objective, null_cond, label_dropout
        self._noise = Stream.from_seed(seed, Purpose.NOISE)
        self._hiding = Stream.from_seed(seed, Purpose.LABELS)

    def forward(
        self,
        x: Float[Tensor, "b *d"],
        levels: Float[Tensor, "7 b"],
        cond: Condition,
        step: Int64[Tensor, ""],
        samples: Int64[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Return the weighted loss of each sample, in nats per dimension.

        The noise `levels` are `Objective.levels` as one tensor; `samples` are the indices of the
        samples in the global batch.
        """
        eps, cond = self.drawn(x, cond, step, samples)
        return self._objective.loss_at(Levels(*levels), self._called, x, eps, cond)

    def drawn(
        self,
        x: Float[Tensor, "b *d"],
        cond: Condition,
        step: Int64[Tensor, ""],
        samples: Int64[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b *d"], Condition]:
        """Draw the noise, and replace a share of the conditions by the null condition."""
        if cond is not None and self._dropout > 0:
            is_hidden = self._hiding.uniform(step, samples, 1)[:, 0] <= self._dropout
            cond = replace_conds(cond, self._null_cond, is_hidden)
        return self._noise.normal(step, samples, tuple(x.shape[1:])), cond


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether SIGINT or SIGTERM came, which do not end the process.

    Python handles signals in the main thread alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    handlers = [signal.signal(number, lambda n, _: received.append(n)) for number in signals]
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in zip(signals, handlers, strict=True):
            signal.signal(number, handler)
