r"""Training loop: the steps of the training, with losses, updates of the weights and validation.

Per step, with everything random a function of (seed, step, sample):

$$u, \epsilon \to \lambda = f(u) \to z = \alpha x + \sigma\epsilon \to \hat y
  \to \ell = \tfrac12 \tfrac{w}{p}\|\hat\epsilon - \epsilon\|^2
  \to \nabla \to \theta, \bar\theta, p.$$

Only this file changes the state (`State`): the weights, their averages, the optimizer and, if the
schedule is adaptive, its histogram. The sums of the log's next line, also there, are the monitor's.
All of it is in the checkpoint, so the same command again resumes there, bit for bit.
"""

import copy
import gc
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from elbos.base import files
from elbos.base.conditions import Condition, cond_at, replace_conds, to_device
from elbos.base.errors import Diverged, Interrupted
from elbos.base.items import Batch
from elbos.base.philox import Purpose, Stream, key_of
from elbos.base.processes import Processes
from elbos.models.likelihood import warn_if_unresolved
from elbos.models.networks.diffusers import DiffusersConfig
from elbos.theory.denoiser import Denoiser, with_three_arguments
from elbos.theory.objective import Objective
from elbos.training import checkpoint, execution, sharding
from elbos.training.config import Config
from elbos.training.data import Batches, Samples, StoredBatch
from elbos.training.directory import RunDirectory
from elbos.training.exported import initial_weights
from elbos.training.monitor import Monitor, OnImages
from elbos.training.network import OwnNetwork
from elbos.training.randomness import Visits, seed_torch, times
from elbos.training.state import (
    build_network,
    in_format,
    memory_format,
    new_state,
    require_guidable,
)
from elbos.training.trial import require_trainable
from elbos.training.validation import sample_grid, validate
from elbos.validation import Validation


class Loss(nn.Module):
    """Training loss that contains the network, so that both compile to one graph."""

    network: nn.Module

    def __init__(
        self, network: nn.Module, objective: Objective, config: Config, null_cond: Condition
    ) -> None:
        super().__init__()
        self.network = network
        self._called = with_three_arguments(network)
        self._objective, self._share, self._null_cond = objective, config.label_dropout, null_cond
        self._noise = Stream.from_seed(config.seed, Purpose.NOISE)
        self._hiding = Stream.from_seed(config.seed, Purpose.LABELS)

    def forward(
        self,
        x: Float[Tensor, "b *d"],
        levels: Float[Tensor, "7 b"],
        cond: Condition,
        step: Int64[Tensor, ""],
        samples: Int64[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Return the weighted loss of each sample, in nats per dimension.

        The noise `levels` are in the format of `Objective.levels`; `samples` are the indices of the
        samples in the global batch.
        """
        eps, cond = self.drawn(x, cond, step, samples)
        return self._objective.loss_at(levels, self._called, x, eps, cond)

    def drawn(
        self,
        x: Float[Tensor, "b *d"],
        cond: Condition,
        step: Int64[Tensor, ""],
        samples: Int64[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b *d"], Condition]:
        if cond is not None and self._share > 0:
            is_hidden = self._hiding.uniform(step, samples, 1)[:, 0] <= self._share
            cond = replace_conds(cond, self._null_cond, is_hidden)
        return self._noise.normal(step, samples, tuple(x.shape[1:])), cond


class Trainer:
    """Training loop of a run.

    Each process trains on its share of every batch. The run directory has to be claimed before
    `train`. The network is user-defined, by default as `config` describes. `num_workers` processes
    prefetch batches, by default threads.

    Raises:
        ValueError: If network, data and number of processes do not fit each other, or a
            user-defined network cannot be trained.
    """

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        data: Samples,
        processes: Processes,
        *,
        network: nn.Module | None = None,
        num_workers: int = 0,
    ) -> None:
        if config.batch_size < processes.num:
            raise ValueError(
                f"batch_size {config.batch_size} is less than one sample for each of "
                f"{processes.num} processes: change one of them."
            )
        require_guidable(config, data.spec, config.sampling, has_null=data.null_cond is not None)
        self.config, self.run, self.data, self.processes = config, run, data, processes
        self.device, self.num_workers = processes.device, num_workers
        self.given = network  # the user's network, or None
        self.share = processes.share(config.batch_size)
        self.samples = torch.arange(config.batch_size, device=self.device)[self.share]
        self.key = key_of(config.seed)
        self.number = torch.zeros((), dtype=torch.int64, device=self.device)  # number of the step
        self.batches = Batches(data.train, config.batch_size, config.seed, self.share)
        self.prefetched: Iterator[StoredBatch] | None = None
        self.waited = 0.0  # seconds spent waiting for batches
        self.saver = checkpoint.Saver(run.checkpoints, processes, config.output.num_kept)

        is_own, shard_size = isinstance(config.network, OwnNetwork), config.execution.shard_size
        if network is None:
            network = build_network(config, data.spec)
        if processes.num > 1:
            if self.given is not None and shard_size > 1:
                network = copy.deepcopy(network)  # the user's network stays unsharded
            if is_own:
                sharding.share_initial(network.to(self.device))
        self.memory_format = memory_format(network)  # lost by sharding
        if shard_size == 1:  # FSDP2 sends a block at a time, of which only the shard stays
            network = network.to(self.device)
        uses_all = True
        if is_own or isinstance(config.network, DiffusersConfig):
            uses_all = require_trainable(network, config, data, processes)
        # a user's blocks may be used other than by a call, which gathers them one by one
        self.state = new_state(network, config, processes, by_blocks=not is_own)
        if config.init is not None and checkpoint.latest(run.checkpoints) is None:
            weights = initial_weights(config, config.init)
            with checkpoint.belonging(config.init):
                self.state.start_from(weights)
        if processes.is_main:
            warn_if_unresolved(config.schedule.logsnr_max, data.spec.num_levels)
        self.state.network.train()
        self.objective = replace(config.objective, schedule=self.state.schedule)
        self.blocks = sharding.blocks(network) if config.execution.use_checkpointing else []
        loss = Loss(network, self.objective, config, to_device(data.null_cond, self.device))
        self.augmented = data.augmented
        self.is_compiled = execution.is_compiled(config, self.device)
        if self.is_compiled:
            self.augmented = execution.one_graph(data.augmented)
            execution.compile_(loss)
        is_alone = processes.num == 1 or shard_size > 1  # FSDP2 needs no DDP
        self.loss = loss if is_alone else sharding.replicated(loss, uses_all=uses_all)

    # --- the loop --------------------------------------------------------------------------------

    def train(self, on_images: OnImages) -> None:
        """Train to the last step from the latest checkpoint, or from step 0."""
        config, output, state, saver = self.config, self.config.output, self.state, self.saver
        profiled = execution.profiled(config.execution.profile, self.run.path, self.processes)
        self.resume()
        with self._running(on_images) as (monitor, is_stop_requested), profiled as profile_step:
            while state.step < config.num_steps:
                with execution.compiling(is_on=self.is_compiled):
                    losses, grad_norm = self.step()
                is_last = state.step == config.num_steps
                is_stopping, is_time, has_failed = self.processes.any(
                    is_stop_requested(), saver.is_time(output.save_minutes), saver.has_failed
                )
                monitor.step(losses, grad_norm, waited=self.waited)
                profile_step()
                if self.processes.num > 1 and config.is_due(output.log_every, state.step):
                    gc.collect(1)  # all processes collect at once: nobody waits for another's
                if has_failed:
                    saver.wait()  # raises the error in all processes
                if config.is_due(output.validate_every, state.step) or is_last:
                    with monitor.paused():
                        monitor.validation(self.validate())
                is_due = config.is_due(output.save_every, state.step)
                if is_due or is_time or is_last or is_stopping:
                    saver.save(state.step, state.groups())
                if is_last or is_stopping:
                    saver.wait()  # all processes wait: a launcher ends all when the first one ends
                if is_stopping and not is_last:
                    raise Interrupted(
                        f"Stopped at step {state.step} of {config.num_steps}, which is saved: "
                        "the same command resumes there."
                    )

    def step(self) -> tuple[Float[Tensor, " B"], float]:
        """Execute one training step, and return all losses and the gradient norm before clipping.

        Everything that depends on the noise levels goes to the device as one tensor, and losses and
        norm come back as one tensor. The update of weights and average is launched before the host
        waits for them, so that the device has work meanwhile.
        """
        state = self.state
        logsnr = self.logsnr()
        levels = self.objective.levels(logsnr)
        losses = self.differentiate(execution.sent(levels[:, self.share].float(), self.device))
        received = self.observed(losses)
        self.optimize()
        state.step += 1
        state.ema.update(state.network, state.step)
        numbers = received().double()
        losses, grad_norm = numbers[:-1], numbers[-1].item()
        if not math.isfinite(grad_norm):
            worst = logsnr[int(losses.nan_to_num(nan=math.inf).argmax())].item()
            what = "gradient" if losses.isfinite().all() else "loss"
            raise Diverged(
                f"The {what} of step {state.step - 1} is not finite (largest loss at log-SNR "
                f"{worst:.2f}). Checkpoints are from earlier steps: try a lower "
                "--optimizer.learning-rate or --precision fp32, in a new run."
            )
        state.by_level.update(logsnr, losses / levels[6])  # NaN (0 / 0) is skipped
        state.schedule.update(logsnr, losses)  # changes adaptive schedules alone
        return losses, grad_norm

    def logsnr(self) -> Float64[Tensor, " B"]:
        config, step = self.config, self.state.step
        return self.state.schedule.logsnr(times(config.seed, step, config.batch_size))

    def batch(self) -> Batch:
        """Return this process's data, in [-1, 1], and their conditions or None."""
        since = time.perf_counter()
        stored = next(self.prefetched) if self.prefetched else self.batches[self.state.step]
        self.waited += time.perf_counter() - since
        x, cond, rows, epochs = stored.on(self.device)
        x = in_format(self.augmented(x, Visits(self.key, rows, epochs)), self.memory_format)
        return x, cond if self.config.use_labels else None

    def differentiate(self, levels: Float[Tensor, "7 b"]) -> Float[Tensor, " b"]:
        """Compute gradients of the global mean loss, and return this process's losses."""
        config, num, num_processes = self.config, len(self.samples), self.processes.num
        x, cond = self.batch()
        self.number.fill_(self.state.step)
        seed_torch(config.seed, self.state.step, self.share.start, 1)
        smallest = config.batch_size // num_processes  # equally many parts in all processes
        num_parts = min(config.execution.num_micro_batches, smallest)
        scale, losses = num_processes / config.batch_size, []  # gradients of processes are averaged
        for i in range(num_parts):
            part = slice(num * i // num_parts, num * (i + 1) // num_parts)
            sharding.set_is_last_part(self.loss, i == num_parts - 1)
            with execution.autocast(config.precision, self.device):
                loss = self.loss(
                    x[part], levels[:, part], cond_at(cond, part), self.number, self.samples[part]
                )
            (loss.sum() * scale).backward()
            losses.append(loss.detach())
        return torch.cat(losses)

    def observed(self, losses: Float[Tensor, " b"]) -> Callable[[], Float[Tensor, " B+1"]]:
        """Clip the gradients; return a function that waits for all losses and the norm before."""
        limit = self.config.optimizer.max_grad_norm
        norm = sharding.unsharded(nn.utils.clip_grad_norm_(self.state.network.parameters(), limit))
        losses = self.processes.gathered(losses, self.config.batch_size)
        return execution.fetched(torch.cat([losses, norm[None]]))

    def optimize(self) -> None:
        optimizer = self.state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.state.step)
        optimizer.step()
        optimizer.zero_grad()
        if self.processes.num > 1:
            sharding.share_buffers(self.state.network)

    def validate(self) -> Validation | None:
        """Estimate the validation ELBO, if there is a validation set, and write a sample grid."""
        config, device = self.config, self.device
        denoiser = Denoiser(self.state.ema.network, config.parameterization)
        with execution.autocast(config.precision, device):
            is_shared = self.processes.num > 1
            result = validate(denoiser, config, self.data, device, is_shared=is_shared)
            grid = sample_grid(denoiser, config, self.data, device)
        if grid is not None and self.processes.is_main:
            self.run.samples.mkdir(exist_ok=True)
            files.write(self.run.samples / f"{self.state.step:08d}.png", grid)
        return result

    # --- before and after ------------------------------------------------------------------------

    def resume(self) -> None:
        """Restore the latest checkpoint, or save the initial weights loaded from another run."""
        if newest := self.processes.from_main(checkpoint.latest(self.run.checkpoints)):
            step, groups = checkpoint.read(newest)
            with checkpoint.belonging(newest):
                self.state.restore(step, groups)
        elif self.config.init is not None:
            self.saver.save(self.state.step, self.state.groups())

    @contextmanager
    def _running(self, on_images: OnImages) -> Iterator[tuple[Monitor, Callable[[], bool]]]:
        config, state = self.config, self.state
        prefetched = self.batches.prefetched(
            state.step, config.num_steps, num_workers=self.num_workers
        )
        monitor = Monitor(config, self.run, state, self.processes, on_images)
        try:
            with (
                sharding.returning_views(),
                self.saver,
                monitor,
                closing(prefetched),
                execution.checkpointed(self.blocks),
                execution.fast_kernels(self.device),
                execution.collecting_seldom(self.processes),
                _stop_requests() as is_stop_requested,
            ):
                self.prefetched = prefetched
                yield monitor, is_stop_requested
        except (Diverged, Interrupted):  # raised by all processes
            self._hand_over()
            raise
        self._hand_over()

    def _hand_over(self) -> None:
        # all processes gather the weights of a sharded copy, for the user's network
        if self.given is not None and self.given is not self.state.network:
            weights = self.state.network.state_dict()
            self.given.load_state_dict({name: sharding.unsharded(t) for name, t in weights.items()})


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    # Python handles signals in the main thread alone
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
