"""Draw samples from a trained run, into a PNG grid and an .npz."""

import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elbos import files
from elbos.checks import require_positive
from elbos.training.config_json import encode
from elbos.training.data import to_levels
from elbos.training.pictures import png
from elbos.training.sampling import Sampling, sample
from elbos.training.state import require_guidable
from elbos.training.trained import TrainedRun

MAX_IN_GRID = 400


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which samples."""

    num: int = 100
    """How many."""

    seed: int = 0
    """Seed of the noise."""

    label: int | None = None
    """Class of all of them. Default: one class after the other, where the network knows classes."""

    out: Path | None = None
    """Where to write, without ending. Default: in the run's samples folder."""

    def __post_init__(self) -> None:
        require_positive(num=self.num)
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: give a whole number from 0.")


def draw_samples(
    run: TrainedRun, sampling: Sampling, request: Request, on_images: Callable[[int], None]
) -> tuple[Path, Path]:
    """Draw samples and write them.

    The .npz holds `x`, the samples (uint8 levels `[n, c, h, w]`, or float32 points), `labels` where
    the network knows classes, and `sampling`, how they were made, as JSON.

    Returns:
        Paths of the PNG (of the first 400) and of the .npz.

    Raises:
        ValueError: If the label is none of the network's, or it cannot be guided.
    """
    require_guidable(run.config, run.dataset, sampling)
    labels = _labels(run, request)
    batches = []
    with run.autocast():
        for x in sample(
            run.denoiser,
            sampling,
            run.config.schedule,
            num=request.num,
            shape=run.dataset.shape,
            seed=request.seed,
            device=run.device,
            cond=labels,
        ):
            batches.append(x)
            on_images(len(x))
    x = torch.cat(batches)
    arrays: dict[str, Any] = {"x": to_levels(x, run.dataset.num_levels).numpy()}
    arrays["sampling"] = json.dumps(encode(sampling))
    if labels is not None:
        arrays["labels"] = labels.numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    stem = request.out or run.directory.samples / _name(sampling, request)
    stem.parent.mkdir(parents=True, exist_ok=True)
    picture, archive = Path(f"{stem}.png"), Path(f"{stem}.npz")
    num_columns = run.dataset.num_classes if labels is not None and request.label is None else None
    files.write(picture, png(x[:MAX_IN_GRID], num_columns=num_columns))
    files.write(archive, buffer.getvalue())
    return picture, archive


def _name(sampling: Sampling, request: Request) -> str:
    """A name of its own for different samples: the usual settings, and a hash of all."""
    settings = json.dumps([encode(sampling), request.num, request.label])
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    sampler = type(sampling.sampler).__name__.lower()
    return f"{sampler}-{sampling.num_steps}-seed{request.seed}-{digest}"


def _labels(run: TrainedRun, request: Request) -> torch.Tensor | None:
    num_classes = run.dataset.num_classes if run.has_labels else None
    if num_classes is None:
        if request.label is not None:
            raise ValueError("This network knows no classes: leave out --label.")
        return None
    if request.label is None:
        return torch.arange(request.num) % num_classes
    if not 0 <= request.label < num_classes:
        raise ValueError(f"label is {request.label}: give a class from 0 to {num_classes - 1}.")
    return torch.full((request.num,), request.label)
