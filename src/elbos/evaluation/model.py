"""What an evaluation needs of a model, whoever trained it."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from elbos.conditions import Condition
from elbos.denoiser import Denoise
from elbos.evaluation.result import Origin
from elbos.oracles import GaussianMixture
from elbos.progress import Start
from elbos.runs.directory import RunDirectory
from elbos.schedules import Schedule
from elbos.training.data import Dataset, DataSpec
from elbos.training.processes import Processes
from elbos.training.sampling import Sampling
from elbos.training.trained import Training
from elbos.weightings import WeightFunction


class Model(Protocol):
    """A denoiser with its data, to be evaluated: a `Run`, or a `Pretrained` one."""

    @property
    def name(self) -> str:
        """Its name in reports: the path that it was read from."""

    @property
    def directory(self) -> RunDirectory:
        """Where the parts of its evaluation are kept."""

    @property
    def dataset(self) -> Dataset:
        """The images that it is evaluated on."""

    @property
    def data(self) -> DataSpec:
        """The properties of its samples."""

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""

    @property
    def processes(self) -> Processes:
        """The processes that share its evaluation: this one alone, or all."""

    @property
    def denoiser(self) -> Denoise:
        """The network, as estimates of data and noise."""

    @property
    def schedule(self) -> Schedule:
        """The schedule whose ends are those of the noise levels that it was trained on."""

    @property
    def sampling(self) -> Sampling:
        """How it is sampled, if nothing else is said."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the network can be told: "unconditional", "given_label", or both."""

    @property
    def weighting(self) -> WeightFunction | None:
        """The weighting that it was trained with, if it is known."""

    @property
    def mixture(self) -> GaussianMixture | None:
        """The distribution of the data, if it is known."""

    @property
    def trained(self) -> Training:
        """What it was trained with."""

    @property
    def origin(self) -> Origin | None:
        """How it was taken, if it was trained elsewhere."""

    @property
    def step(self) -> int | None:
        """The step of the training that its weights are of, if it is known."""

    @property
    def precision(self) -> str:
        """The precision in which the network is evaluated, "bf16" or "fp32"."""

    @property
    def relative_width(self) -> float | None:
        """The relative width of the average that its weights are, if it is known."""

    def identifier(self) -> dict[str, Any]:
        """All that the numbers of its network depend on, as `codec.encode` takes it."""

    def autocast(self) -> torch.autocast:
        """The precision, as a context."""

    def require_guidable(self, sampling: Sampling) -> None:
        """Raise a ValueError if the network cannot be guided as `sampling` says."""

    def represented(
        self, x: Shaped[Tensor, "n *d"], start: Start
    ) -> tuple[Shaped[Tensor, "n *e"], int | None]:
        """Images as the network knows them: their pixel values, as they are, and the number of
        these; or latents, and None.
        """

    def class_labels(self, num: int) -> Int[Tensor, " n"] | None:
        """One class after the other, where the network is told classes."""

    def sample_batches(
        self,
        sampling: Sampling,
        *,
        num: int,
        seed: int,
        cond: Condition,
        batches: Iterable[int] | None = None,
    ) -> list[Float[Tensor, "b *d"]]:
        """Batches of samples, about in [-1, 1]; arguments as those of `sampling.sample`."""
