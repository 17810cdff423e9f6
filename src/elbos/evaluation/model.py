"""The protocol of a model to evaluate, and the stores of its measurements.

A store is a folder of tensors, one file per batch, so that an interrupted evaluation resumes.
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Protocol

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
from elbos.training.data import Dataset, DataSpec
from elbos.training.directory import RunDirectory
from elbos.training.sampling import Sampling, sample


class Model(Protocol):
    """Protocol of a model to evaluate: a denoiser with its data, noise levels and sampler.

    `elbos.Run` implements it, and `elbos.runs.pretrained` does for saved diffusers pipelines.
    """

    @property
    def name(self) -> str:
        """The path of the model, as given by the user."""

    @property
    def directory(self) -> RunDirectory:
        """The directory that stores partial results of the model's evaluation."""

    @property
    def step(self) -> int | None:
        """The training step of the weights; None if unknown."""

    @property
    def origin(self) -> Origin | None:
        """The source format of a converted model; None for a model that this library trained."""

    @property
    def trained(self) -> Training:
        """The known settings of the model's training."""

    @property
    def denoiser(self) -> Denoise:
        """The network, wrapped as a denoiser."""

    @property
    def device(self) -> torch.device:
        """The device on which the network runs."""

    @property
    def precision(self) -> str:
        """The numerical precision of the network, "bf16" or "fp32"."""

    @property
    def processes(self) -> Processes:
        """The process group across which the evaluation is distributed."""

    @property
    def schedule(self) -> Schedule:
        """The noise schedule that the network was trained with."""

    @property
    def weighting(self) -> WeightFunction | None:
        """The weighting of the training loss; None if unknown."""

    @property
    def relative_width(self) -> float | None:
        """The relative width of the weights' moving average, as in EDM2; None if unknown."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions of the training: "unconditional", "given_label", or both."""

    @property
    def sampling(self) -> Sampling:
        """The model's default sampler and sampling settings."""

    @property
    def data(self) -> DataSpec:
        """The shape, number of pixel values and number of classes of a sample."""

    @property
    def dataset(self) -> Dataset:
        """The dataset on which the model is evaluated."""

    @property
    def mixture(self) -> GaussianMixture | None:
        """The data distribution as a Gaussian mixture; None if unknown."""

    def identifier(self) -> dict[str, Any]:
        """Return everything that determines the network's outputs, as a key for measurements."""

    def autocast(self) -> torch.autocast:
        """Return an autocast context with the network's precision."""

    def require_guidable(self, sampling: Sampling) -> None:
        """Raise a ValueError if the network does not support the guidance in `sampling`."""

    def represented(
        self, x: Shaped[Tensor, "n *d"], start: Start
    ) -> tuple[Shaped[Tensor, "n *e"], int | None]:
        """Return images in the network's representation, and the number of pixel values (None for
        points and latents).
        """

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample in the network's representation."""

    @property
    def num_classes(self) -> int | None:
        """The number of classes that the network is conditioned on; None without classes."""

    @property
    def null_cond(self) -> Condition:
        """The null (unconditional) condition for classifier-free guidance."""

    def decoded(self, x: Float[Tensor, "b *e"]) -> Float[Tensor, "b *d"]:
        """Decode samples from the network's representation to images."""

    def class_labels(self, num: int) -> Int[Tensor, " n"] | None:
        """Return `num` labels that cycle through the classes; None for a network without labels."""

    def sample_batches(
        self,
        sampling: Sampling,
        *,
        num: int,
        seed: int,
        cond: Condition,
        batches: Iterable[int] | None = None,
    ) -> list[Float[Tensor, "b *d"]]:
        """Generate batches of samples with values approximately in [-1, 1]."""


class Sampled:
    """Mixin with the sampling methods that all models share (see `Model`)."""

    def class_labels(self: Model, num: int) -> Int[Tensor, " n"] | None:
        known = self.num_classes
        return None if known is None else torch.arange(num) % known

    def sample_batches(
        self: Model,
        sampling: Sampling,
        *,
        num: int,
        seed: int,
        cond: Condition,
        batches: Iterable[int] | None = None,
    ) -> list[Float[Tensor, "b *d"]]:
        with self.autocast():
            found = sample(
                self.denoiser,
                sampling,
                self.schedule,
                num=num,
                shape=self.shape,
                seed=seed,
                device=self.device,
                cond=cond,
                null_cond=self.null_cond,
                batches=batches,
            )
            return [self.decoded(x) for x in found]


def model_store(model: Model, name: str, **key: Any) -> Store:
    """Open the store for a measurement of a model, in the model's evaluation directory.

    The folder is named `name` and a digest of all that determines the numbers: the model and `key`,
    which is encodable by `codec.encode`. Incomplete files of a killed process are deleted.
    """
    folder = model.directory.evaluation / f"{name}-{_digest(model, {**model.identifier(), **key})}"
    files.remove_leftovers(folder)
    return Store(folder, model.processes)


def data_store(model: Model, name: str, **key: Any) -> Store:
    """Open the store for a measurement that depends on the data alone, in the user's cache."""
    return Store(cache_dir() / name / _digest(model, key), model.processes)


def _digest(model: Model, key: dict[str, Any]) -> str:
    machine = [version("elbos"), version("torch"), model.device.type]
    encoded = {name: encode(value) for name, value in key.items()}
    return digest([machine, model.dataset.fingerprint(), encoded])[:12]
