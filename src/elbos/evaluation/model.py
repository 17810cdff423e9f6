"""Interface of a model that can be evaluated, and the disk stores for partial results.

A store is a folder of tensors, one file per batch, so that an interrupted evaluation resumes.
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from elbos.base import files
from elbos.base.cache import cache_dir
from elbos.base.codec import digest, encode
from elbos.base.conditions import Condition
from elbos.base.processes import Processes
from elbos.base.progress import Start
from elbos.base.store import Store
from elbos.evaluation.result import Origin
from elbos.theory.denoiser import Denoise
from elbos.theory.oracles import GaussianMixture
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import WeightFunction
from elbos.training.config import Training
from elbos.training.data import Dataset
from elbos.training.directory import RunDirectory
from elbos.training.sampling import Sampling, sample


class Model(Protocol):
    """Interface of a denoiser with data, noise levels and sampler, which can be evaluated.

    `elbos.Run` implements it, and `elbos.runs.pretrained` for saved diffusers pipelines.
    """

    @property
    def name(self) -> str:
        """Path of the model as given by the user."""

    @property
    def directory(self) -> RunDirectory:
        """Directory for partial results of an evaluation."""

    @property
    def step(self) -> int | None:
        """Training step at which the weights were saved; None if unknown."""

    @property
    def origin(self) -> Origin | None:
        """Origin of a model that another library trained; None for one of ours."""

    @property
    def trained(self) -> Training: ...

    @property
    def denoiser(self) -> Denoise: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def precision(self) -> str:
        """Numerical precision of the network, "bf16" or "fp32"."""

    @property
    def processes(self) -> Processes: ...

    @property
    def schedule(self) -> Schedule:
        """Noise schedule with which the network was trained."""

    @property
    def weighting(self) -> WeightFunction | None:
        """Weighting of the training loss; None if unknown."""

    @property
    def relative_width(self) -> float | None:
        """Width of the weights' moving average relative to training time; None if unknown."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Conditions of the network: "unconditional", "given_label" or both."""

    @property
    def sampling(self) -> Sampling: ...

    @property
    def dataset(self) -> Dataset: ...

    @property
    def split(self) -> Literal["test", "all"]:
        """Split of the dataset whose samples are evaluated by default."""

    @property
    def mixture(self) -> GaussianMixture | None:
        """Data distribution as a Gaussian mixture; None if unknown."""

    def identifier(self) -> dict[str, Any]:
        """Return everything on which the network's outputs depend, as JSON values."""

    def autocast(self) -> torch.autocast: ...

    def require_guidable(self, sampling: Sampling) -> None: ...

    def represented(
        self, x: Shaped[Tensor, "n *d"], start: Start
    ) -> tuple[Shaped[Tensor, "n *e"], int | None]:
        """Convert images to pixels or latents, with the number of pixel values or None."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a single sample at the network's input, without the batch axis."""

    @property
    def num_classes(self) -> int | None:
        """Number of classes; None for a network without classes."""

    @property
    def null_cond(self) -> Condition: ...


def class_labels(model: Model, num: int) -> Int[Tensor, " n"] | None:
    """Return class labels that cycle through all classes; None for a network without classes."""
    return None if model.num_classes is None else torch.arange(num) % model.num_classes


def sample_batches(
    model: Model,
    sampling: Sampling,
    *,
    num: int,
    seed: int,
    cond: Condition,
    batches: Iterable[int] | None = None,
) -> list[Float[Tensor, "b *d"]]:
    """Generate samples of a model in batches, with values approximately in [-1, 1]."""
    with model.autocast():
        return list(
            sample(
                model.denoiser,
                sampling,
                model.schedule,
                num=num,
                shape=model.shape,
                seed=seed,
                device=model.device,
                cond=cond,
                null_cond=model.null_cond,
                batches=batches,
            )
        )


def model_store(model: Model, name: str, **key: Any) -> Store:
    """Return the disk cache for a measurement of a model.

    It is in the model's evaluation directory. The folder is named `name` and a digest of all that
    determines the numbers: the model and `key`, which is encodable by `codec.encode`. Incomplete
    files of a killed process are deleted.
    """
    folder = model.directory.evaluation / f"{name}-{_digest(model, {**model.identifier(), **key})}"
    files.remove_leftovers(folder)
    return Store(folder, model.processes)


def data_store(model: Model, name: str, **key: Any) -> Store:
    """Return the disk cache, in the user's cache directory, for a measurement of the data alone."""
    return Store(cache_dir() / name / _digest(model, key), model.processes)


def _digest(model: Model, key: dict[str, Any]) -> str:
    machine = [version("elbos"), version("torch"), model.device.type]
    encoded = {name: encode(value) for name, value in key.items()}
    return digest([machine, model.dataset.fingerprint(), encoded])[:12]
