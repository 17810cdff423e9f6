"""Cached latents and text embeddings as datasets, and validation of a denoiser on them.

Trainers cache images in buckets of several shapes, and captions of several lengths. Captions are
padded where the network takes a mask. Each shape of latents is a validation of its own, and the
results are joined.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from elbos.adapters.caches.formats import FORMATS, Format, Sample, padded, reading
from elbos.adapters.diffusers import Pipeline, ScheduledDenoiser
from elbos.base.checks import typed
from elbos.base.conditions import Condition, map_tensors
from elbos.base.errors import flat, is_out_of_memory
from elbos.base.progress import Start, silent
from elbos.theory.denoiser import Denoise
from elbos.validation import Measurements, Validation, Validator
from elbos.validation.execution import Parts, evaluating

__all__ = ["Cache", "load", "validate"]

# keywords of the caption's embeddings, their mask, and the embedding of the whole caption
_KEYWORDS: Mapping[str, tuple[str, str | None, str | None]] = {
    "UNet2DConditionModel": ("encoder_hidden_states", None, "text_embeds"),
    "SD3Transformer2DModel": ("encoder_hidden_states", None, "pooled_projections"),
    "FluxTransformer2DModel": ("encoder_hidden_states", None, "pooled_projections"),
    "Flux2Transformer2DModel": ("encoder_hidden_states", None, None),
    "WanTransformer3DModel": ("encoder_hidden_states", None, None),
    "QwenImageTransformer2DModel": ("encoder_hidden_states", "encoder_hidden_states_mask", None),
    "ZImageTransformer2DModel": ("cap_feats", "cap_mask", None),
    **dict.fromkeys(
        (
            *("PixArtTransformer2DModel", "SanaTransformer2DModel"),
            *("Lumina2Transformer2DModel", "Krea2Transformer2DModel"),
        ),
        ("encoder_hidden_states", "encoder_attention_mask", None),
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Cache:
    """Dataset of cached latents and text embeddings.

    `cache[i]` is `(x, cond)`, as the pipeline's network takes them.

    Attributes:
        folder: Folder or file of the cache.
        format: Format of the trainer that wrote it.
        samples: The images.
        pipeline: The pipeline whose network is given the latents and conditions.
        guidance: Guidance scale that a guidance-distilled network is given, as in its training.

    Examples:
        pipeline = elbos.adapters.diffusers.load("stable-diffusion-xl")
        cache = elbos.adapters.caches.load("train/cache", pipeline)
        result = elbos.adapters.caches.validate(cache, pipeline.denoiser)
    """

    folder: Path
    format: Format
    samples: Sequence[Sample]
    pipeline: Pipeline
    guidance: float | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"Cache({str(self.folder)!r}, {self.format.name}, {len(self)} images)"

    def __getitem__(self, index: int) -> tuple[Tensor, Condition]:
        sample, network = self.samples[index], self.pipeline.network
        if self.guidance is None and getattr(network, "config", {}).get("guidance_embeds"):
            raise ValueError(
                f"{type(network).__name__} is guidance-distilled: give the guidance scale of "
                "its training, as a rule --guidance 1."
            )
        with reading(sample.latents):
            return self._read(sample)

    def _read(self, sample: Sample) -> tuple[Tensor, Condition]:
        models = self.format.is_scaled
        if sample.kind not in models:
            raise ValueError(
                f"{sample.latents} is of {sample.kind}, which is unknown here: known are "
                f"{', '.join(models)}."
            )
        encoded = self.format.read(sample)
        x = encoded.latents.float()
        if not models[sample.kind]:
            if self.pipeline.encode is None:
                raise ValueError(
                    f"{sample.latents} holds latents that are not scaled, and the pipeline has no "
                    "vae, whose config.json has the scale: give a folder with vae."
                )
            x = self.pipeline.encode.normalize(x[None])[0].cpu()
        if not x.isfinite().all():
            raise ValueError(f"{sample.latents} holds NaN or infinity: cache it again.")
        name = type(self.pipeline.network).__name__
        if encoded.cond is not None:
            cond = dict(encoded.cond)
        elif name not in _KEYWORDS or encoded.text is None:
            what = f"no text embeddings of {sample.name}" if name in _KEYWORDS else f"no {name}"
            raise ValueError(
                f"{sample.latents} ({self.format.name}) has {what}: store latents and "
                "the network's keywords in one safetensors file (docs/evaluation.md)."
            )
        else:
            text, mask, pooled = _KEYWORDS[name]
            cond = {text: encoded.text}
            if mask is not None:
                is_token = torch.ones(len(encoded.text)) if encoded.mask is None else encoded.mask
                cond = {text: padded(encoded.text, self.num_tokens)}
                cond[mask] = padded(is_token.long(), self.num_tokens)
            if encoded.pooled is not None and pooled == "text_embeds":
                cond["added_cond_kwargs"] = {pooled: encoded.pooled, "time_ids": encoded.size}
            elif encoded.pooled is not None and pooled is not None:
                cond[pooled] = encoded.pooled
        if self.guidance is not None:
            cond["guidance"] = torch.tensor(self.guidance)
        dtype = next(self.pipeline.network.parameters()).dtype
        return x, map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, cond) or None

    def subset(self, num: int | None, seed: int = 0) -> "Cache":
        """Return a random subset of at most `num` images, or all for None."""
        if num is None or num >= len(self):
            return self
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:num]
        return replace(self, samples=[self.samples[i] for i in sorted(order.tolist())])

    @cached_property
    def num_tokens(self) -> int:
        """Length in tokens of the longest caption."""
        texts = (self.format.read(sample).text for sample in self.samples)
        return max(0 if text is None else len(text) for text in texts)


@typed
def load(folder: str | Path, pipeline: Pipeline, *, guidance: float | None = None) -> Cache:
    """Find cached latents and text embeddings in a folder.

    Args:
        folder: The folder that a trainer wrote, or one safetensors file with `latents`.
        pipeline: The pipeline, from `elbos.adapters.diffusers.load`.
        guidance: Guidance scale for a guidance-distilled network such as Flux dev: that of its
            training, mostly 1. Default: none is given.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If the format is unknown, or the cache does not fit the network; the message
            names what was found.
    """
    folder = Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"there is no {folder}: give a folder of cached latents.")
    samples: list[Sample] = []
    for form in FORMATS[-1:] if folder.is_file() else FORMATS:
        samples = list(form.samples(folder))
        if samples:
            break
    else:
        kinds = sorted({path.suffix or path.name for path in folder.rglob("*") if path.is_file()})
        raise ValueError(
            f"{folder} holds {', '.join(kinds[:5]) or 'no files'}: give latents that sd-scripts, "
            "musubi-tuner or ai-toolkit cached, or a safetensors file with latents "
            "(docs/evaluation.md)."
        )
    models = sorted({sample.kind for sample in samples})
    if len(models) > 1:
        raise ValueError(
            f"{folder} holds latents of {' and '.join(models)}: give a folder of one model's files."
        )
    return Cache(folder=folder, format=form, samples=samples, pipeline=pipeline, guidance=guidance)


@typed
def validate(
    cache: Cache,
    denoiser: Denoise,
    *,
    logsnr_min: float | None = None,
    logsnr_max: float | None = None,
    num_evaluations: int = 8,
    seed: int = 0,
    batch_size: int = 8,
    is_shared: bool | None = None,
    parts: Parts | None = None,
    start: Start = silent,
) -> Validation:
    """Estimate the ELBO of cached latents up to a constant.

    Noise and noise levels of an image depend on the seed and on the cache alone, so that two
    results of one cache are compared in pairs (`Validation.difference`).

    Args:
        cache: The cache, from `load`.
        denoiser: The denoiser, such as `pipeline.denoiser`.
        logsnr_min: Lowest log-SNR. Default: that of the scheduler, at least the validator's.
        logsnr_max: Highest log-SNR. Default: that of the scheduler, at most the validator's.
        num_evaluations: Function evaluations of each image, a multiple of 4.
        seed: Seed of noise and noise levels.
        batch_size: Function evaluations at once.
        is_shared: Whether all processes of `torch.distributed` share the work.
        parts: Store of finished parts, so that the same call resumes. Default: no store.
        start: Starts a progress display for each shape. Default: none.

    Raises:
        ValueError: As `Validator` does, or if latents or conditions do not fit the network.
    """
    dataset: Any = cache  # torch's annotations want a subclass of its Dataset
    low, high = ends(cache.pipeline.denoiser)
    shapes: dict[str, list[int]] = defaultdict(list)
    for i in range(len(cache)):
        x, cond = cache[i]
        shape = map_tensors(lambda part: tuple(part.shape), {"x": x, "cond": cond})
        if repr(shape) not in shapes:
            _require_fit(cache, i, denoiser, low)
        shapes[repr(shape)].append(i)
    validations: list[Validation] = []
    for number, indices in enumerate(shapes.values()):
        validator = Validator(
            Subset(dataset, indices),
            logsnr_min=low if logsnr_min is None else logsnr_min,
            logsnr_max=high if logsnr_max is None else logsnr_max,
            num_evaluations=num_evaluations,
            seed=seed + number,
        )
        validation = validator(
            denoiser, batch_size=batch_size, is_shared=is_shared, parts=parts, start=start
        )
        validations.append(validation)
    if len(validations) == 1:
        return validations[0]
    measured = [validation.measurements for validation in validations]
    joined = Measurements(
        measured[0].schedule,
        torch.cat([measurements.logsnr for measurements in measured]),
        torch.cat([measurements.loss for measurements in measured]),
        is_lattice=False,
    )
    return replace(
        validations[0],
        measurements=joined,
        prior=torch.cat([validation.prior for validation in validations]),
        decoder=torch.cat([validation.decoder for validation in validations]),
    )


def _require_fit(cache: Cache, index: int, denoiser: Denoise, logsnr: float) -> None:
    device, (x, cond) = next(cache.pipeline.network.parameters()).device, cache[index]
    batch = map_tensors(lambda part: part[None].to(device), {"x": x, "cond": cond})
    try:
        with evaluating(denoiser), torch.no_grad():
            denoiser(batch["x"], torch.tensor([logsnr], device=device), batch["cond"])
    except Exception as error:  # networks raise errors of every type
        if is_out_of_memory(error):
            raise
        raise ValueError(
            f"{cache.samples[index].latents} is a cache of another model, not of this "
            f"{type(cache.pipeline.network).__name__}: {flat(error)}"
        ) from error


def ends(denoiser: ScheduledDenoiser) -> tuple[float, float]:
    """Return the log-SNR range that both the scheduler and the validator's defaults cover."""
    low, high = Validator.logsnr_min, Validator.logsnr_max
    return max(denoiser.logsnr_min, low), min(denoiser.logsnr_max, high)
