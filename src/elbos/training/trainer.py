r"""Training: one loop, in the open.

Per step, with everything random a function of (seed, step, shard):

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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from elbos import files
from elbos.adapters.diffusers.network import DiffusersConfig
from elbos.conditions import replace_conds, to_device
from elbos.denoiser import Denoiser, with_three_arguments
from elbos.errors import Diverged, Interrupted, flat
from elbos.likelihood import warn_if_unresolved
from elbos.runs import checkpoint
from elbos.runs.directory import RunDirectory
from elbos.training.config import Config
from elbos.training.data import Batch, Batches, Samples, StoredBatch
from elbos.training.machine import autocast, described, machine
from elbos.training.monitor import Monitor, OnImages
from elbos.training.network import OwnNetwork
from elbos.training.randomness import Draw, draw
from elbos.training.run import averaged_weights
from elbos.training.snapshots import write_snapshots
from elbos.training.state import new_state, require_guidable
from elbos.training.validation import require_measurable, sample_grid, validate
from elbos.validation import Validation

NUM_TRIED = 4  # samples


class Trainer:
    """One run in one process.

    Args:
        config: What to train.
        run: Its directory, to be claimed before `train`.
        data: What to train on.
        accelerator: Devices and processes.
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
        accelerator: Accelerator,
        *,
        network: nn.Module | None = None,
        num_workers: int = 0,
    ) -> None:
        has_null = data.null_cond is not None
        require_guidable(config, data.spec, config.sampling, has_null=has_null)
        self.config, self.run, self.data, self.accelerator = config, run, data, accelerator
        self.state = new_state(config, data.spec, accelerator.device, network)
        if config.init is not None and checkpoint.latest(run.checkpoints) is None:
            self.state.begin_with(averaged_weights(config, config.init))
        if isinstance(config.network, OwnNetwork | DiffusersConfig):
            self.require_trainable()
        if accelerator.is_main_process:
            warn_if_unresolved(config.schedule.logsnr_max, data.spec.num_levels)
        self.prepared, self.optimizer = accelerator.prepare(
            self.state.network.train(), self.state.optimizer
        )
        self.network = with_three_arguments(self.state.network, self.prepared)
        self.objective = replace(config.objective, schedule=self.state.schedule)
        self.shards = _share(config.num_shards, accelerator)
        size = config.batch_size // config.num_shards
        share = slice(self.shards.start * size, self.shards.stop * size)
        self.batches = Batches(data.training, config.batch_size, config.seed, share, data.flip)
        self.num_workers = num_workers
        self.ahead: Iterator[StoredBatch] | None = None

    def require_trainable(self) -> None:
        """Raise a ValueError if a network that is not ours has no loss with a gradient on a few
        samples, or no bound on those for validation. Computed on copies: what cannot be trained
        leaves no trace.
        """
        config, data, device = self.config, self.data, self.accelerator.device
        num = min(config.batch_size, NUM_TRIED)
        x, cond = data.training.batch(torch.arange(num) % len(data.training))
        x, cond = x.to(device), to_device(cond, device) if config.use_labels else None
        if cond is not None and config.label_dropout > 0:
            cond = replace_conds(cond, data.null_cond, torch.arange(num) % 2 == 0)
        network, name = copy.deepcopy(self.state.network).train(), type(self.state.network).__name__
        times = (torch.arange(num) + 0.5) / num
        with _refusing(f"The network {name} cannot be trained on x of shape {tuple(x.shape)}"):
            with autocast(config, device):
                loss = config.objective(
                    network, x, torch.zeros_like(x), config.schedule.logsnr(times), cond
                )
            if not loss.requires_grad:
                raise ValueError("its output has no gradient: compute it from weights, with grad")
            loss.mean().backward()  # type: ignore[no-untyped-call]
            copy.deepcopy(network)  # as of a `Run`; a network that keeps its activations has none
        denoiser = Denoiser(self.state.ema.network, config.parameterization)
        with _refusing("The validation set cannot be measured"), autocast(config, device):
            require_measurable(denoiser, config, data, device)

    def train(self, on_images: OnImages) -> None:
        """Run the steps that are left."""
        config, state, accelerator = self.config, self.state, self.accelerator
        self.resume()
        steps = state.step, config.num_steps
        ahead = self.ahead = self.batches.made_ahead(*steps, num_workers=self.num_workers)
        monitor = Monitor(
            config,
            self.run,
            state,
            machine=f"{machine(accelerator.device)['device']}, {described(config, accelerator)}",
            is_main=accelerator.is_main_process,
            on_images=on_images,
        )
        with monitor, closing(ahead), _stop_requests() as is_stop_requested:
            while state.step < config.num_steps:
                losses, grad_norm = self.step()
                is_last = state.step == config.num_steps
                is_stopping = self.agree(is_stop_requested())
                if accelerator.is_main_process:
                    self.run.require_present()
                monitor.step(losses, grad_norm)
                if self.is_due(config.snapshot_every):
                    write_snapshots(
                        self.run.averages,
                        state.step,
                        state.ema,
                        is_main=accelerator.is_main_process,
                    )
                if accelerator.is_main_process:
                    if self.is_due(config.output.validate_every) or is_last:
                        monitor.validation(self.validate())
                    if self.is_due(config.output.save_every) or is_last or is_stopping:
                        self.save()
                if is_stopping and not is_last:
                    accelerator.wait_for_everyone()  # a launcher ends all when the first one ends
                    raise Interrupted(
                        f"Stopped at step {state.step} of {config.num_steps}, which is saved: "
                        "the same command resumes there."
                    )

    def step(self) -> tuple[Float[Tensor, " B"], float]:
        """One step; returns the losses of the global batch and the norm of the gradient."""
        config, state, accelerator = self.config, self.state, self.accelerator
        x, cond = self.batch()
        random = self.draw()
        if cond is not None and config.label_dropout > 0:
            cond = replace_conds(cond, self.data.null_cond, random.uniform < config.label_dropout)
        logsnr = self.objective.schedule.logsnr(random.times)
        with autocast(config, accelerator.device):
            loss = self.objective(self.network, x, random.eps, logsnr, cond)  # [b], nats/dim
        grad_norm = self.optimize(loss, logsnr)
        state.step += 1
        state.ema.update(state.network, state.step)
        loss = loss.detach()
        levels, w_over_p = torch.stack([logsnr, self.objective.w_over_p(logsnr)]).to(loss)
        observed = accelerator.gather(torch.stack([levels, loss, loss / w_over_p], 1))
        levels, losses, unweighted = observed.unbind(1)
        state.by_level.update(levels, unweighted)  # without weight, 0 / 0, which is left out
        state.schedule.update(levels, losses)  # only an adaptive one changes
        return losses, grad_norm

    def resume(self) -> None:
        """Restore the latest checkpoint, if there is one. Initial weights of another run become a
        checkpoint, so that the other run is not needed again.
        """
        if (newest := checkpoint.latest(self.run.checkpoints)) is not None:
            with checkpoint.reading(newest) as (step, groups):
                self.state.restore(step, groups)
        elif self.config.init is not None and self.accelerator.is_main_process:
            self.save()

    def batch(self) -> Batch:
        """This process's share of the step's batch: data in [-1, 1], and their condition."""
        stored = next(self.ahead) if self.ahead else self.batches[self.state.step]
        x, cond = stored.on(self.accelerator.device, self.data.spec.num_levels)
        return x, cond if self.config.use_labels else None

    def draw(self) -> Draw:
        """This process's share of the step's randomness."""
        return draw(
            self.config.seed,
            self.state.step,
            batch_size=self.config.batch_size,
            num_shards=self.config.num_shards,
            shards=self.shards,
            shape=self.data.spec.shape,
            device=self.accelerator.device,
        )

    def optimize(self, loss: Float[Tensor, " b"], logsnr: Float[Tensor, " b"]) -> float:
        """One step of the optimizer; returns the norm of the gradient, before clipping."""
        self.accelerator.backward(loss.mean())
        grad_norm: float = self.accelerator.clip_grad_norm_(
            self.prepared.parameters(), self.config.optimizer.max_grad_norm
        ).item()
        if not math.isfinite(grad_norm):
            levels, losses = self.accelerator.gather((logsnr.to(loss), loss.detach()))
            worst = levels[int(losses.nan_to_num(nan=math.inf).argmax())].item()
            what = "gradient" if losses.isfinite().all() else "loss"
            raise Diverged(
                f"The {what} of step {self.state.step} is not finite (largest loss at log-SNR "
                f"{worst:.2f}). A checkpoint, if there is one, is from before it: try a lower "
                "--optimizer.learning-rate or --precision fp32, in a new run."
            )
        for group in self.state.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return grad_norm

    def learning_rate(self) -> float:
        """Linear warm-up times cosine decay, if there is one, at the present step."""
        config, step = self.config, self.state.step
        num_images = (step + 1) * config.batch_size
        warmup = min(1.0, num_images / max(config.optimizer.warmup_images, 1))
        decay = 0.5 * (1 + math.cos(math.pi * step / config.num_steps))
        if not config.optimizer.use_decay:
            decay = 1.0
        return config.optimizer.learning_rate * warmup * decay

    def is_due(self, every: int) -> bool:
        """Whether the last step crossed a multiple of `every` images."""
        now = self.state.step * self.config.batch_size
        return now // every > (now - self.config.batch_size) // every

    def agree(self, is_requested: bool) -> bool:
        """Whether any process was requested to."""
        flag = torch.tensor([is_requested], device=self.accelerator.device)
        return bool(self.accelerator.gather(flag).any())

    def validate(self) -> Validation | None:
        """The bound on validation samples, if there are any; and write a grid of samples."""
        config, device = self.config, self.accelerator.device
        denoiser = Denoiser(self.state.ema.network, config.parameterization)
        with autocast(config, device):
            found = validate(denoiser, config, self.data, device)
            grid = sample_grid(denoiser, config, self.data, device)
        if grid is not None:
            self.run.samples.mkdir(exist_ok=True)
            files.write(self.run.samples / f"{self.state.step:08d}.png", grid)
        return found

    def save(self) -> None:
        """Write a checkpoint."""
        self.run.require_present()
        checkpoint.save(
            self.run.checkpoints,
            self.state.step,
            self.state.groups(),
            num_kept=self.config.output.num_kept,
        )


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Make any error a ValueError that says what cannot be done, and why."""
    try:
        yield
    except Exception as error:  # of the user's code, of any type
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{flat(error)[:300]}") from error


def _share(num_shards: int, accelerator: Accelerator) -> range:
    """The shards of this process."""
    if num_shards % accelerator.num_processes:
        raise ValueError(
            f"{accelerator.num_processes} processes do not divide {num_shards} shards: "
            "change --num-shards or the number of processes."
        )
    size = num_shards // accelerator.num_processes
    return range(accelerator.process_index * size, (accelerator.process_index + 1) * size)


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
