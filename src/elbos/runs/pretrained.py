"""Pretrained diffusers pipelines, loaded for evaluation on a dataset."""

import json
import math
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters import diffusers
from elbos.base.checks import require_positive
from elbos.base.codec import digest
from elbos.base.conditions import Condition, cond_at, to_device
from elbos.base.errors import flat, is_out_of_memory
from elbos.base.processes import local_device
from elbos.evaluation.model import Model
from elbos.theory.denoiser import Denoise
from elbos.theory.schedules import Linear
from elbos.training.data import KnownData, to_unit
from elbos.training.data.dataset import Dataset, digest_of
from elbos.training.data.images import fitted, measured_split
from elbos.training.directory import RunDirectory
from elbos.training.sampling import Sampling

BATCH_SIZE = 64
NOISIEST = -10.0
"""The lowest log-SNR for flow matching, whose times extend to pure noise. The prior loss at this
log-SNR is below 1e-4 bits/dim."""

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

    The pipeline is in float32. Measurements cover the range of the scheduler's noise levels.

    Args:
        folder: The folder of the pipeline, as `save_pretrained` wrote it.
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
    precision = "fp32"
    sampling = Sampling()
    scheduler: str

    def __init__(
        self, folder: Path, data: KnownData, directory: Path, *, batch_size: int = BATCH_SIZE
    ) -> None:
        require_positive(batch_size=batch_size)
        self.device, self.batch_size = local_device(), batch_size
        pipeline = diffusers.load(folder, device=self.device)
        self.name, self.directory = str(folder), RunDirectory(directory)
        network: Any = pipeline.denoiser.network
        self._network = network
        self._clipping = repr(pipeline.denoiser.clipping)
        self.denoiser = InBatches(pipeline.denoiser, batch_size)
        config = dict(getattr(network, "config", {}))
        size = config.get("sample_size")
        if isinstance(size, int):
            data = fitted(data, size)
        self.dataset = data.load()
        if config.get("in_channels") == 1 and self.dataset.shape[0] == 3:
            self.dataset = _one_channel(self.dataset)
        self.split = measured_split(data, is_trained_on=False)
        low, high = pipeline.denoiser.logsnr_min, pipeline.denoiser.logsnr_max
        if math.isinf(low):
            low = NOISIEST
        kind = pipeline.scheduler["_class_name"]
        self.trained = {
            "schedule": kind,
            "parameterization": repr(pipeline.denoiser.parameterization),
            "network": type(network).__name__,
            "num_parameters": sum(p.numel() for p in network.parameters()),
        }
        settings = json.dumps(_public(pipeline.scheduler), sort_keys=True, default=str)
        self.scheduler = f"diffusers {version('diffusers')}, {kind} {settings}"
        nums = (config.get(key) for key in ("num_class_embeds", "num_embeds_ada_norm"))
        num_known = next((num for num in nums if num is not None), None)
        self.conditions = ("unconditional" if num_known is None else "given_label",)
        self.num_classes = None if num_known is None else self.dataset.num_classes
        network.requires_grad_(False)
        self._require_classes(num_known)
        self.schedule, self.shape = self._tried(low, high)

    def __repr__(self) -> str:
        return f"Pretrained({self.name!r})"

    def identifier(self) -> dict[str, Any]:
        config = _public(self._network.config)
        described = json.dumps([config, self.scheduler], sort_keys=True, default=str)
        return {
            "weights": digest_of(self._network.state_dict().values()),
            "pipeline": digest(described),
            "clipping": self._clipping,
            "precision": self.precision,
            "ends": (self.schedule.logsnr_min, self.schedule.logsnr_max),
        }

    def require_guidable(self, sampling: Sampling) -> None:
        if sampling.guidance != 1:
            raise ValueError(f"guidance is {sampling.guidance}: leave it at 1 for {self.name}.")

    def _require_classes(self, num_known: int | None) -> None:
        data, num = self.dataset.name, self.dataset.num_classes
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
            size, shape = config.get("sample_size"), tuple(x.shape[1:])
            sizes = [size, size] if isinstance(size, int) else size or shape[1:]
            wanted = (config["in_channels"], *sizes)
            if shape != wanted:
                shown, input_shape = ("x".join(map(str, dims)) for dims in (wanted, shape))
                raise ValueError(  # noqa: TRY301
                    f"the network takes {shown}, and is given {input_shape}: choose data of that "
                    "shape (of data:images, --data.size says height and width)."
                )
            cond = to_device(cond_at(split.labels if self.num_classes else None, rows), self.device)
            x = x.to(self.device)
            schedule = Linear(logsnr_min=low, logsnr_max=high)
            for end in (low, high):
                self.denoiser(x, torch.full((len(x),), end, device=self.device), cond)
        except (RuntimeError, IndexError, TypeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            images = f"{data.name}, {'x'.join(map(str, data.shape))}"
            reason = f"{self.name} cannot be evaluated on {images}: {flat(error)}"
            raise ValueError(reason) from error
        return schedule, shape


def _one_channel(dataset: Dataset) -> Dataset:
    if not all(
        (x == x[:, :1]).all() for split in dataset.splits for x in torch.split(split.x, 1000)
    ):
        raise ValueError("the pictures have colours, and one channel is wanted: give grey ones")
    train, val, test = (replace(split, x=split.x[:, :1]) for split in dataset.splits)
    return replace(dataset, train=train, val=val, test=test, known_digest=None)


def is_pipeline(path: Path) -> bool:
    return (path / "model_index.json").is_file()


def _public(config: Any) -> dict[str, Any]:
    return {name: value for name, value in config.items() if not name.startswith("_")}
