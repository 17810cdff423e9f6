"""Model that can be evaluated, and the disk stores for partial results."""

import abc
import copy
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from elbos.base import files
from elbos.base.codec import digest, encode
from elbos.base.conditions import Condition
from elbos.base.processes import ALONE, Processes
from elbos.base.store import Store
from elbos.theory.denoiser import Denoise
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import WeightFunction
from elbos.training.data.dataset import Dataset
from elbos.training.directory import RunDirectory
from elbos.training.execution import autocast
from elbos.training.sampling import Sampling, sample

_Model = TypeVar("_Model", bound="Model")


class Model(abc.ABC):
    """Denoiser with data, noise levels and sampler, which can be evaluated.

    `elbos.Run` is one of a run, `elbos.runs.pretrained.Pretrained` of a saved diffusers pipeline.

    Attributes:
        name: Path of the model as given by the user.
        directory: Directory for partial results of an evaluation.
        step, weighting: Training step and weighting of the training; None if unknown.
        trained: Settings of the training for reports, as far as known.
        processes: The processes that share an evaluation: this one alone unless set by `shared_by`.
        conditions: Conditions of the network: "unconditional", "given_label" or both; none of them
            if it was trained with the user's own.
        split: Split of the dataset that is evaluated by default.
        num_classes: Number of classes; None for a network without classes.
        scheduler: Class and settings of the scheduler of a diffusers pipeline; None for a run.
    """

    name: str
    directory: RunDirectory
    step: int | None
    trained: Mapping[str, str | int]
    denoiser: Denoise
    device: torch.device
    precision: str
    processes: Processes = ALONE
    schedule: Schedule
    weighting: WeightFunction | None
    conditions: tuple[str, ...]
    sampling: Sampling
    dataset: Dataset
    split: Literal["test", "all"]
    shape: tuple[int, ...]
    num_classes: int | None
    null_cond: Condition = None
    scheduler: str | None = None

    @abc.abstractmethod
    def identifier(self) -> dict[str, Any]:
        """Return everything on which the network's outputs depend, as JSON values."""

    @abc.abstractmethod
    def require_guidable(self, sampling: Sampling) -> None:
        """Raise a ValueError if samples need guidance that the network does not have."""

    def require_known(self, cond: Condition) -> None:
        if cond is None and "unconditional" not in self.conditions:
            raise ValueError(
                f"{self.name} was trained with a condition for every sample: give one each, as "
                "Run.sample(num, cond=cond), or to Run.likelihood as (x, cond)."
            )

    def autocast(self) -> torch.autocast:
        return autocast(self.precision, self.device)

    def shared_by(self: _Model, processes: Processes) -> _Model:
        """Return a copy of the model that distributes its evaluation over the given processes."""
        model = copy.copy(self)
        model.processes = processes
        return model


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
    model.require_known(cond)
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
    of_all = key_digest(model, {**model.identifier(), **key})
    folder = model.directory.evaluation / f"{name}-{of_all}"
    files.remove_leftovers(folder)
    return Store(folder, model.processes)


def key_digest(model: Model, key: dict[str, Any]) -> str:
    """Return a digest of machine, data and `key`, which names a folder of stored measurements."""
    machine = [version("elbos"), version("torch"), model.device.type]
    encoded = {name: encode(value) for name, value in key.items()}
    return digest([machine, model.dataset.fingerprint(), encoded])[:12]
