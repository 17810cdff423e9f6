"""A trained run, loaded to be sampled or evaluated."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch

from elbos import files
from elbos.denoiser import Denoiser
from elbos.training import checkpoint
from elbos.training.config import Config
from elbos.training.data import Dataset
from elbos.training.precision import autocast
from elbos.training.run_directory import RunDirectory
from elbos.training.state import build_network, new_accelerator, uses_labels


@dataclass(frozen=True)
class TrainedRun:
    """A run at its latest checkpoint, with the averaged weights.

    Attributes:
        directory: Where it is.
        config: How it was trained.
        dataset: On what.
        step: The step of the checkpoint.
        denoiser: Its network and parameterization.
        device: Where they are.
    """

    directory: RunDirectory
    config: Config
    dataset: Dataset
    step: int
    denoiser: Denoiser
    device: torch.device

    @classmethod
    def load(cls, path: Path) -> "TrainedRun":
        """Load the latest checkpoint of the run in `path`.

        Raises:
            FileNotFoundError: If there is no run, or no checkpoint yet.
            ValueError: If the configuration or the checkpoint is damaged, or the data are others
                than in training.
        """
        directory = RunDirectory(path)
        config = directory.config()
        files.require_plain(path)
        newest = checkpoint.latest(directory.checkpoints)
        if newest is None:
            raise FileNotFoundError(f"{path} has no checkpoint yet: train it with `elbos train`.")
        dataset, device = config.data.load(), new_accelerator().device
        directory.require_own_data(dataset)
        network = build_network(config, dataset, device).eval().requires_grad_(False)
        with checkpoint.reading(newest) as (step, groups):
            checkpoint.require_dtypes(groups, {"ema": network.state_dict()})
            network.load_state_dict(groups["ema"])
        denoiser = Denoiser(network, config.parameterization)
        return cls(directory, config, dataset, step, denoiser, device)

    @property
    def has_labels(self) -> bool:
        """Whether the network knows class labels."""
        return uses_labels(self.config, self.dataset)

    def weights_digest(self) -> str:
        """What tells these weights from others."""
        digest = hashlib.sha256()
        for tensor in self.denoiser.network.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def autocast(self) -> torch.autocast:
        """The precision the run was trained in, as a context."""
        return autocast(self.config, self.device)
