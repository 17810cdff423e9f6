"""Pretrained diffusers pipelines, loaded for evaluation on a dataset."""

import json
import math
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from elbos.adapters import diffusers
from elbos.base import hub
from elbos.base.checks import require_positive
from elbos.base.codec import digest
from elbos.base.conditions import Condition, cond_at, to_device
from elbos.base.errors import flat, is_out_of_memory
from elbos.base.processes import local_device
from elbos.base.progress import Start
from elbos.base.store import Part, Tensors
from elbos.evaluation.model import Model, model_store
from elbos.evaluation.result import Origin, TrainedWith
from elbos.theory.denoiser import Denoise
from elbos.theory.schedules import Linear
from elbos.training import exported
from elbos.training.data import KnownData, digest_of, to_unit
from elbos.training.data.augment import grey
from elbos.training.data.folder import measured_split
from elbos.training.data.pack import fitted
from elbos.training.directory import RunDirectory
from elbos.training.randomness import generator
from elbos.training.sampling import Sampling

BATCH_SIZE = 64
NOISIEST = -10.0
"""The lowest log-SNR for flow matching, whose times extend to pure noise. The prior loss at this
log-SNR is below 1e-4 bits/dim."""

_KNOWN = ("UNet2DModel", "DiTTransformer2DModel", "Transformer2DModel")  # datasets have no texts
_ENCODED_TOGETHER = 250  # images whose latents are stored in one part
_NUM_TRIED = 2  # images in the trial before any measurement


@dataclass(frozen=True)
class InBatches:
    """Denoiser that splits large inputs into batches of at most `size` samples."""

    denoiser: Denoise
    size: int

    def __call__(
        self, z: Float[Tensor, "b *d"], logsnr: Float[Tensor, "#b"], cond: Condition = None
    ) -> tuple[Float[Tensor, "b *d"], Float[Tensor, "b *d"]]:
        logsnr = logsnr.expand(len(z))
        pairs = [
            self.denoiser(z[some], logsnr[some], cond_at(cond, some))
            for some in torch.split(torch.arange(len(z), device=z.device), self.size)
        ]
        x_hat, eps_hat = zip(*pairs, strict=True)
        return torch.cat(x_hat), torch.cat(eps_hat)


class Pretrained(Model):
    """Pretrained diffusers pipeline, tested on two of the images on which it is evaluated.

    The pipeline is in float32. Measurements cover the range of the scheduler's noise levels, of an
    export of this library those of its training, which a flow-matching scheduler does not store.
    The likelihood of a latent pipeline is that of latents, sampled once from the encoder's
    distribution.

    Args:
        folder: The folder of the pipeline, as `save_pretrained` wrote it, or OWNER/NAME or
            OWNER/NAME@REVISION on the Hugging Face Hub.
        data: The images, with classes if the network is class-conditional. A network of one
            channel is given one of grey RGB images. The training split, or images like it, is
            the reference for sample quality.
        directory: The directory for partial results of the evaluation, outside `folder`.
        batch_size: The number of samples per network call, which does not affect results. Default:
            64, which fits small networks on 32x32 pixels.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If pipeline or data cannot be loaded, or do not fit each other.
    """

    step = None
    weighting = None
    relative_width = None
    precision = "fp32"
    sampling = Sampling()
    origin: Origin

    def __init__(
        self, folder: Path, data: KnownData, directory: Path, *, batch_size: int = BATCH_SIZE
    ) -> None:
        require_positive(batch_size=batch_size)
        self.device, self.batch_size = local_device(), batch_size
        pipeline = diffusers.load(folder, device=self.device)
        self.name, self.directory = pipeline.name, RunDirectory(directory)
        network: Any = pipeline.denoiser.network
        self._network, self._encode = network, (encode := pipeline.encode)
        self._modules = [network, *([] if encode is None else [encode.vae])]
        self._clipping = repr(pipeline.denoiser.clipping)
        self.denoiser = InBatches(pipeline.denoiser, batch_size)
        config = dict(getattr(network, "config", {}))
        size = config.get("sample_size")
        if isinstance(size, int):
            num_halvings = 0 if encode is None else len(encode.vae.config.block_out_channels) - 1
            data = fitted(data, size * 2**num_halvings)
        self.dataset = data.load()
        is_trained_on = RunDirectory(pipeline.folder).is_trained_on(self.dataset)
        if config.get("in_channels") == 1 and encode is None and self.dataset.shape[0] == 3:
            self.dataset = grey(self.dataset)
        self.split = measured_split(data, is_trained_on=is_trained_on)
        low, high = pipeline.denoiser.logsnr_min, pipeline.denoiser.logsnr_max
        if ends := exported.ends(RunDirectory(pipeline.folder)):
            low, high = max(low, ends[0]), min(high, ends[1])
        elif math.isinf(low):
            low = max(low, NOISIEST)
        kind, settings = pipeline.scheduler["_class_name"], _public(pipeline.scheduler)
        self.trained = TrainedWith(
            schedule=kind,
            parameterization=repr(pipeline.denoiser.parameterization),
            network=type(network).__name__,
            num_parameters=sum(p.numel() for p in network.parameters()),
        )
        self.origin = Origin(
            format=f"diffusers {version('diffusers')}",
            scheduler=f"{kind} {json.dumps(settings, sort_keys=True, default=str)}",
            latents=None if encode is None else type(encode.vae).__name__,
        )
        nums = (config.get(key) for key in ("num_class_embeds", "num_embeds_ada_norm"))
        num_known = next((num for num in nums if num is not None), None)
        self.conditions = ("unconditional" if num_known is None else "given_label",)
        self.num_classes = None if num_known is None else self.dataset.num_classes
        for module in self._modules:
            module.requires_grad_(False)
        self._require_classes(num_known)
        self.schedule, self.shape = self._tried(low, high)

    def __repr__(self) -> str:
        return f"Pretrained({self.name!r})"

    def identifier(self) -> dict[str, Any]:
        weights = (value for module in self._modules for value in module.state_dict().values())
        configs = [_public(module.config) for module in self._modules]
        described = json.dumps([*configs, self.origin.scheduler], sort_keys=True, default=str)
        return {
            "weights": digest_of(weights),
            "pipeline": digest(described),
            "clipping": self._clipping,
            "format": self.origin.format,
            "precision": self.precision,
            "ends": (self.schedule.logsnr_min, self.schedule.logsnr_max),
        }

    def represented(
        self, x: Shaped[Tensor, "n *d"], start: Start
    ) -> tuple[Shaped[Tensor, "n *e"], int | None]:
        if self._encode is None:
            return super().represented(x, start)
        store = model_store(self, "latents", images=digest_of([x]))
        parts = (
            Part(f"{i:05d}", len(rows), partial(self._encoded, x[rows], rows))
            for i, rows in enumerate(torch.split(torch.arange(len(x)), _ENCODED_TOGETHER))
        )
        return store.concatenated(parts, start("latents", len(x), "images"))["x"], None

    def _encoded(self, x: Shaped[Tensor, "n *d"], rows: Int[Tensor, " n"]) -> Tensors:
        assert self._encode is not None
        parts = []
        for some in torch.split(torch.arange(len(x)), self.batch_size):
            images = to_unit(x[some], self.dataset.num_levels)
            generators = [generator(0, row) for row in rows[some].tolist()]
            parts.append(self._encode(images, generators).cpu())
        latents = torch.cat(parts)
        if not latents.isfinite().all():
            raise ValueError(f"the vae of {self.name} returned NaN or infinity: check its weights.")
        return {"x": latents}

    def _require_classes(self, num_known: int | None) -> None:
        kind, data, num = type(self._network).__name__, self.dataset.name, self.dataset.num_classes
        if kind not in _KNOWN:
            raise ValueError(
                f"{self.name} has a {kind}, which is conditioned on more than a class, as a text: "
                "give cached latents and embeddings with --latents (docs/evaluation.md)."
            )
        if num_known is not None and (num is None or num > num_known):
            raise ValueError(
                f"the network of {self.name} knows {num_known} classes, and {data} has "
                f"{num or 'none'}: choose the data that it was trained on."
            )

    def _tried(self, low: float, high: float) -> tuple[Linear, tuple[int, ...]]:
        """Return noise schedule and shape of the network's input, both tried on images."""
        config, data, split = self._network.config, self.dataset, self.dataset.train
        rows = torch.arange(min(_NUM_TRIED, len(split)))
        try:
            x = to_unit(split.x[rows], data.num_levels)
            if self._encode is not None:
                x = self._encoded(split.x[rows], rows)["x"]
            size, shape = config.get("sample_size"), tuple(x.shape[1:])
            sizes = [size, size] if isinstance(size, int) else size or shape[1:]
            wanted = (config["in_channels"], *sizes)
            if shape != wanted:
                shown, input_shape = ("x".join(map(str, dims)) for dims in (wanted, shape))
                raise ValueError(  # noqa: TRY301
                    f"the network takes {shown}, and is given {input_shape}: choose data of that "
                    "shape (of data:folder, --data.size says height and width)."
                )
            cond = to_device(cond_at(split.labels if self.num_classes else None, rows), self.device)
            x = x.to(self.device)
            schedule = Linear(logsnr_min=low, logsnr_max=high)
            for end in (low, high):
                self.denoiser(x, torch.full((len(x),), end, device=self.device), cond)
            decoded = x if self._encode is None else self._encode.decode(x)
            if decoded.shape[1:] != data.shape:
                raise ValueError(f"images of {data.shape} become {tuple(decoded.shape[1:])}.")  # noqa: TRY301
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            images = f"{data.name}, {'x'.join(map(str, data.shape))}"
            reason = f"{self.name} cannot be evaluated on {images}: {flat(error)}"
            raise ValueError(reason) from error
        return schedule, shape


def is_pipeline(path: Path) -> bool:
    return (hub.resolved(path, ["*.json"])[0] / "model_index.json").is_file()


def _public(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}
