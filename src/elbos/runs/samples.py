"""Sample files of a trained model, as `elbos sample` writes them: a PNG grid and an .npz."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from elbos.base import files
from elbos.base.checks import typed
from elbos.base.codec import encode
from elbos.base.processes import Processes, naming_lost_processes
from elbos.evaluation.model import class_labels, sample_batches
from elbos.evaluation.quality import require_finite_samples
from elbos.runs.run import Run
from elbos.training.data.dataset import to_levels
from elbos.training.pictures import is_drawable, png
from elbos.training.sampling import Sampling, num_batches

MAX_IN_GRID = 400


@naming_lost_processes()
@typed
def write_samples(
    run: Run,
    sampling: Sampling,
    *,
    num: int,
    seed: int,
    label: int | None,
    out: Path | None,
    on_images: Callable[[int], None],
) -> tuple[Path | None, Path]:
    """Generate samples on all processes and write them to files.

    The main process writes a PNG and an .npz file. The PNG shows the first 400 samples; its path is
    None if samples cannot be drawn. The .npz holds `x`, the samples (pixel values `[n, c, h, w]` as
    by `to_levels`, or float32 points), `labels` if the network is conditioned on classes, and
    `sampling`, the sampling settings as JSON. `on_images` is called with the number of new samples.
    Without `label`, the samples are of each class in turn; without `out`, a path to which suffixes
    are added, the files are in the run's folder of samples.

    Raises:
        ConnectionError: If another process has failed, after reporting its error.
        OSError: If the files cannot be written.
        ValueError: If the label is not a class of the network, the network cannot be guided, or
            samples are not finite.
    """
    run.require_guidable(sampling)
    labels, num_classes = class_labels(run, num), run.data.num_classes
    if label is not None:
        if labels is None or num_classes is None:
            raise ValueError("This network knows no classes: leave out --label.")
        if not 0 <= label < num_classes:
            raise ValueError(f"label is {label}: give a class from 0 to {num_classes - 1}.")
        labels = torch.full((num,), label)
    processes, stem = Processes.joined(), out
    if stem is None:  # named after the main settings and a digest of all
        settings = json.dumps([encode(sampling), num, label])
        digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
        sampler = encode(sampling.sampler)["type"].lower()
        name = f"{sampler}-{sampling.num_steps}-seed{seed}-{digest}"
        stem = run.directory.samples / name
    if stem.suffix in (".png", ".npz"):
        stem = stem.with_suffix("")
    picture = Path(f"{stem}.png") if is_drawable(run.data.shape) else None
    archive = Path(f"{stem}.npz")
    if processes.is_main:
        archive.parent.mkdir(parents=True, exist_ok=True)
        for path in (archive, picture):
            if path is not None:
                files.require_writable(path)
    batches = []
    numbers = range(num_batches(num))
    for first in numbers[:: processes.num]:  # each process generates a batch or none
        turn = numbers[first + processes.rank :][:1]
        drawn = sample_batches(run, sampling, num=num, seed=seed, cond=labels, batches=turn)
        for x in processes.lists(drawn):
            if processes.is_main:
                require_finite_samples(x)
                batches.append(x)
                on_images(len(x))
    if processes.is_main:
        x = torch.cat(batches)
        by_class = labels is not None and label is None
        num_columns = num_classes if by_class else None
        if picture is not None:
            files.write(picture, png(x[:MAX_IN_GRID], num_columns=num_columns))
        arrays: dict[str, Any] = {"x": to_levels(x, run.data.num_levels).numpy()}
        arrays["sampling"] = json.dumps(encode(sampling))
        if labels is not None:
            arrays["labels"] = labels.numpy()
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        files.write(archive, buffer.getvalue())
    return picture, archive
