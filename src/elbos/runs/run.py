"""Trained models, loaded from run directories for sampling and evaluation."""

import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from elbos.base import files
from elbos.base.checks import require_positive, typed
from elbos.base.conditions import Condition, is_alike, require_tensors
from elbos.base.errors import explained
from elbos.base.items import Items, first_item
from elbos.base.processes import local_device
from elbos.base.progress import Start, silent
from elbos.evaluation import Evaluation, EvaluationConfig, evaluate
from elbos.evaluation.model import Model, class_labels, sample_batches
from elbos.models.samplers import Sampler
from elbos.theory.denoiser import Denoiser
from elbos.theory.weightings import WeightFunction
from elbos.training import checkpoint
from elbos.training.data import KnownData
from elbos.training.data.dataset import Dataset, Subset, digest_of, without_downloads
from elbos.training.data.given import Given
from elbos.training.data.images import fitted, measured_split
from elbos.training.directory import RunDirectory
from elbos.training.network import OwnNetwork
from elbos.training.randomness import generator
from elbos.training.sampling import BATCH_SIZE, Sampling
from elbos.validation import Validation, Validator


class Run(Model):
    """Trained model with the averaged weights at one checkpoint of a run directory.

    Args:
        path: The run directory. Of a run that was handed on, config.json, data.json and the
            ema.safetensors and manifest.json of a checkpoint are enough.
        network: A network of the trained class, if it is user-defined; a copy receives the weights.
            Default: the network that the configuration describes.
        step: The step of a stored checkpoint (`--output.num-kept`). Default: the latest.
        null_cond: The null (unconditional) condition for classifier-free guidance (see `fit`).

    Attributes:
        name: The path of the run directory.
        directory: The run directory.
        config: The configuration of the training, with `schedule`, `sampling` and `weighting`.
        data: Shape, number of pixel values and number of classes of the data.
        has_labels: Whether the network is conditioned on class labels.
        network: The network, with the averaged weights.
        denoiser: The denoiser: the network with its parameterization.
        device: The device of the network.
        processes: The process group across which the evaluation is distributed: this process alone
            unless set by `shared_by`.

    Raises:
        FileNotFoundError: If the directory holds no run or no checkpoint, or the given step is not
            stored.
        ValueError: If the configuration, data.json or the checkpoint is damaged, the network is
            missing or does not fit the weights, or both data.json and the data are missing.

    Examples:
        run = Run("runs/digits")
        x = run.sample(64, seed=0)  # [64, 1, 8, 8], about in [-1, 1]
    """

    step: int
    weighting: WeightFunction
    split: Literal["test", "all"] = "test"

    @typed
    def __init__(
        self,
        path: Path | str,
        network: nn.Module | None = None,
        *,
        step: int | None = None,
        null_cond: Condition = None,
    ) -> None:
        self.name, self.directory, self.null_cond = str(path), RunDirectory(Path(path)), null_cond
        self.config = config = self.directory.config()
        self.schedule, self.sampling = config.schedule, config.sampling
        self.weighting = config.weighting
        self.precision = config.precision
        self.source: KnownData | Given = config.data
        files.require_plain(self.directory.path)
        self.device = local_device()
        self.data = self.directory.data_spec()
        self.shape, self.has_labels = tuple(self.data.shape), config.uses_labels(self.data)
        self.num_classes = self.data.num_classes if self.has_labels else None
        if null_cond is not None:
            self.directory.require_null(null_cond)
        if network is None:
            self.network = config.build_network(self.data).to(self.device)
        else:
            self.network = copy.deepcopy(network).to(self.device)
        self.step, weights = checkpoint.averaged(self.directory.checkpoints, step)
        with checkpoint.belonging(self.directory.path):
            self.network.load_state_dict(weights)
        self.network.eval().requires_grad_(False)
        self.denoiser = Denoiser(self.network, config.parameterization)
        is_dropped = not self.has_labels or config.label_dropout > 0
        self.conditions = ("unconditional",) * is_dropped + ("given_label",) * self.has_labels
        if (self.directory.read("data.json") or {}).get("has_cond"):  # any condition of `fit`
            self.conditions = ()
        objective = ("weighting", "schedule", "parameterization")
        settings = (*objective, "network", "optimizer", "averaging", "data", "precision")
        self.trained = {
            **{name: str(getattr(config, name)) for name in settings},
            "num_parameters": sum(p.numel() for p in self.network.parameters()),
            "images_seen": self.step * config.batch_size,
            "batch_size": config.batch_size,
            "seed": config.seed,
        }

    def __repr__(self) -> str:
        return f"Run({self.name!r}, step={self.step})"

    @classmethod
    def with_function(cls, path: Path, function: str | None) -> "Run":
        """Load a trained model whose network is built by FILE.py:FUNCTION."""
        if function is None:
            return cls(path)
        directory = RunDirectory(path)
        config, data = directory.config(), directory.data_spec()
        if not isinstance(config.network, OwnNetwork):
            raise ValueError(f"The network of {path} is not user-defined: give no function.")
        config = replace(config, network=OwnNetwork.from_file(function))
        return cls(path, config.build_network(data))

    @typed
    def with_data(self, data: KnownData) -> "Run":
        """Return a copy of the model for evaluation on other images of the same form."""
        if not self.conditions:  # whatever they are, the data do not hold them
            self.require_known(None)
        data = fitted(data, self.data.shape[-1])
        dataset, model = data.load(), copy.copy(self)
        trained, other = replace(self.data, name=""), replace(dataset.spec, name="")
        if not self.has_labels:
            trained, other = replace(trained, num_classes=None), replace(other, num_classes=None)
        if trained != other:
            raise ValueError(
                f"The run in {self.name} cannot be evaluated on {dataset.name}: it was "
                f"trained on data of {trained.described}, not {other.described}."
            )
        model.source, model.dataset = data, dataset
        is_trained_on = self.directory.is_trained_on(dataset)
        model.split = measured_split(data, is_trained_on=is_trained_on)
        return model

    @cached_property
    def dataset(self) -> Dataset:  # type: ignore[override]
        """Dataset on which the model is evaluated, by default its own, loaded on first use."""
        try:
            with without_downloads():
                dataset = self.source.load()
        except (OSError, ValueError) as error:
            raise ValueError(
                f"The data that the run in {self.name} was trained on are needed, and "
                f"cannot be loaded: {explained(error).rstrip('.')}. Give them, or others like "
                "them, as data:TYPE."
            ) from error
        self.directory.require_data(dataset)
        return dataset

    def identifier(self) -> dict[str, Any]:
        return {
            "weights": self.weights_digest(),
            "parameterization": self.config.parameterization,
            "precision": self.precision,
            "ends": (self.schedule.logsnr_min, self.schedule.logsnr_max),
        }

    def require_guidable(self, sampling: Sampling) -> None:
        self.config.require_guidable(sampling, self.data)

    @typed
    def sample(
        self,
        num: int,
        *,
        seed: int = 0,
        sampler: Sampler | None = None,
        num_steps: int | None = None,
        guidance: float | None = None,
        cond: Condition = None,
    ) -> Float[Tensor, "n *d"]:
        """Generate samples on the CPU, about in [-1, 1]; the training data are not needed.

        Args:
            num: The number of samples.
            seed: Seed of the initial noise.
            sampler: The sampler. Default for this, `num_steps` and `guidance`: the run's
                configuration.
            num_steps: The number of steps from noise to data.
            guidance: Scale of classifier-free guidance; 1 turns guidance off.
            cond: Conditions of the samples, `[num, ...]`; required after `fit` with conditions.
                Default: the classes in turn for a class-conditional network, otherwise none.

        Raises:
            ValueError: If an argument has the wrong type, the network does not support the
                guidance, or needs conditions, or their number is not `num`.
        """
        require_positive(num=num)
        changes: dict[str, Any] = {"sampler": sampler, "num_steps": num_steps, "guidance": guidance}
        changes = {name: value for name, value in changes.items() if value is not None}
        sampling = replace(self.sampling, **changes)
        labels = class_labels(self, num)
        if cond is None:
            cond = labels
        require_tensors(cond, num)
        if labels is not None and not is_alike(labels, cond):
            raise ValueError(
                f"cond is not a tensor of {num} class labels: give torch.tensor([0, ...])."
            )
        has_null = cond is not None and self.null_cond is not None
        self.config.require_guidable(sampling, self.data, has_null=has_null)
        return torch.cat(sample_batches(self, sampling, num=num, seed=seed, cond=cond))

    @typed
    def likelihood(
        self,
        dataset: Any,
        *,
        num_samples: int | None = None,
        num_evaluations: int = 8,
        seed: int = 0,
    ) -> Validation:
        """Return an upper bound on the negative log-likelihood of data in bits per dimension.

        Args:
            dataset: `dataset[i]` is `x` or `(x, cond)`, as in training; a tensor will do. A network
                that was trained with every label (`label_dropout=0`), or by `fit` with conditions,
                needs them.
            num_samples: The number of samples, a random subset. Default: all.
            num_evaluations: Function evaluations per sample, a multiple of 4.
            seed: Seed of the choice, the noise and the noise levels.

        Raises:
            ValueError: If there are no samples, they have another shape than in training, or lack
                conditions that the network needs.
        """
        if num_samples is not None:
            require_positive(num_samples=num_samples)
        source = Items(dataset, is_bounded=False)
        x, cond = first_item(source)
        shape = tuple(x.shape[1:])
        if shape != self.shape:
            raise ValueError(
                f"samples have shape {shape}, the training data {self.shape}: give data of that "
                "shape."
            )
        self.require_known(cond)
        rows = torch.randperm(len(source), generator=generator(seed))[:num_samples]
        validator = Validator(
            Subset(source, rows, self.config.use_labels),
            num_levels=self.data.num_levels,
            logsnr_min=self.schedule.logsnr_min,
            logsnr_max=self.schedule.logsnr_max,
            num_evaluations=num_evaluations,
            seed=seed,
        )
        with self.autocast():
            return validator(self.denoiser, batch_size=BATCH_SIZE, device=self.device)

    @typed
    def evaluate(
        self, *, sampling: Sampling | None = None, start: Start = silent, **settings: Any
    ) -> Evaluation:
        """Measure likelihood, loss by noise level and sample quality of the model.

        Partial measurements are stored in the run directory, so that an interrupted evaluation
        resumes. Several processes divide the evaluation if all of them call this method of
        `run.shared_by(Processes.joined())`.

        Args:
            sampling: Sampler settings. Default: the run's configuration.
            start: Callback that opens a progress display for each measurement. Default: no display.
            settings: Fields of `elbos.evaluation.EvaluationConfig`, such as `num_images=1000`,
                `num_samples=0`.

        Raises:
            OSError: If results cannot be stored, or files of the extractor are missing.
            ValueError: If a setting is invalid, the data are missing (as after `fit`; use
                `likelihood`), or losses or samples are not finite.
        """
        return evaluate(self, EvaluationConfig(**settings), sampling, start)

    def weights_digest(self) -> str:
        return digest_of(self.network.state_dict().values())
