"""Progress bar, log and experiment trackers of a training run.

A resumed run is resumed in its trackers, by the identifiers in trackers.json, and logs the steps
after its checkpoint again (docs/training.md says what each tracker makes of them).
"""

import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from rich.console import Console
from torch import Tensor

from elbos.base.errors import flat, printable, warn
from elbos.base.extras import needs
from elbos.base.formats import write_object
from elbos.base.numbers import count
from elbos.base.processes import Processes
from elbos.base.progress import LOGGER, clock, progress
from elbos.theory.names import code
from elbos.training import tracking
from elbos.training.config import Config
from elbos.training.directory import RunDirectory
from elbos.training.execution import machine
from elbos.training.state import State
from elbos.validation import Validation

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

NUM_DENSITIES = 100
PROJECT = "elbos"
FILE = "trackers.json"
MAX_SETTING = 250  # characters: limit of some versions of MLflow
_IDENTIFIERS: dict[str, Callable[["GeneralTracker"], str]] = {
    "wandb": lambda tracker: tracker.tracker.id,
    "trackio": lambda tracker: tracker.tracker.name,
    "mlflow": lambda tracker: tracker.tracker.info.run_id,
}
OnImages = Callable[[int], None]


class Monitor:
    """Progress display and log of a training run.

    Serves the progress bar, metrics.jsonl and experiment trackers. `on_images` is called after each
    step, with the number of images seen. The main process alone writes and prints.
    """

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        state: State,
        processes: Processes,
        on_images: OnImages,
    ) -> None:
        self.config, self.run, self.state, self.processes = config, run, state, processes
        self.is_main, self.on_images = processes.is_main, on_images
        self.trackers = _started_trackers(config, run, state.step) if self.is_main else []
        self.step_before, self.since, self.waited_before = state.step, time.perf_counter(), 0.0
        self.console = Console(stderr=True, quiet=not self.is_main)
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
        num_images, total = self.state.step * self.config.batch_size, self.config.num_images
        whole = f"{count(total, 'images')}, {count(self.config.num_steps, 'steps')}"
        status = f"resuming at image {num_images:,}, step {self.state.step:,}, of {whole}"
        if self.state.step == 0:
            status = f"new, {whole}"
        elif self.state.step == self.config.num_steps:
            status = f"finished, {whole}"
        num_parameters = sum(p.numel() for p in self.state.network.parameters())
        path, now = printable(str(self.run.path)), machine(self.processes.device)
        device, num = f"{now['device']}, {self.config.precision}", self.processes.num
        devices = f"{num} processes, each with {device}" if num > 1 else device
        self._print(f"{devices}, {num_parameters:,} parameters, {path}: {status}")
        if self.is_main:
            self._note_changes({**now, "threads": torch.get_num_threads()})
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        self._track(lambda tracker: tracker.finish())

    def _note_changes(self, now: Mapping[str, Any]) -> None:
        """Print which properties that affect rounding have changed, and a long warm-up."""
        before = self.run.read("machine.json") or now
        write_object(self.run.path / "machine.json", now)
        if changes := [
            f"{k} {before.get(k)}, now {v}" for k, v in now.items() if v != before.get(k)
        ]:
            self._print(f"rounding may change: {'; '.join(changes)}")
        if long_warmup := self.config.long_warmup:
            self._print(f"{long_warmup} (--optimizer.warmup-images)")

    def step(self, loss: Float[Tensor, " b"], grad_norm: float, waited: float = 0.0) -> None:
        """Log the losses of a training step.

        Losses accumulate, and a line is written every `log_every` images. `loss` holds the losses
        of the global batch, `grad_norm` is the norm before clipping, and `waited` the seconds spent
        waiting for batches so far.
        """
        state, num_images = self.state, self.state.step * self.config.batch_size
        is_clipped = grad_norm > self.config.optimizer.max_grad_norm
        state.unlogged += torch.tensor([loss.mean().item(), 1.0, float(is_clipped)])
        self.progress.update(self.task, completed=num_images)
        self.on_images(num_images)
        if not self.config.is_due(self.config.output.log_every, state.step):
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
        if torch.cuda.is_available():
            values["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        by_level = state.by_level.result()
        if self.is_main:
            self.run.log(step=state.step, **values, loss_by_level=by_level.to_dict())
        scalars = values | tracking.scalars(by_level)
        self._track(lambda tracker: tracker.log(scalars, step=state.step))
        self.progress.update(self.task, note=f"loss {mean_loss:.4f}")
        if not self.console.is_terminal:  # a line of text, for log files
            total, speed = self.config.num_images, values["images_per_sec"]
            wait = values["data_wait"]
            seconds_left = max(total - num_images, 0) / speed
            self._print(
                f"{num_images:,} of {total:,} images, step {state.step:,}, "
                f"{f'{speed:,.0f}' if speed >= 10 else f'{speed:.2g}'} images/s, "
                f"{clock(seconds_left)} left, loss {mean_loss:.4f}"
                + (f", {wait:.0%} waiting for data" if wait >= 0.05 else "")
            )
        state.unlogged.zero_()
        state.by_level.reset()
        self.step_before, self.since, self.waited_before = state.step, now, waited

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the `with` block from the speed of the training."""
        before = time.perf_counter()
        yield
        self.since += time.perf_counter() - before

    def _print(self, line: str) -> None:
        if self.is_main:
            LOGGER.info("%s", line)

    def _track(self, action: "Callable[[GeneralTracker], None]") -> None:
        for tracker in tuple(self.trackers):
            try:
                action(tracker)
            except Exception as error:
                warn(f"{tracker.name} fails and is dropped: {flat(error)[:300]}")
                self.trackers.remove(tracker)

    def validation(self, result: Validation | None) -> None:
        if not self.is_main:
            return
        step, images = self.state.step, self.state.step * self.config.batch_size
        if result is not None:
            nats, bits = {"val_nats": result.nats.mean}, f"{result.bits_per_dim:.3f}"
            if result.nats.num > 1:
                nats["val_nats_se"] = result.nats.standard_error
                bits += f" ± {result.standard_error:.3f}"
            self.run.log(step=step, images=images, **nats)
            self._track(lambda tracker: tracking.log(tracker, result, step))
            self._print(f"step {step:,}, {images:,} images: validation ELBO {bits} bits/dim")
        grid = self.run.samples / f"{step:08d}.png"
        if self.trackers and grid.exists():
            pixels = np.asarray(Image.open(grid))
            self._track(lambda tracker: tracking.log_picture(tracker, "samples", pixels, step))
        schedule = self.state.schedule
        if schedule.state_dict():  # adaptive: its density at evenly spaced log-SNRs
            low, high = schedule.logsnr_min, schedule.logsnr_max
            middle = (torch.arange(NUM_DENSITIES, dtype=torch.float64) + 0.5) / NUM_DENSITIES
            density = schedule.density(low + (high - low) * middle).tolist()
            self.run.log(step=step, images=images, density=[float(f"{p:.4g}") for p in density])


def _started_trackers(config: Config, run: RunDirectory, step: int) -> "list[GeneralTracker]":
    if not config.output.trackers:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    identifiers, trackers = run.read(FILE) or {}, []
    settings = {  # trackers take numbers and short texts
        field.name: value if isinstance(value, int | float | str) else code(value)[:MAX_SETTING]
        for field in fields(config)
        if field.name != "output" and (value := getattr(config, field.name)) is not None
    }
    for name in dict.fromkeys(config.output.trackers):
        kind, identifier = LOGGER_TYPE_TO_CLASS[name], identifiers.get(name)
        place = (name, run.path) if kind.requires_logging_directory else (PROJECT,)
        arguments: dict[str, dict[str, Any]] = {  # resume the run of `identifier`, or create one
            "tensorboard": {"purge_step": step + 1},
            "wandb": {"name": run.path.name}
            | ({"id": identifier, "resume": "allow"} if identifier else {}),
            "trackio": {
                "name": identifier or f"{run.path.name}-{secrets.token_hex(3)}",
                "resume": "allow",
            },
            "mlflow": {"run_id": identifier} if identifier else {"run_name": run.path.name},
        }
        try:
            tracker = kind(*place, **arguments.get(name, {}))
            tracker.start()
        except Exception as error:  # any error of a tracker: no key, no server
            raise ValueError(
                f"{name} does not start ({flat(error)[:300]}): repair it, or leave it out of "
                "--output.trackers."
            ) from error
        if name in _IDENTIFIERS:
            identifiers[name] = _IDENTIFIERS[name](tracker)
            write_object(run.path / FILE, identifiers)
        # TensorBoard would show the table of settings as another run
        if identifier is None and name != "tensorboard":
            tracker.store_init_configuration(settings)
        trackers.append(tracker)
    return trackers


def require_installed(names: Sequence[str]) -> None:
    if not names:
        return
    with needs("track"):
        from accelerate.tracking import get_available_trackers
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in available:
            raise ValueError(
                f"{name} is not installed: pip install {name}, or leave it out of "
                "--output.trackers."
            )
