"""Experiment trackers of a run, through accelerate.

A resumed run is resumed in its trackers, by the identifiers in trackers.json. It repeats the steps
after the checkpoint:

| tracker | repeated steps |
|---|---|
| TensorBoard | replace the old ones |
| W&B | are ignored |
| Trackio, MLflow | appear twice, with the same values except for the speed |
| others | appear in the old run, and in a new one that starts at the checkpoint |
"""

import secrets
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from elbos.base.errors import flat
from elbos.base.extras import needs
from elbos.theory.names import code
from elbos.training import tracking
from elbos.training.config import Config
from elbos.training.directory import RunDirectory
from elbos.validation import Validation

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

PROJECT = "elbos"
FILE = "trackers.json"
MAX_SETTING = 250  # characters: limit of some versions of MLflow
_PACKAGES = {"tensorboard": "'elbos[track]'"}
_IDENTIFIERS: dict[str, Callable[["GeneralTracker"], str]] = {
    "wandb": lambda tracker: tracker.tracker.id,
    "trackio": lambda tracker: tracker.tracker.name,
    "mlflow": lambda tracker: tracker.tracker.info.run_id,
}


class Trackers:
    """Experiment trackers of a run, such as TensorBoard and W&B, started in the main process.

    A tracker that fails during training is dropped with a warning, so that an unavailable server
    does not end the training.

    Args:
        config: The run's configuration, which names the trackers.
        run: The run directory.
        step: The step at which training starts or resumes.
        is_main: Whether this process is the main process; other processes have no trackers.

    Raises:
        ValueError: If a tracker is not installed, or does not start.
    """

    def __init__(self, config: Config, run: RunDirectory, step: int, *, is_main: bool) -> None:
        self.running: list[GeneralTracker] = []
        names = dict.fromkeys(config.output.trackers) if is_main else ()
        identifiers = dict((run.read(FILE) or {}) if names else {})
        for name in names:
            known = identifiers.get(name)
            tracker = _started(name, run, step, known)
            if name in _IDENTIFIERS:
                identifiers[name] = _IDENTIFIERS[name](tracker)
                run.write(FILE, identifiers)
            if (
                known is None and name != "tensorboard"
            ):  # TensorBoard would show the table of settings as another run
                tracker.store_init_configuration(_settings(config))
            self.running.append(tracker)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log named numbers to all trackers."""
        self._each(lambda tracker: tracker.log(values, step=step))

    def validation(self, found: Validation, step: int) -> None:
        """Log a validation result and its figure to all trackers."""
        self._each(lambda tracker: tracking.log(tracker, found, step))

    def samples(self, file: Path, step: int) -> None:
        """Log the image in a file to all trackers, if the file exists."""
        if self.running and file.exists():
            pixels = np.asarray(Image.open(file))
            self._each(lambda tracker: tracking.log_picture(tracker, "samples", pixels, step))

    def finish(self) -> None:
        """Close all trackers after they have written pending values."""
        self._each(lambda tracker: tracker.finish())

    def _each(self, action: "Callable[[GeneralTracker], None]") -> None:
        for tracker in tuple(self.running):
            try:
                action(tracker)
            except Exception as error:  # any error, such as of a server
                warnings.warn(
                    f"{tracker.name} fails and is dropped: {flat(error)[:300]}", stacklevel=3
                )
                self.running.remove(tracker)


def require_installed(names: Sequence[str]) -> None:
    """Raise a ValueError that names a tracker if its package is not installed."""
    if not names:
        return
    with needs("track"):
        from accelerate.tracking import get_available_trackers
    available = {str(name) for name in get_available_trackers()}
    for name in names:
        if name not in available:
            raise ValueError(
                f"{name} is not installed: pip install {_PACKAGES.get(name, name)}, "
                "or leave it out of --output.trackers."
            )


def _started(name: str, run: RunDirectory, step: int, known: str | None) -> "GeneralTracker":
    """Start a tracker: resume the run with identifier `known`, or create a new run in the tracker.

    Raise a ValueError if the tracker does not start.
    """
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    place = (name, run.path) if kind.requires_logging_directory else (PROJECT,)
    own: dict[str, dict[str, Any]] = {
        "tensorboard": {"purge_step": step + 1},
        "wandb": {"name": run.path.name} | ({"id": known, "resume": "allow"} if known else {}),
        "trackio": {"name": known or f"{run.path.name}-{secrets.token_hex(3)}", "resume": "allow"},
        "mlflow": {"run_id": known} if known else {"run_name": run.path.name},
    }
    try:
        tracker = kind(*place, **own.get(name, {}))
        tracker.start()
    except Exception as error:  # any error of a tracker: no key, no server
        raise ValueError(
            f"{name} does not start ({flat(error)[:300]}): repair it, or leave it out of "
            "--output.trackers."
        ) from error
    return tracker


def _settings(config: Config) -> dict[str, Any]:
    """Return the configuration as numbers and short texts, by field name."""
    values = {f.name: getattr(config, f.name) for f in fields(config) if f.name != "output"}
    return {
        name: value if isinstance(value, int | float | str) else code(value)[:MAX_SETTING]
        for name, value in values.items()
        if value is not None
    }
