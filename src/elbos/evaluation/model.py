"""The protocol of a model to evaluate, and the stores of its measurements.

A store is a folder of tensors, one file per batch, so that an interrupted evaluation resumes. Its
name holds a digest of all that the numbers depend on.
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
from elbos.training.processes import Processes
from elbos.training.sampling import Sampling, sample


class Model(Protocol):
    """A denoiser with its data, its noise levels and its sampler.

    `elbos.Run` is one, and so is a pipeline that diffusers saved (`elbos.runs.pretrained`).
    """

    @property
    def name(self) -> str:
        """The path of the model, as given."""

    @property
    def directory(self) -> RunDirectory:
        """The directory in which the parts of its evaluation are stored."""

    @property
    def step(self) -> int | None:
        """The training step of its weights, if it is known."""

    @property
    def origin(self) -> Origin | None:
        """The format that it was read from; None if this library trained it."""

    @property
    def trained(self) -> Training:
        """The known settings of its training."""

    @property
    def denoiser(self) -> Denoise:
        """The network as a denoiser."""

    @property
    def device(self) -> torch.device:
        """The device of its network."""

    @property
    def precision(self) -> str:
        """The precision of its network, "bf16" or "fp32"."""

    @property
    def processes(self) -> Processes:
        """The processes that share its evaluation."""

    @property
    def schedule(self) -> Schedule:
        """The noise levels that it was trained on."""

    @property
    def weighting(self) -> WeightFunction | None:
        """The weighting of its training loss, if it is known."""

    @property
    def relative_width(self) -> float | None:
        """The relative width of the average of its weights, if it is known."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """The conditions of training: "unconditional", "given_label", or both."""

    @property
    def sampling(self) -> Sampling:
        """The sampler and its settings, by default."""

    @property
    def data(self) -> DataSpec:
        """The shape, pixel values and classes of its samples."""

    @property
    def dataset(self) -> Dataset:
        """The images that it is evaluated on."""

    @property
    def mixture(self) -> GaussianMixture | None:
        """The distribution of the data, if it is known."""

    def identifier(self) -> dict[str, Any]:
        """Return everything that the outputs of the network depend on."""

    def autocast(self) -> torch.autocast:
        """Return its precision as a context."""

    def require_guidable(self, sampling: Sampling) -> None:
        """Raise a ValueError if the network cannot be guided as `sampling` says."""

    def represented(
        self, x: Shaped[Tensor, "n *d"], start: Start
    ) -> tuple[Shaped[Tensor, "n *e"], int | None]:
        """Return images as the network takes them, and their number of pixel values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample as the network takes it."""

    @property
    def num_classes(self) -> int | None:
        """The number of classes that the network is conditioned on; None without classes."""

    @property
    def null_cond(self) -> Condition:
        """The condition that stands for none, for guidance."""

    def decoded(self, x: Float[Tensor, "b *e"]) -> Float[Tensor, "b *d"]:
        """Return samples of the network as images."""

    def class_labels(self, num: int) -> Int[Tensor, " n"] | None:
        """Return each class in turn, where the network is conditioned on classes."""

    def sample_batches(
        self,
        sampling: Sampling,
        *,
        num: int,
        seed: int,
        cond: Condition,
        batches: Iterable[int] | None = None,
    ) -> list[Float[Tensor, "b *d"]]:
        """Return batches of samples, about in [-1, 1]."""


class Sampled:
    """The sampling of a model, written once for all models."""

    def class_labels(self: Model, num: int) -> Int[Tensor, " n"] | None:
        """Return each class in turn, where the network is conditioned on classes."""
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
        """Return batches of samples in the precision of the model; see `sampling.sample`."""
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
    """Open the store of a measurement of a model's weights, in the directory of the model.

    Files that a killed process left half-written are deleted. Processes that share the evaluation
    of the model share the store.

    Args:
        model: The model.
        name: The beginning of the folder's name.
        key: All else that the numbers depend on, as `codec.encode` takes it.
    """
    folder = model.directory.evaluation / f"{name}-{_digest(model, {**model.identifier(), **key})}"
    files.remove_leftovers(folder)
    return Store(folder, model.processes)


def data_store(model: Model, name: str, **key: Any) -> Store:
    """Open the store of a measurement of a model's data alone, in the user's cache.

    All models on the same data share it. Arguments as those of `model_store`.
    """
    return Store(cache_dir() / name / _digest(model, key), model.processes)


def _digest(model: Model, key: dict[str, Any]) -> str:
    machine = [version("elbos"), version("torch"), model.device.type]
    encoded = {name: encode(value) for name, value in key.items()}
    return digest([machine, model.dataset.fingerprint(), encoded])[:12]
