"""A trained run, loaded to be sampled or evaluated."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from elbos.denoiser import Denoiser
from elbos.errors import explained
from elbos.runs import checkpoint
from elbos.runs.codec import difference, encode
from elbos.runs.directory import RunDirectory
from elbos.training.config import Config
from elbos.training.data import Dataset, DataSpec
from elbos.training.precision import autocast
from elbos.training.state import build_network, new_accelerator, uses_labels


@dataclass(frozen=True)
class TrainedRun:
    """A run at its latest checkpoint, with the averaged weights.

    Attributes:
        directory: Where it is.
        config: How it was trained.
        data: What samples are like.
        step: The step of the checkpoint.
        denoiser: Its network and parameterization.
        device: Where they are.
    """

    directory: RunDirectory
    config: Config
    data: DataSpec
    step: int
    denoiser: Denoiser
    device: torch.device

    @classmethod
    def load(cls, path: Path) -> "TrainedRun":
        """Load the latest checkpoint of the run in `path`.

        Raises:
            FileNotFoundError: If there is no run, or no checkpoint yet.
            ValueError: If the configuration, data.json or the checkpoint is damaged; or if an
                earlier version wrote the run, and its data are not there or are others.
        """
        directory = RunDirectory(path)
        config = directory.config()
        newest = checkpoint.latest(directory.checkpoints)
        if newest is None:
            raise FileNotFoundError(f"{path} has no checkpoint yet: train it with `elbos train`.")
        device = new_accelerator().device
        data = directory.data_spec() or _own_data(directory, config).spec
        network = build_network(config, data, device).eval().requires_grad_(False)
        with checkpoint.reading(newest) as (step, groups):
            checkpoint.require_dtypes(groups, {"ema": network.state_dict()})
            network.load_state_dict(groups["ema"])
        denoiser = Denoiser(network, config.parameterization)
        return cls(directory, config, data, step, denoiser, device)

    @cached_property
    def dataset(self) -> Dataset:
        """The data that it was trained on, loaded when they are first asked for.

        Raises:
            ValueError: If they cannot be loaded, or are others than in training.
        """
        return _own_data(self.directory, self.config)

    @property
    def has_labels(self) -> bool:
        """Whether the network knows class labels."""
        return uses_labels(self.config, self.data)

    def weights_digest(self) -> str:
        """What tells these weights from others."""
        digest = hashlib.sha256()
        for tensor in self.denoiser.network.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def autocast(self) -> torch.autocast:
        """The precision the run was trained in, as a context."""
        return autocast(self.config, self.device)


def averaged_weights(config: Config, init: Path) -> dict[str, Tensor]:
    """The weights of the run in `init`, to start the training of `config` from.

    Raises:
        FileNotFoundError: If there is no run, or no checkpoint yet.
        ValueError: If it is of another network, or one that predicts something else.
    """
    run = TrainedRun.load(init)
    for name in ("network", "parameterization"):
        own, wanted = (encode(getattr(one, name)) for one in (run.config, config))
        if found := difference(own, wanted, name):
            raise ValueError(
                f"The run in {init} has {found}: choose the same, or another run for --init."
            )
    return run.denoiser.network.state_dict()


def _own_data(directory: RunDirectory, config: Config) -> Dataset:
    try:
        dataset = config.data.load()
    except (OSError, ValueError) as error:
        raise ValueError(
            f"The data that the run in {directory.path} was trained on are needed, and cannot be "
            f"loaded: {explained(error)}"
        ) from error
    directory.require_own_data(dataset)
    return dataset
