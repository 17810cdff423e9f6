"""Samples of a run, stored batch by batch for scoring, or written as PNG and .npz for the user."""

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from elbos.base import files
from elbos.base.checks import Typed, require_positive
from elbos.base.codec import encode
from elbos.base.progress import Start
from elbos.base.sharing import naming_lost_processes
from elbos.base.store import Part, Tensors
from elbos.evaluation.model import Model, model_store
from elbos.training.data import to_levels
from elbos.training.pictures import is_drawable, png
from elbos.training.processes import Processes
from elbos.training.sampling import BATCH_SIZE, Sampling, num_batches

MAX_IN_GRID = 400
_DECODED = 16  # latents per call of the decoder
FORMAT = 3  # version of stored samples: a change generates all samples again


class NotFiniteError(ValueError):
    """Error for samples that contain NaN or infinity."""


def require_finite_samples(x: Float[Tensor, "n *d"]) -> None:
    """Raise a NotFiniteError if samples contain NaN or infinity.

    Raises:
        NotFiniteError: If some samples contain NaN or infinity; the message counts them.
    """
    num_bad = int((~x.isfinite()).flatten(1).any(1).sum())
    if num_bad:
        raise NotFiniteError(
            f"{num_bad} of {len(x)} samples hold NaN or infinity: "
            "try another sampler, more steps, less guidance or float32."
        )


def stored_samples(
    model: Model, sampling: Sampling, num: int, seed: int, start: Start
) -> UInt8[Tensor, "n c h w"]:
    """Load or generate the samples of `elbos sample --num NUM --seed SEED`, as pixel values.

    Raises:
        NotFiniteError: If some samples are not finite.
    """
    store = model_store(model, "samples", format=FORMAT, sampling=sampling, num=num, seed=seed)
    labels = model.class_labels(num)

    def batch(i: int) -> Tensors:
        (x,) = model.sample_batches(sampling, num=num, seed=seed, cond=labels, batches=[i])
        require_finite_samples(x)
        return {"x": to_levels(x, model.data.num_levels)}

    parts = (
        Part(f"{i:05d}", min(BATCH_SIZE, num - i * BATCH_SIZE), partial(batch, i))
        for i in range(num_batches(num))
    )
    return store.concatenated(parts, start(f"samples of seed {seed}", num, "images"))["x"]


@dataclass(frozen=True, kw_only=True)
class Request(Typed):
    """Number, noise seed, class and output file of the samples to generate."""

    num: int = 100
    """Number of samples."""

    seed: int = 0
    """Seed of the noise."""

    label: int | None = None
    """Class of all samples. Default: cycle through the classes of a conditional network."""

    out: Path | None = None
    """Output path without suffix; `.png` and `.npz` are added. Default: in RUN/samples."""

    def __post_init__(self) -> None:
        require_positive(num=self.num)
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: give a whole number from 0.")
        if self.out is not None and self.out.name in ("", ".."):
            raise ValueError(f"out is {str(self.out)!r}: give a file name without suffix.")


@naming_lost_processes()
def write_samples(
    run: Model,
    sampling: Sampling,
    request: Request,
    on_images: Callable[[int], None],
    decode: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Path | None, Path]:
    """Generate samples across all processes, and write a PNG and an .npz on the main process.

    The .npz holds `x`, the samples (uint8 pixel values `[n, c, h, w]`, or float32 points), `labels`
    if the network is conditioned on classes, and `sampling`, the sampling settings as JSON.

    Args:
        run: The run.
        sampling: Sampler and its settings.
        request: Number, seed, class and output path.
        on_images: Called with the number of new samples, after each batch.
        decode: Decodes latents to images for the PNG. Default: samples are images.

    Returns:
        Paths of the PNG (first 400 samples; None if samples cannot be drawn) and of the .npz.

    Raises:
        ConnectionError: If another process has failed, after reporting its error.
        OSError: If the files cannot be written.
        ValueError: If the label is not a class of the network, the network cannot be guided, or
            samples are not finite.
    """
    run.require_guidable(sampling)
    labels, processes = _labels(run, request), Processes.joined()
    stem = request.out or run.directory.samples / _name(sampling, request)
    if stem.suffix in (".png", ".npz"):
        stem = stem.with_suffix("")
    is_picture = decode is not None or is_drawable(run.data.shape)
    picture = Path(f"{stem}.png") if is_picture else None
    archive = Path(f"{stem}.npz")
    if processes.is_main:
        archive.parent.mkdir(parents=True, exist_ok=True)
        for path in (archive, picture):
            if path is not None:
                files.require_writable(path)
    batches = []
    for x in _batches(run, sampling, request, labels, processes):
        if processes.is_main:
            require_finite_samples(x)
            batches.append(x)
            on_images(len(x))
    if processes.is_main:
        x = torch.cat(batches)
        by_class = labels is not None and request.label is None
        num_columns = run.data.num_classes if by_class else None
        if picture is not None:
            shown = x[:MAX_IN_GRID]
            images = (
                shown if decode is None else torch.cat([*map(decode, torch.split(shown, _DECODED))])
            )
            files.write(picture, png(images, num_columns=num_columns))
        files.write(archive, _npz(to_levels(x, run.data.num_levels), sampling, labels))
    return picture, archive


def turns(num: int, process: int, num_processes: int) -> Iterator[range]:
    """Yield the range of batches that one process generates in each turn, possibly an empty range.

    Examples:
        >>> list(turns(3, process=1, num_processes=2))
        [range(1, 2), range(3, 3)]
    """
    for batch in range(process, num + process, num_processes):
        yield range(num)[batch : batch + 1]


def _batches(
    run: Model, sampling: Sampling, request: Request, labels: Tensor | None, processes: Processes
) -> Iterator[Tensor]:
    """Yield all batches in order on every process, exchanging batches after each turn."""
    for batches in turns(num_batches(request.num), processes.rank, processes.num):
        own = run.sample_batches(
            sampling, num=request.num, seed=request.seed, cond=labels, batches=batches
        )
        yield from processes.lists(own)


def _npz(x: Tensor, sampling: Sampling, labels: Tensor | None) -> bytes:
    arrays: dict[str, Any] = {"x": x.numpy(), "sampling": json.dumps(encode(sampling))}
    if labels is not None:
        arrays["labels"] = labels.numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _name(sampling: Sampling, request: Request) -> str:
    """Name a file after the main sampling settings and a digest of all settings."""
    settings = json.dumps([encode(sampling), request.num, request.label])
    digest = hashlib.sha256(settings.encode()).hexdigest()[:6]
    sampler = encode(sampling.sampler)["type"].lower()
    return f"{sampler}-{sampling.num_steps}-seed{request.seed}-{digest}"


def _labels(run: Model, request: Request) -> Tensor | None:
    labels, num_classes = run.class_labels(request.num), run.data.num_classes
    if request.label is None:
        return labels
    if labels is None or num_classes is None:
        raise ValueError("This network knows no classes: leave out --label.")
    if not 0 <= request.label < num_classes:
        raise ValueError(f"label is {request.label}: give a class from 0 to {num_classes - 1}.")
    return torch.full((request.num,), request.label)
