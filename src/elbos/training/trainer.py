r"""Training: one loop, in the open.

Per step, with everything random a function of (seed, step, sample):

$$u, \epsilon \to \lambda = f(u) \to z = \alpha x + \sigma\epsilon \to \hat y
  \to \ell = \tfrac12 \tfrac{w}{p}\|\hat\epsilon - \epsilon\|^2
  \to \nabla \to \theta, \bar\theta, p.$$

Only this file changes state (`State`): the weights, their average, the optimizer and, if the
schedule is adaptive, its histogram. All of it is in the checkpoint, so the same command again
resumes there, bit for bit.
"""

import copy
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from elbos.adapters.diffusers.network import DiffusersConfig
from elbos.base import files
from elbos.base.conditions import cond_at, to_device
from elbos.base.errors import Diverged, Interrupted
from elbos.base.philox import key_of
from elbos.models.likelihood import warn_if_unresolved
from elbos.theory.denoiser import Denoiser, network_output
from elbos.training import checkpoint
from elbos.training.checkpointing import blocks, checkpointed
from elbos.training.compilation import compile_, compiling, is_compiled, one_graph
from elbos.training.config import Config
from elbos.training.data import Batch, Batches, Samples, StoredBatch
from elbos.training.directory import RunDirectory
from elbos.training.initial import averaged_weights
from elbos.training.loss import Loss
from elbos.training.machine import (
    autocast,
    described,
    fast_kernels,
    machine,
    peak_flops,
    record,
)
from elbos.training.monitor import Monitor, OnImages
from elbos.training.network import OwnNetwork
from elbos.training.processes import Processes
from elbos.training.randomness import Visits, seed_torch, times
from elbos.training.saving import Saver
from elbos.training.sharding import (
    replicated,
    require_shareable,
    returning_views,
    set_is_last_part,
    sharded_parts,
    share_buffers,
    share_initial,
    whole,
)
from elbos.training.state import (
    build_network,
    in_format,
    memory_format,
    new_state,
    require_guidable,
)
from elbos.training.trial import Trial, require_trainable
from elbos.training.validation import sample_grid, validate
from elbos.validation import Validation


class Trainer:
    """One run in one process.

    Args:
        config: What to train.
        run: Its directory, to be claimed before `train`.
        data: What to train on.
        processes: Those that train it.
        network: A user-defined network. Default: the one that `config` describes.
        num_workers: Processes that make batches ahead. Default: none, this process makes them.

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
        has_null = data.null_cond is not None
        require_guidable(config, data.spec, config.sampling, has_null=has_null)
        _require_enough(config, processes)
        self.config, self.run, self.data, self.processes = config, run, data, processes
        self.device = processes.device
        self.given = network
        if network is None:
            network = build_network(config, data.spec, self.device)
        num_parts, num_kept = config.execution.shard_size, config.output.num_kept
        if processes.num > 1:
            require_shareable(network, num_parts)
            if self.given is not None and num_parts > 1:
                network = copy.deepcopy(network)  # the user's stays whole
        self.memory_format = memory_format(network)  # which weights lose that are cut up
        trial = Trial()
        if isinstance(config.network, OwnNetwork) and processes.num > 1:
            share_initial(network.to(self.device))
        if isinstance(config.network, OwnNetwork | DiffusersConfig):
            trial = require_trainable(network.to(self.device), config, data, processes)
        self.state = new_state(network, config, processes, by_blocks=trial.by_blocks)
        if config.init is not None and checkpoint.latest(run.checkpoints) is None:
            self.state.begin_with(averaged_weights(config, config.init))
        if processes.is_main:
            warn_if_unresolved(config.schedule.logsnr_max, data.spec.num_levels)
        self.state.network.train()
        self.objective = replace(config.objective, schedule=self.state.schedule)
        loss = Loss(network, self.objective, config, to_device(data.null_cond, self.device))
        self.share = processes.share(config.batch_size)
        self.samples = torch.arange(config.batch_size, device=self.device)[self.share]
        self.key = key_of(config.seed)
        self.number = torch.zeros((), dtype=torch.int64, device=self.device)  # of the step
        self.batches = Batches(data.training, config.batch_size, config.seed, self.share)
        self.num_workers = num_workers
        self.ahead: Iterator[StoredBatch] | None = None
        self.waited = 0.0  # seconds, for batches
        self.saver = Saver(run, processes, num_parts=num_parts, num_kept=num_kept)
        self.blocks = blocks(network) if config.execution.use_checkpointing else []
        self.augmented = data.augmented
        self.is_compiled = is_compiled(config, self.device)
        if self.is_compiled:
            self.augmented = one_graph(data.augmented)
            compile_(loss)
        is_alone = processes.num == 1 or num_parts > 1  # shards send their gradients themselves
        self.loss = loss if is_alone else replicated(loss, uses_all=trial.uses_all)

    def train(self, on_images: OnImages) -> None:
        """Run the steps that are left."""
        config, state, processes = self.config, self.state, self.processes
        self.resume()
        steps = state.step, config.num_steps
        ahead = self.ahead = self.batches.made_ahead(*steps, num_workers=self.num_workers)
        monitor = Monitor(
            config,
            self.run,
            state,
            machine=self.described(),
            seconds_per_image=self.seconds_per_image(),
            is_main=processes.is_main,
            on_images=on_images,
        )
        with (
            returning_views(),
            self._trained_in_place(),
            self.saver,
            monitor,
            closing(ahead),
            checkpointed(self.blocks),
            fast_kernels(config, self.device),
            _stop_requests() as is_stop_requested,
        ):
            if processes.is_main:
                monitor.note_changes(record(config, self.device))
            while state.step < config.num_steps:
                with compiling(is_on=self.is_compiled):
                    losses, grad_norm = self.step()
                is_last = state.step == config.num_steps
                is_time = processes.is_main and self.saver.is_time(config.output.save_minutes)
                is_stopping, is_time, is_busy = processes.any(
                    is_stop_requested(), is_time, self.saver.is_busy
                )
                if processes.is_main:
                    self.run.require_present()
                monitor.step(losses, grad_norm, waited=self.waited)
                if not is_busy:
                    self.saver.go_on()
                if self.is_due(config.snapshot_every):
                    self.saver.save_snapshots(state.step, state.ema)
                if self.is_due(config.output.validate_every) or is_last:
                    found = self.validate()
                    if processes.is_main:
                        monitor.validation(found)
                if self.is_due(config.output.save_every) or is_time or is_last or is_stopping:
                    self.saver.save(state.step, state.groups())
                if is_last or is_stopping:
                    self.saver.wait()  # in all: a launcher ends all when the first one ends
                if is_stopping and not is_last:
                    raise Interrupted(
                        f"Stopped at step {state.step} of {config.num_steps}, which is saved: "
                        "the same command resumes there."
                    )

    @contextmanager
    def _trained_in_place(self) -> Iterator[None]:
        """Give the user's network, of which several processes train a copy, the weights in the end,
        also where all of them stop.
        """
        try:
            yield
        except (Diverged, Interrupted):
            self._hand_over()
            raise
        self._hand_over()

    def _hand_over(self) -> None:
        if self.given is not None and self.given is not self.state.network:
            weights = self.state.network.state_dict()
            self.given.load_state_dict({name: whole(t) for name, t in weights.items()})

    def step(self) -> tuple[Float[Tensor, " B"], float]:
        """One step; returns the losses of the global batch and the norm of the gradient, before
        clipping.

        Everything that depends on the noise levels goes to the device as one tensor, and losses and
        the norm come back as one: the device waits for nothing else.
        """
        state = self.state
        logsnr = self.logsnr()
        levels = self.objective.levels(logsnr)
        own_levels = levels[:, self.share].to(self.device, torch.float32)
        losses, grad_norm = self.observed(self.differentiate(own_levels))
        self.require_finite(logsnr, losses, grad_norm)
        self.optimize()
        state.step += 1
        state.ema.update(state.network, state.step)
        state.by_level.update(logsnr, losses / levels[6])  # 0 / 0 is left out
        state.schedule.update(logsnr, losses)  # only an adaptive one changes
        return losses, grad_norm

    def logsnr(self) -> Float64[Tensor, " B"]:
        """The noise levels of the global batch, on the CPU."""
        config, step = self.config, self.state.step
        return self.state.schedule.logsnr(times(config.seed, step, config.batch_size))

    def differentiate(self, levels: Float[Tensor, "7 b"]) -> Float[Tensor, " b"]:
        """The losses of this process's share of the batch, with the gradients of their mean over
        the global batch.
        """
        config, num, num_processes = self.config, len(self.samples), self.processes.num
        x, cond = self.batch()
        self.number.fill_(self.state.step)
        seed_torch(config.seed, self.state.step, self.share.start, 1)
        smallest = config.batch_size // num_processes  # all have as many parts: each gathers
        num_parts = min(config.execution.num_micro_batches, smallest)
        scale, losses = num_processes / config.batch_size, []  # processes are averaged over
        for i in range(num_parts):
            part = slice(num * i // num_parts, num * (i + 1) // num_parts)
            set_is_last_part(self.loss, i == num_parts - 1)
            with autocast(config, self.device):
                loss = self.loss(
                    x[part], levels[:, part], cond_at(cond, part), self.number, self.samples[part]
                )
            (loss.sum() * scale).backward()
            losses.append(loss.detach())
        return torch.cat(losses)

    def observed(self, losses: Float[Tensor, " b"]) -> tuple[Float64[Tensor, " B"], float]:
        """The losses of the global batch, on the CPU, and the norm of the gradient, which is then
        clipped.
        """
        limit = self.config.optimizer.max_grad_norm
        norm = whole(nn.utils.clip_grad_norm_(self.state.network.parameters(), limit))
        losses = self.processes.gathered(losses, self.config.batch_size)
        *found, grad_norm = torch.cat([losses, norm[None]]).tolist()
        return torch.tensor(found, dtype=torch.float64), grad_norm

    def require_finite(
        self, logsnr: Float64[Tensor, " B"], losses: Float64[Tensor, " B"], grad_norm: float
    ) -> None:
        """Raise a Diverged if the gradient is not finite; nothing has changed then."""
        if math.isfinite(grad_norm):
            return
        worst = logsnr[int(losses.nan_to_num(nan=math.inf).argmax())].item()
        what = "gradient" if losses.isfinite().all() else "loss"
        raise Diverged(
            f"The {what} of step {self.state.step} is not finite (largest loss at log-SNR "
            f"{worst:.2f}). A checkpoint, if there is one, is from before it: try a lower "
            "--optimizer.learning-rate or --precision fp32, in a new run."
        )

    def optimize(self) -> None:
        """One step of the optimizer along the gradients."""
        optimizer = self.state.optimizer
        for group in optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.state.step)
        optimizer.step()
        optimizer.zero_grad()
        if self.processes.num > 1:
            share_buffers(self.state.network)

    def resume(self) -> None:
        """Restore the latest checkpoint, if there is one, of which each process verifies some files
        and reads its part. Initial weights of another run become a checkpoint, so that the other
        run is not needed again.
        """
        processes = self.processes
        if newest := processes.from_main(checkpoint.latest(self.run.checkpoints)):
            share = slice(processes.rank, None, processes.num)
            processes.together(lambda: checkpoint.verify(newest, share=share))
            with checkpoint.opened(newest) as (step, groups):
                self.state.restore(step, groups)
        elif self.config.init is not None:
            self.saver.save(self.state.step, self.state.groups())

    def batch(self) -> Batch:
        """This process's share of the step's batch: data in [-1, 1], and their condition."""
        since = time.perf_counter()
        stored = next(self.ahead) if self.ahead else self.batches[self.state.step]
        self.waited += time.perf_counter() - since
        x, cond, rows, epochs = stored.on(self.device)
        x = in_format(self.augmented(x, Visits(self.key, rows, epochs)), self.memory_format)
        return x, cond if self.config.use_labels else None

    def is_due(self, every: int | None) -> bool:
        """Whether the last step crossed a multiple of `every` images."""
        if every is None:
            return False
        now = self.state.step * self.config.batch_size
        return now // every > (now - self.config.batch_size) // every

    def described(self) -> str:
        """Processes, device and precision, as text."""
        num = self.processes.num
        shared = f"{num} processes, each with " if num > 1 else ""
        device = machine(self.device)["device"]
        return f"{shared}{device}, {described(self.config, self.device)}"

    def seconds_per_image(self) -> float | None:
        """The time of an image at the peak of all devices, if it is known: three times the FLOPs of
        the averaged network's forward pass, as the backward pass has twice those of forward.
        """
        peak = peak_flops(self.config, self.device)
        if peak is None or sharded_parts(self.state.ema.network):
            return None
        from torch.utils.flop_counter import FlopCounterMode  # takes half a second to import

        x, cond, rows, epochs = self.batches[self.state.step].on(self.device)
        x = self.data.augmented(x, Visits(self.key, rows, epochs))[:1]
        cond = cond_at(cond, slice(1)) if self.config.use_labels else None
        with FlopCounterMode(display=False) as counter, autocast(self.config, self.device):
            network_output(self.state.ema.network, x, x.new_zeros(1), cond)
        num_flops: int = counter.get_total_flops()
        return 3 * num_flops / (peak * self.processes.num)

    def validate(self) -> Validation | None:
        """The bound on validation samples, if there are any; and write a grid of samples."""
        config, device = self.config, self.device
        denoiser = Denoiser(self.state.ema.network, config.parameterization)
        with autocast(config, device):
            is_shared = self.processes.num > 1
            found = validate(denoiser, config, self.data, device, is_shared=is_shared)
            grid = sample_grid(denoiser, config, self.data, self.processes)
        if grid is not None and self.processes.is_main:
            self.run.samples.mkdir(exist_ok=True)
            files.write(self.run.samples / f"{self.state.step:08d}.png", grid)
        return found


def _require_enough(config: Config, processes: Processes) -> None:
    """Raise a ValueError if some process would have no sample."""
    if config.batch_size < processes.num:
        raise ValueError(
            f"batch_size {config.batch_size} is less than one sample for each of {processes.num} "
            "processes: change one of them."
        )


@contextmanager
def _stop_requests() -> Iterator[Callable[[], bool]]:
    """Turn SIGINT and SIGTERM into a request to stop, which is honoured between two steps. Python
    handles signals in the main thread alone: elsewhere nothing is requested.
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
