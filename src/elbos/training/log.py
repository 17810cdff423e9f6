"""Log, validations, grids of samples and experiment trackers of a training run."""

import json
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from elbos.base import files
from elbos.base.errors import flat, printable
from elbos.base.extras import needs
from elbos.base.formats import write_object
from elbos.base.numbers import count
from elbos.base.processes import Processes
from elbos.base.progress import LOGGER, clock, progress
from elbos.theory.denoiser import Denoise
from elbos.training.checkpoint import State
from elbos.training.config import Config
from elbos.training.data import Samples
from elbos.training.data.dataset import Subset
from elbos.training.directory import RunDirectory
from elbos.training.execution import machine
from elbos.training.pictures import is_drawable, png
from elbos.training.randomness import generator
from elbos.training.sampling import BATCH_SIZE, sample
from elbos.validation import Validation, Validator, scalars

NUM_DENSITIES = 100
NUM_VALIDATION_IMAGES = 500
NUM_VALIDATION_TIMES = 4
NUM_GRID_IMAGES = 64


class Log:
    """Progress display and files of a training run, which the main process alone writes.

    The log of a resumed run loses the lines of steps after its checkpoint, which come again.
    """

    def __init__(
        self, config: Config, run: RunDirectory, state: State, processes: Processes
    ) -> None:
        self.config, self.run, self.state, self.processes = config, run, state, processes
        self.step_before, self.since = state.step, time.perf_counter()
        self.trackers: Any = None  # accelerate's
        num_images = state.step * config.batch_size
        if processes.is_main:
            if config.output.trackers:
                self.trackers = _started_trackers(config.output.trackers, run)
            _rewind(run.path / "metrics.jsonl", state.step)
            status = f"resuming at image {num_images:,}, step {state.step:,}, of "
            if state.step in (0, config.num_steps):
                status = "finished, " if state.step else "new, "
            status += f"{count(config.num_images, 'images')}, {count(config.num_steps, 'steps')}"
            now = {**machine(processes.device), "threads": torch.get_num_threads()}
            before = run.read("machine.json") or now
            write_object(run.path / "machine.json", now)
            devices = f"{now['device']}, {config.precision}"
            if processes.num > 1:
                devices = f"{processes.num} processes, each with {devices}"
            num_parameters = sum(p.numel() for p in state.network.parameters())
            name = printable(str(run.path))
            LOGGER.info("%s", f"{devices}, {num_parameters:,} parameters, {name}: {status}")
            changes = [
                f"{k} {before.get(k)}, now {v}" for k, v in now.items() if before.get(k) != v
            ]
            if changes:
                LOGGER.info("%s", f"rounding may change: {'; '.join(changes)}")
            if config.long_warmup:
                LOGGER.info("%s", f"{config.long_warmup} (--optimizer.warmup-images)")
        self.console = Console(stderr=True, quiet=not processes.is_main)
        self.progress = progress(self.console)
        self.task = self.progress.add_task(
            run.path.name, total=config.num_images, completed=num_images, unit="images", note=""
        )

    def __enter__(self) -> "Log":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()
        for tracker in self.trackers.trackers if self.trackers else ():
            tracker.finish()  # `end_training` would end the processes' group

    def step(self, loss: float, grad_norm: float, is_due: bool) -> None:
        """Count a step, and log the steps since the last line if a line is due."""
        state, config = self.state, self.config
        is_clipped = grad_norm > config.optimizer.max_grad_norm
        state.unlogged += torch.tensor([loss, 1.0, float(is_clipped)])
        num_images = state.step * config.batch_size
        self.progress.update(self.task, completed=num_images)
        if not is_due:
            return
        now = time.perf_counter()
        total, num_steps, num_clipped = state.unlogged.tolist()
        speed = (state.step - self.step_before) * config.batch_size / (now - self.since)
        values = {
            "loss": total / num_steps,
            "grad_norm": grad_norm,
            "clipped": num_clipped / num_steps,
            "learning_rate": state.optimizer.param_groups[0]["lr"],
            "images_per_sec": speed,
        }
        if torch.cuda.is_available():
            values["peak_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        by_level = state.by_level.result()
        self._write(values | scalars(by_level), **values, loss_by_level=by_level.to_dict())
        self.progress.update(self.task, note=f"loss {values['loss']:.4f}")
        if self.processes.is_main and not self.console.is_terminal:  # a line of text, for log files
            seconds_left = max(config.num_images - num_images, 0) / speed
            text = (
                f"{num_images:,} of {config.num_images:,} images, step {state.step:,}, "
                f"{f'{speed:,.0f}' if speed >= 10 else f'{speed:.2g}'} images/s, "
                f"{clock(seconds_left)} left, loss {values['loss']:.4f}"
            )
            LOGGER.info("%s", text)
        state.unlogged.zero_()
        state.by_level.reset()
        self.step_before, self.since = state.step, now

    def validation(self, denoiser: Denoise, data: Samples) -> None:
        """Write a grid of samples, the ELBO of held-out data, and an adaptive schedule's density.

        All processes must call this function, since sharded networks need all of them. The time is
        not counted as that of the training.
        """
        begin, step, schedule = time.perf_counter(), self.state.step, self.state.schedule
        if is_drawable(data.spec.shape):
            grid = sample_grid(denoiser, self.config, data, self.processes.device)
            if self.processes.is_main:
                self.run.samples.mkdir(exist_ok=True)
                files.write(self.run.samples / f"{step:08d}.png", grid)
        if (result := validate(denoiser, self.config, data, self.processes)) is not None:
            numbers, bits = scalars(result), f"{result.bits_per_dim:.3f}"
            if result.bits.num > 1:
                bits += f" ± {result.standard_error:.3f}"
            self._write(numbers, **numbers)
            if self.processes.is_main:
                images = f"{step * self.config.batch_size:,} images"
                LOGGER.info("%s", f"step {step:,}, {images}: validation ELBO {bits} bits/dim")
        if schedule.state_dict():  # adaptive: its density at evenly spaced log-SNRs
            low, high = schedule.logsnr_min, schedule.logsnr_max
            middle = (torch.arange(NUM_DENSITIES, dtype=torch.float64) + 0.5) / NUM_DENSITIES
            density = schedule.density(low + (high - low) * middle).tolist()
            self._write({}, density=[float(f"{p:.4g}") for p in density])
        self.since += time.perf_counter() - begin

    def _write(self, tracked: dict[str, float], **values: object) -> None:
        step, images = self.state.step, self.state.step * self.config.batch_size
        if self.processes.is_main:
            line = {"step": step, "images": images, **values}
            with (self.run.path / "metrics.jsonl").open("a") as file:
                print(json.dumps(line), file=file)
        if self.trackers and tracked:
            self.trackers.log({"images": images, **tracked}, step=step)


def validate(
    denoiser: Denoise, config: Config, data: Samples, processes: Processes
) -> Validation | None:
    """Estimate the ELBO on at most 500 fixed validation samples, which processes share."""
    if data.val is None:
        return None
    rows = torch.randperm(len(data.val), generator=generator(0))[:NUM_VALIDATION_IMAGES]
    # the trainer has warned of the noise levels, and a network in early training may ignore its
    # time input
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        validator = Validator(
            Subset(data.val, rows, config.use_labels),
            num_levels=data.spec.num_levels,
            logsnr_min=config.schedule.logsnr_min,
            logsnr_max=config.schedule.logsnr_max,
            num_evaluations=NUM_VALIDATION_TIMES,
        )
        device, is_shared = processes.device, processes.num > 1
        return validator(denoiser, batch_size=BATCH_SIZE, device=device, is_shared=is_shared)


def sample_grid(denoiser: Denoise, config: Config, data: Samples, device: torch.device) -> bytes:
    """Generate a grid of 64 samples as a PNG image.

    Samples are conditioned on each class in turn, or on the conditions of the first data samples.
    """
    rows, cond = torch.arange(NUM_GRID_IMAGES), None
    if config.uses_labels(data.spec):
        cond = rows % (data.spec.num_classes or 1)
    elif config.use_labels:
        source = data.val or data.train
        _, cond = source.batch(rows % len(source))
    samples = sample(
        denoiser,
        config.sampling,
        config.schedule,
        num=NUM_GRID_IMAGES,
        shape=data.spec.shape,
        seed=config.seed,
        device=device,
        cond=cond,
        null_cond=data.null_cond,
    )
    return png(torch.cat(list(samples)))


def _rewind(file: Path, step: int) -> None:
    """Delete lines of metrics.jsonl that are incomplete or of later steps."""

    def is_logged(line: bytes) -> bool:
        try:
            return line.endswith(b"\n") and bool(json.loads(line)["step"] <= step)
        except (ValueError, KeyError, TypeError):
            return False

    if file.exists():
        lines = files.read(file).splitlines(keepends=True)
        files.write(file, b"".join(line for line in lines if is_logged(line)))


def _started_trackers(names: tuple[str, ...], run: RunDirectory) -> Any:
    with needs("track"):
        from accelerate import Accelerator
    settings = {name: json.dumps(value) for name, value in (run.read("config.json") or {}).items()}
    try:
        accelerator = Accelerator(log_with=[*names], project_dir=run.path)
        accelerator.init_trackers("elbos", settings)
    except Exception as error:  # any error of a tracker: no key, no server
        raise ValueError(
            f"{', '.join(names)} does not start ({flat(error)[:300]}): repair it, or leave it out "
            "of --output.trackers."
        ) from error
    return accelerator


def require_installed(names: tuple[str, ...]) -> None:
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
