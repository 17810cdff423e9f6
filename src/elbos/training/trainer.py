r"""Training: one loop, in the open.

Per step, with everything random a function of (seed, step, shard):

$$u, \epsilon \to \lambda = f(u) \to z = \alpha x + \sigma\epsilon \to \hat y
  \to \ell = \tfrac12 \tfrac{w}{p}\|\hat\epsilon - \epsilon\|^2
  \to \nabla \to \theta, \bar\theta, p.$$

Only this file changes state (`State`): the weights, their average, the optimizer and, if the
schedule is adaptive, its histogram. All of it is in the checkpoint, so the same command again goes
on from there, bit for bit.
"""

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from jaxtyping import Float, Int
from torch import Tensor

from elbos import files
from elbos.denoiser import Denoiser
from elbos.errors import Diverged, Interrupted
from elbos.likelihood import warn_if_unresolved
from elbos.runs import checkpoint
from elbos.runs.directory import RunDirectory
from elbos.schedules import Linear
from elbos.training.config import Config
from elbos.training.data import Dataset, batch_indices, to_unit
from elbos.training.machine import machine
from elbos.training.monitor import Monitor, OnImages
from elbos.training.pictures import png
from elbos.training.precision import autocast, described, resolved
from elbos.training.randomness import Draw, draw, generator
from elbos.training.sampling import sample
from elbos.training.state import new_accelerator, new_state, uses_labels
from elbos.training.trained import averaged_weights
from elbos.training.validation import split_bound

NUM_VALIDATION_IMAGES = 500
NUM_VALIDATION_TIMES = 4
NUM_GRID_IMAGES = 64


def train(config: Config, path: Path, on_images: OnImages = lambda _: None) -> None:
    """Train in a run directory, from its latest checkpoint if it has one.

    Args:
        config: What to train.
        path: The run directory; made if it is not there.
        on_images: Called with the number of images seen, after each step.

    Raises:
        ValueError: If the directory is of another configuration, or in use, or the data or the
            latest checkpoint are unusable.
        Diverged: If a loss or gradient is not finite; the latest checkpoint is from before it.
        Interrupted: On SIGINT or SIGTERM, with a checkpoint written.
        OSError: If something cannot be written; the latest checkpoint is whole.
    """
    accelerator, run = new_accelerator(), RunDirectory(path)
    config = resolved(config, run, accelerator)
    trainer = Trainer(config, run, config.data.load(), accelerator)  # raises before it writes
    with run.lock() if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            run.claim(config, trainer.dataset)
        accelerator.wait_for_everyone()
        trainer.train(on_images)
        accelerator.wait_for_everyone()  # the main process writes the last things


class Trainer:
    """One run in one process.

    Args:
        config: What to train.
        run: Its directory, to be claimed before `train`.
        dataset: Its data.
        accelerator: Devices and processes.

    Raises:
        ValueError: If network, data and number of processes do not fit each other.
    """

    def __init__(
        self, config: Config, run: RunDirectory, dataset: Dataset, accelerator: Accelerator
    ) -> None:
        self.config, self.run, self.dataset, self.accelerator = config, run, dataset, accelerator
        self.state = new_state(config, dataset.spec, accelerator.device)
        if config.init is not None and checkpoint.latest(run.checkpoints) is None:
            self.state.begin_with(averaged_weights(config, config.init))
        self.has_labels = uses_labels(config, dataset.spec)
        if accelerator.is_main_process:
            warn_if_unresolved(config.schedule.logsnr_max, dataset.num_levels)
        self.network, self.optimizer = accelerator.prepare(
            self.state.network.train(), self.state.optimizer
        )
        self.objective = replace(config.objective, schedule=self.state.schedule)
        self.shards = _share(config.num_shards, accelerator)

    def train(self, on_images: OnImages) -> None:
        """Run the steps that are left."""
        config, state, accelerator = self.config, self.state, self.accelerator
        self.resume()
        monitor = Monitor(
            config,
            self.run,
            state,
            machine=f"{machine(accelerator.device)['device']}, {described(config, accelerator)}",
            is_main=accelerator.is_main_process,
            on_images=on_images,
        )
        with monitor, _stop_requests() as is_stop_requested:
            while state.step < config.num_steps:
                losses, grad_norm = self.step()
                is_last = state.step == config.num_steps
                is_stopping = self.agree(is_stop_requested())
                if accelerator.is_main_process:
                    self.run.require_present()
                monitor.step(losses, grad_norm)
                if accelerator.is_main_process:
                    if self.is_due(config.output.validate_every) or is_last:
                        monitor.validation(self.validate())
                    if self.is_due(config.output.save_every) or is_last or is_stopping:
                        self.save()
                if is_stopping and not is_last:
                    accelerator.wait_for_everyone()  # a launcher ends all when the first one ends
                    raise Interrupted(
                        f"Stopped at step {state.step} of {config.num_steps}, which is saved: "
                        "the same command goes on from there."
                    )

    def step(self) -> tuple[Float[Tensor, " B"], float]:
        """One step; returns the losses of the global batch and the norm of the gradient."""
        config, state, accelerator = self.config, self.state, self.accelerator
        x, label = self.batch()
        random = self.draw()
        if label is not None:
            label = label.masked_fill(random.uniform < config.label_dropout, -1)
        logsnr = self.objective.schedule.logsnr(random.times)
        with autocast(config, accelerator.device):
            loss = self.objective(self.network, x, random.eps, logsnr, label)  # [b], nats/dim
        grad_norm = self.optimize(loss, logsnr)
        state.step += 1
        state.ema.update(state.network, state.step)
        levels, losses = accelerator.gather((logsnr.to(loss), loss.detach()))
        state.schedule.update(levels, losses)  # only an adaptive one changes
        return losses, grad_norm

    def resume(self) -> None:
        """Take up the latest checkpoint, if there is one; weights of another run become one, so
        that that run is not needed again.
        """
        if (newest := checkpoint.latest(self.run.checkpoints)) is not None:
            with checkpoint.reading(newest) as (step, groups):
                self.state.restore(step, groups)
        elif self.config.init is not None and self.accelerator.is_main_process:
            self.save()

    def batch(self) -> tuple[Float[Tensor, "b *d"], Int[Tensor, " b"] | None]:
        """This process's share of the step's batch: data in [-1, 1], and labels."""
        config, split = self.config, self.dataset.train
        size = config.batch_size // config.num_shards
        rows = batch_indices(len(split), config.batch_size, config.seed, self.state.step)
        rows = rows[self.shards.start * size : self.shards.stop * size]
        x = to_unit(split.x[rows], self.dataset.num_levels).to(self.accelerator.device)
        if not self.has_labels or split.labels is None:
            return x, None
        return x, split.labels[rows].to(x.device)

    def draw(self) -> Draw:
        """This process's share of the step's randomness."""
        return draw(
            self.config.seed,
            self.state.step,
            batch_size=self.config.batch_size,
            num_shards=self.config.num_shards,
            shards=self.shards,
            shape=self.dataset.shape,
            device=self.accelerator.device,
        )

    def optimize(self, loss: Float[Tensor, " b"], logsnr: Float[Tensor, " b"]) -> float:
        """One step of the optimizer; returns the norm of the gradient, before clipping."""
        self.accelerator.backward(loss.mean())
        grad_norm: float = self.accelerator.clip_grad_norm_(
            self.network.parameters(), self.config.optimizer.max_grad_norm
        ).item()
        if not math.isfinite(grad_norm):
            levels, losses = self.accelerator.gather((logsnr.to(loss), loss.detach()))
            worst = levels[int(losses.nan_to_num(nan=math.inf).argmax())].item()
            what = "gradient" if losses.isfinite().all() else "loss"
            raise Diverged(
                f"The {what} of step {self.state.step} is not finite (largest loss at log-SNR "
                f"{worst:.2f}). The latest checkpoint is from before it: try a lower "
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
        """Whether any process says so."""
        flag = torch.tensor([is_requested], device=self.accelerator.device)
        return bool(self.accelerator.gather(flag).any())

    def validate(self) -> dict[str, float]:
        """Bound on some validation images, in nats per dimension, and a grid of samples."""
        config, dataset, device = self.config, self.dataset, self.accelerator.device
        denoiser = Denoiser(self.state.ema.network, config.parameterization)
        rows = torch.randperm(len(dataset.val), generator=generator(0))[:NUM_VALIDATION_IMAGES]
        x, labels = dataset.val.x[rows], dataset.val.labels
        cond = labels[rows] if self.has_labels and labels is not None else None
        ends = {"logsnr_min": config.schedule.logsnr_min, "logsnr_max": config.schedule.logsnr_max}
        with autocast(config, device):
            bound = split_bound(
                denoiser,
                x,
                Linear(**ends),
                num_levels=dataset.num_levels,
                num_times=NUM_VALIDATION_TIMES,
                labels=cond,
                device=device,
            )
            classes = torch.arange(NUM_GRID_IMAGES) % (dataset.num_classes or 1)
            samples = sample(
                denoiser,
                config.sampling,
                config.schedule,
                num=NUM_GRID_IMAGES,
                shape=dataset.shape,
                seed=config.seed,
                device=device,
                cond=classes if self.has_labels else None,
            )
            grid = png(torch.cat(list(samples)))
        self.run.samples.mkdir(exist_ok=True)
        files.write(self.run.samples / f"{self.state.step:08d}.png", grid)
        num, values = len(bound.total), {"val_nats": bound.total.mean().item()}
        if num > 1:
            values["val_nats_se"] = bound.total.std().item() / math.sqrt(num)
        return values

    def save(self) -> None:
        """Write a checkpoint."""
        self.run.require_present()
        checkpoint.save(
            self.run.checkpoints,
            self.state.step,
            self.state.groups(),
            num_kept=self.config.output.num_kept,
        )


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
    """Turn SIGINT and SIGTERM into a request that is honoured between two steps. Python handles
    signals in the main thread alone: elsewhere nothing is requested.
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
