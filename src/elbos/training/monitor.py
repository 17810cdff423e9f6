"""What a person sees of a training run while it goes on: progress, metrics, validation."""

import math
import time
from types import TracebackType
from typing import Any

from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from elbos.training.config import Config
from elbos.training.progress import progress
from elbos.training.run_directory import RunDirectory


class Monitor:
    """A progress bar, metrics.jsonl and, if asked for, TensorBoard.

    Args:
        config: The run's configuration.
        run: Its directory.
        step: The step it starts from.
        is_main: Whether this process is the one that writes.

    Raises:
        ValueError: If TensorBoard is asked for and not installed.
    """

    def __init__(self, config: Config, run: RunDirectory, step: int, *, is_main: bool) -> None:
        self.config, self.run, self.is_main = config, run, is_main
        self.step_number, self.losses, self.since = step, list[float](), time.perf_counter()
        self.console = Console(stderr=True, quiet=not is_main)
        self.progress = progress(self.console)
        self.task = self.progress.add_task(
            run.path.name,
            total=config.num_images,
            completed=step * config.batch_size,
            unit="images",
            note="",
        )
        self.tensorboard = _writer(run) if is_main and config.output.tensorboard else None

    def __enter__(self) -> "Monitor":
        if self.is_main:
            self.run.rewind_log(self.step_number)
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()
        if self.tensorboard is not None:
            self.tensorboard.close()

    def step(self, loss: Float[Tensor, " b"], grad_norm: float, learning_rate: float) -> None:
        """Take in a step's losses (of the whole batch), and log if it is time to."""
        self.step_number += 1
        self.losses.append(loss.mean().item())
        num_images = self.step_number * self.config.batch_size
        every = self.config.output.log_every
        self.progress.update(self.task, completed=num_images)
        if num_images // every == (num_images - self.config.batch_size) // every:
            return
        now = time.perf_counter()
        mean_loss = sum(self.losses) / len(self.losses)
        self._log(
            images=num_images,
            loss=mean_loss,
            grad_norm=grad_norm,
            learning_rate=learning_rate,
            images_per_sec=len(self.losses) * self.config.batch_size / (now - self.since),
        )
        self.progress.update(self.task, note=f"loss {mean_loss:.4f}")
        self.losses, self.since = [], now

    def validation(self, values: dict[str, float]) -> None:
        """Log a validation, and say it."""
        self._log(images=self.step_number * self.config.batch_size, **values)
        bits = {name: value / math.log(2) for name, value in values.items()}
        self.console.print(
            f"step {self.step_number}: validation ELBO {bits['val_nats']:.3f} "
            f"± {bits['val_nats_se']:.3f} bits/dim"
        )

    def _log(self, **values: float) -> None:
        if self.is_main:
            self.run.log(step=self.step_number, **values)
        if self.tensorboard is not None:
            for name, value in values.items():
                self.tensorboard.add_scalar(name, value, self.step_number)


def _writer(run: RunDirectory) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ValueError(
            "TensorBoard is not installed: pip install 'elbos[tensorboard]', "
            "or leave out --output.tensorboard."
        ) from None
    return SummaryWriter(run.path / "tensorboard")
