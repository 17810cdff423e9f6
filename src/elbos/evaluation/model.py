"""Interface of a model that can be evaluated, and the disk stores for partial results.

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
    """Interface of a model that can be evaluated: a denoiser with data, noise levels and sampler.

    `elbos.Run` implements it, and `elbos.runs.pretrained` does for saved diffusers pipelines.
    """

    @property
    def name(self) -> str:
        """The path of the model, as given by the user."""

    @property
    def directory(self) -> RunDirectory:
        """The directory in which partial results of the model's evaluation are stored."""

    @property
    def step(self) -> int | None:
        """The training step of the weights; None if unknown."""

    @property
    def origin(self) -> Origin | None:
        """The source format of a converted model; None for a model that this library trained."""

    @property
    def trained(self) -> Training:
        """Training settings of the model, as far as they are known."""

    @property
    def denoiser(self) -> Denoise:
        """The network, wrapped as a denoiser."""

    @property
    def device(self) -> torch.device:
        """The device on which the network runs."""

    @property
    def precision(self) -> str:
        """Numerical precision of the network, "bf16" or "fp32"."""

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
        """Return the key of stored measurements: a JSON object of everything that the network's
        outputs depend on.
        """

    def autocast(self) -> torch.autocast:
        """Return an autocast context in the numerical precision of the network."""

    def require_guidable(self, sampling: Sampling) -> None:
        """Raise a ValueError if `sampling` uses guidance that the network does not support."""

    def represented(
        self, x: Shaped[Tensor, "n *d"], start: Start
    ) -> tuple[Shaped[Tensor, "n *e"], int | None]:
        """Return images as network inputs (pixels or latents), and the number of pixel values or
        None for continuous data.
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
        """Return images decoded from samples of the network, such as latents."""

    def class_labels(self, num: int) -> Int[Tensor, " n"] | None:
        """Return `num` labels that cycle through all classes; None for a network without labels."""

    def sample_batches(
        self,
        sampling: Sampling,
        *,
        num: int,
        seed: int,
        cond: Condition,
        batches: Iterable[int] | None = None,
    ) -> list[Float[Tensor, "b *d"]]:
        """Yield batches of generated samples, with values approximately in [-1, 1]."""


class Sampled:
    """Mixin that implements the sampling methods of `Model` for all classes of models."""

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
    """Return the disk store of a measurement of a model, in the evaluation directory of the model.

    The folder is named `name` and a digest of all that determines the numbers: the model and `key`,
    which is encodable by `codec.encode`. Incomplete files of a killed process are deleted.
    """
    folder = model.directory.evaluation / f"{name}-{_digest(model, {**model.identifier(), **key})}"
    files.remove_leftovers(folder)
    return Store(folder, model.processes)


def data_store(model: Model, name: str, **key: Any) -> Store:
    """Return the disk store, in the user's cache, of a measurement that depends on the data but not
    on the model.
    """
    return Store(cache_dir() / name / _digest(model, key), model.processes)


def _digest(model: Model, key: dict[str, Any]) -> str:
    machine = [version("elbos"), version("torch"), model.device.type]
    encoded = {name: encode(value) for name, value in key.items()}
    return digest([machine, model.dataset.fingerprint(), encoded])[:12]
