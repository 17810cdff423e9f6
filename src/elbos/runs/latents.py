"""Scores of text-to-image pipelines on cached latents and text embeddings, in pairs.

The bound on latents is known up to a constant that is common to all models of the same latents: its
differences between checkpoints are meaningful. All models and adapters see the same images, noise
and noise levels, so that most of the variance cancels in a difference.
"""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from elbos.adapters import caches
from elbos.adapters.diffusers import adapted, denoiser, load
from elbos.adapters.diffusers.pipeline import read_scheduler
from elbos.base import files, hub
from elbos.base.checks import require_positive, typed
from elbos.base.codec import Stored, digest
from elbos.base.processes import ALONE, Processes
from elbos.base.progress import Start, silent
from elbos.base.store import Store
from elbos.training.data import digest_of
from elbos.validation import Curve, Estimate, Validation
from elbos.validation.result import NATS_PER_BIT
from elbos.validation.validator import ROUND_TIMES

_BITS_PER_NAT = 1 / NATS_PER_BIT


@dataclass(frozen=True, kw_only=True)
class LatentScore:
    """Variational bound of one model on cached latents, in nats per dimension.

    Attributes:
        model: Folder of the pipeline, or OWNER/NAME@COMMIT on the Hugging Face Hub.
        adapter: File of the LoRA adapter; None for the pipeline alone.
        bound: Bound on the negative log-likelihood of the latents, up to a constant.
        by_level: Loss by noise level.
        difference: Paired difference of the bound to that of the first checkpoint, negative if this
            one is better; None for the first.
        difference_by_level: Paired difference of the loss by noise level; None for the first.
    """

    model: str
    adapter: str | None
    bound: Estimate
    by_level: Curve
    difference: Estimate | None
    difference_by_level: Curve | None

    @property
    def name(self) -> str:
        return self.model if self.adapter is None else f"{self.model} + {self.adapter}"


@dataclass(frozen=True, kw_only=True)
class LatentEvaluation(Stored):
    """Variational bounds of several models on the same cached latents, noise and noise levels.

    The settings are those of `elbos evaluate --latents`; `trainer` is the one that wrote the cache,
    and the log-SNRs are those that all schedulers have.
    """

    latents: str
    trainer: str
    num_images: int
    num_evaluations: int
    logsnr_min: float
    logsnr_max: float
    precision: str
    guidance: float | None
    seed: int
    scores: tuple[LatentScore, ...]


@typed
def evaluate_latents(
    models: Sequence[str | Path],
    latents: str | Path,
    *,
    directory: Path,
    adapters: Sequence[str | Path] = (),
    num_images: int | None = None,
    guidance: float | None = None,
    num_evaluations: int = 8,
    batch_size: int = 8,
    precision: Literal["fp32", "bf16"] = "fp32",
    seed: int = 0,
    processes: Processes = ALONE,
    start: Start = silent,
) -> tuple[LatentEvaluation, list[Validation]]:
    """Measure the variational bound of diffusers pipelines on cached latents.

    Args:
        models: Folders of diffusers pipelines, or OWNER/NAME on the Hugging Face Hub.
        latents: The cache (see `adapters.caches`).
        directory: Directory for partial results, from which the same call resumes.
        adapters: LoRA adapters of the first pipeline, safetensors files.
        num_images: The number of images, a random subset. Default: all.
        guidance: Guidance scale for guidance-distilled networks, that of the training.
        num_evaluations: Function evaluations of each image, a multiple of 4 from 8 on: errors are
            estimated from two rounds of 4 or more.
        batch_size: Function evaluations at once, which does not affect results.
        precision: Precision of the networks.
        seed: Seed of the choice of images, the noise and the noise levels.
        processes: The processes that share the work.
        start: Starts a progress display. Default: none.

    Returns:
        The scores, and the validations that they are from, in the same order.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If an argument is of another type or out of range, or a pipeline, an adapter and
            the cache do not fit each other.
    """
    require_positive(batch_size=batch_size, num_images=1 if num_images is None else num_images)
    if num_evaluations < 2 * ROUND_TIMES:
        raise ValueError(f"num_evaluations is {num_evaluations}: give {2 * ROUND_TIMES} or more.")
    low, high = zip(*map(_ends, models), strict=True)
    settings: dict[str, Any] = {"logsnr_min": max(low), "logsnr_max": min(high)}
    scores: list[LatentScore] = []
    validations: list[Validation] = []
    for model in models:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        pipeline = load(model, device=processes.device, dtype=dtype)
        cache = caches.load(latents, pipeline, guidance=guidance).subset(num_images, seed)
        if len(cache) < 2:
            raise ValueError(f"{latents} holds one image: errors are estimated from two or more.")
        for path in [] if validations else adapters:
            with adapted(pipeline, path):  # raises early, not after hours
                pass
        key = _key(cache, precision, processes)
        for adapter in (None, *([] if validations else adapters)):
            used = None if adapter is None else files.sha256(Path(adapter))
            folder = directory / f"latents-{digest([key, used])[:12]}"
            files.remove_leftovers(folder)
            with nullcontext() if adapter is None else adapted(pipeline, adapter):
                result = caches.validate(
                    cache,
                    pipeline.denoiser,
                    **settings,
                    num_evaluations=num_evaluations,
                    seed=seed,
                    batch_size=batch_size,
                    is_shared=processes.num > 1,
                    parts=Store(folder, processes),
                    start=start,
                )
            validations.append(result)
            is_first = len(validations) == 1
            difference = None if is_first else result.difference(validations[0]) / _BITS_PER_NAT
            scores.append(
                LatentScore(
                    model=pipeline.name,
                    adapter=None if adapter is None else str(adapter),
                    bound=result.nats,
                    by_level=result.by_level,
                    difference=difference,
                    difference_by_level=(
                        None if is_first else result.difference_by_level(validations[0])
                    ),
                )
            )
    evaluation = LatentEvaluation(
        latents=str(latents),
        trainer=cache.format.name,
        num_images=len(cache),
        num_evaluations=num_evaluations,
        precision=precision,
        guidance=guidance,
        seed=seed,
        scores=tuple(scores),
        **settings,
    )
    return evaluation, validations


def _key(cache: caches.Cache, precision: str, processes: Processes) -> list[Any]:
    """Return everything but an adapter on which the losses depend, as JSON values."""
    pipeline, encode = cache.pipeline, cache.pipeline.encode
    scales = [] if encode is None else [encode.scale, encode.shift]
    weights = digest_of([*pipeline.network.state_dict().values(), *scales])
    configs = json.dumps([dict(pipeline.network.config), pipeline.scheduler], default=str)
    machine = [*map(version, ("elbos", "torch", "diffusers")), processes.device.type]
    paths = {path for s in cache.samples for path in (s.latents, s.text) if path is not None}
    stats = [(str(path), path.stat()) for path in sorted(paths)]
    content = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
    samples = [[sample.name, sample.key] for sample in cache.samples]
    return [machine, weights, configs, precision, cache.guidance, samples, content]


def _ends(model: str | Path) -> tuple[float, float]:
    folder, _ = hub.resolved(model, ["*.json"])
    return caches.ends(denoiser(lambda z, _timestep: z, read_scheduler(folder)))
