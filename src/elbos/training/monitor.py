"""Progress bar, log and trackers of a training run."""

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console
from torch import Tensor, nn

from elbos.base.errors import printable, unfailing
from elbos.base.progress import clock, progress
from elbos.theory.denoiser import network_output
from elbos.training.config import Config
from elbos.training.data import Batch
from elbos.training.directory import RunDirectory
from elbos.training.execution import autocast
from elbos.training.machine import peak_flops
from elbos.training.processes import Processes
from elbos.training.sharding import sharded_parts
from elbos.training.state import State
from elbos.training.trackers import Trackers
from elbos.training.tracking import scalars
from elbos.validation import Validation

NUM_DENSITIES = 100
OnImages = Callable[[int], None]


class Monitor:
    """Progress bar, metrics.jsonl and experiment trackers of a training run.

    Args:
        config: The run's configuration.
        run: The run directory.
        state: The training state at the first step.
        machine: Device and precision, as text.
        is_main: Whether this process writes and prints.
        on_images: Called with the number of images seen, after each step.
        seconds_per_image: Time per image at the devices' peak FLOP/s; None if the peak is unknown.

    Raises:
        ValueError: If a tracker does not start.
    """

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        state: State,
        *,
        machine: str,
        is_main: bool,
        on_images: OnImages,
        seconds_per_image: float | None = None,
    ) -> None:
        self.config, self.run, self.state, self.is_main = config, run, state, is_main
        self.machine, self.on_images = machine, on_images
        self.seconds_per_image = seconds_per_image
        self.trackers = Trackers(config, run, state.step, is_main=is_main)
        self.step_before, self.since, self.waited_before = state.step, time.perf_counter(), 0.0
        self.console = Console(file=unfailing(sys.stderr), quiet=not is_main)
        self.progress = progress(self.console)
        self.task = self.progress.add_task(
            run.path.name,
            total=config.num_images,
            completed=state.step * config.batch_size,
            unit="images",
            note="",
        )

    def __enter__(self) -> "Monitor":
        if self.is_main:
            self.run.rewind_log(self.state.step)
        self._print(self._first_line())
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        self.trackers.finish()

    def note_changes(self, now: Mapping[str, Any]) -> None:
        """Store the record of the machine, and print changes since the run was last trained.

        Also print the highest learning rate if the warm-up is long.

        Args:
            now: Everything besides the configuration on which rounding depends.
        """
        if not self.is_main:
            return
        before = self.run.read("machine.json") or now
        self.run.write("machine.json", {**now})
        if found := [f"{k} {before.get(k)}, now {v}" for k, v in now.items() if v != before.get(k)]:
            self._print(f"rounding may change: {'; '.join(found)}")
        if long_warmup := self.config.long_warmup:
            self._print(f"{long_warmup} (--optimizer.warmup-images)")

    def step(self, loss: Float[Tensor, " b"], grad_norm: float, waited: float = 0.0) -> None:
        """Accumulate the losses of a step, and write a log line every `log_every` images.

        Args:
            loss: Losses of the global batch.
            grad_norm: Norm of the gradient before clipping.
            waited: Seconds spent waiting for batches so far.
        """
        state, num_images = self.state, self.state.step * self.config.batch_size
        is_clipped = grad_norm > self.config.optimizer.max_grad_norm
        state.unlogged += torch.tensor([loss.mean().item(), 1.0, float(is_clipped)])
        every = self.config.output.log_every
        self.progress.update(self.task, completed=num_images)
        self.on_images(num_images)
        if num_images // every == (num_images - self.config.batch_size) // every:
            return
        now = time.perf_counter()
        mean_loss = (state.unlogged[0] / state.unlogged[1]).item()
        num_images_since = (state.step - self.step_before) * self.config.batch_size
        values = {
            "images": num_images,
            "loss": mean_loss,
            "grad_norm": grad_norm,
            "clipped": (state.unlogged[2] / state.unlogged[1]).item(),
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "images_per_sec": num_images_since / (now - self.since),
            "data_wait": (waited - self.waited_before) / (now - self.since),
        }
        if self.seconds_per_image is not None:  # model FLOPs utilization
            values["mfu"] = self.seconds_per_image * values["images_per_sec"]
        if torch.cuda.is_available():
            values["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        by_level = state.by_level.result()
        if self.is_main:
            self.run.log(step=state.step, **values, loss_by_level=by_level.to_dict())
        self.trackers.log(values | scalars(by_level), state.step)
        self.progress.update(self.task, note=f"loss {mean_loss:.4f}")
        if not self.console.is_terminal:
            self._print_line(mean_loss, values)
        state.unlogged.zero_()
        state.by_level.reset()
        self.step_before, self.since, self.waited_before = state.step, now, waited

    def _print_line(self, loss: float, values: Mapping[str, float]) -> None:
        """Print the progress as a line of text, for output to log files."""
        num_images, total = self.state.step * self.config.batch_size, self.config.num_images
        images_per_sec, wait = values["images_per_sec"], values["data_wait"]
        seconds_left = max(total - num_images, 0) / images_per_sec
        rate = f"{images_per_sec:,.0f}" if images_per_sec >= 10 else f"{images_per_sec:.2g}"
        self._print(
            f"{num_images:,} of {total:,} images, {rate} images/s, "
            f"{clock(seconds_left)} left, loss {loss:.4f}"
            + (f", {wait:.0%} waiting for data" if wait >= 0.05 else "")
            + (f", {values['mfu']:.0%} of the peak" if "mfu" in values else "")
        )

    def _first_line(self) -> str:
        """Return the first line of output: machine, network size, run directory and status."""
        num_images, total = self.state.step * self.config.batch_size, self.config.num_images
        status = f"resuming at image {num_images:,} of {total:,}"
        if self.state.step == 0:
            status = f"new, {total:,} images"
        elif self.state.step == self.config.num_steps:
            status = f"finished, {total:,} images"
        num_parameters = sum(p.numel() for p in self.state.network.parameters())
        path = printable(str(self.run.path))
        return f"{self.machine}, {num_parameters:,} parameters, {path}: {status}"

    def _print(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def validation(self, found: Validation | None) -> None:
        """Log the sample grid, the adaptive density and, unless None, a validation result."""
        if not self.is_main:
            return
        step, images = self.state.step, self.state.step * self.config.batch_size
        if found is not None:
            nats, bits = {"val_nats": found.nats.mean}, f"{found.bits_per_dim:.3f}"
            if found.nats.num > 1:
                nats["val_nats_se"] = found.nats.standard_error
                bits += f" ± {found.standard_error:.3f}"
            self.run.log(step=step, images=images, **nats)
            self.trackers.validation(found, step)
            self._print(f"step {step}: validation ELBO {bits} bits/dim")
        self.trackers.samples(self.run.samples / f"{step:08d}.png", step)
        if self.state.schedule.state_dict():
            self.run.log(step=step, images=images, density=self._density())

    def _density(self) -> list[float]:
        """Return the density of noise levels at 100 evenly spaced log-SNRs, in ascending order."""
        schedule = self.state.schedule
        ends = schedule.logsnr_min, schedule.logsnr_max
        middle = (torch.arange(NUM_DENSITIES, dtype=torch.float64) + 0.5) / NUM_DENSITIES
        levels = ends[0] + (ends[1] - ends[0]) * middle
        return [float(f"{p:.4g}") for p in schedule.density(levels).tolist()]


def seconds_per_image(
    network: nn.Module, example: Callable[[], Batch], config: Config, processes: Processes
) -> float | None:
    """Compute the training time per image at the peak FLOP/s of all devices.

    The result is None if the peak is unknown or the network is sharded. The backward pass takes
    twice the FLOPs of the forward pass.

    Args:
        network: The averaged network.
        example: Returns one sample and its condition.
        config: The run's configuration.
        processes: The processes that train the network.
    """
    peak = peak_flops(config, processes.device)
    if peak is None or sharded_parts(network):
        return None
    from torch.utils.flop_counter import FlopCounterMode  # takes half a second to import

    x, cond = example()
    with FlopCounterMode(display=False) as counter, autocast(config, processes.device):
        network_output(network, x, x.new_zeros(1), cond)
    num_flops: int = counter.get_total_flops()
    return 3 * num_flops / (peak * processes.num)
