"""The smallest trainings that still have everything: labels, dropout, an adaptive schedule."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elbos.models.networks import UNetConfig
from elbos.theory import parameterizations, weightings
from elbos.theory.adaptive import Adaptive
from elbos.training import checkpoint
from elbos.training.config import Config, Optimizer, Output
from elbos.training.data import Digits
from elbos.training.data.dataset import Dataset
from elbos.training.sampling import Sampling

DIGITS = Config(
    data=Digits(),
    network=UNetConfig(
        channels=(16, 32), num_blocks=1, num_attention_levels=0, embedding_dim=32, dropout=0.1
    ),
    parameterization=parameterizations.V(),
    schedule=Adaptive(logsnr_min=-8.0, logsnr_max=7.8),
    weighting=weightings.Sigmoid(k=2.0),
    optimizer=Optimizer(warmup_images=160),
    sampling=Sampling(num_steps=2),
    output=Output(log_every=80, validate_every=10**9, save_every=10**9),
    num_images=480,
    batch_size=16,
)
"""30 steps on digits, a second or two."""


def tensors(run: Path) -> dict[str, Tensor]:
    """Everything in the latest checkpoint of a run."""
    newest = checkpoint.latest(run / "checkpoints")
    assert newest is not None
    step, groups = checkpoint.read(newest)
    named = {f"{group}/{name}": t for group, ts in groups.items() for name, t in ts.items()}
    return {"step": torch.tensor(step), **named}


def log(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, without their speed."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    speed = {"images_per_sec", "peak_memory_gib"}
    return [{k: v for k, v in line.items() if k not in speed} for line in lines]


def bounds(run: Path) -> list[float]:
    """Bits per dimension of the validations in metrics.jsonl."""
    key = "validation/bits_per_dim"
    return [line[key] for line in log(run) if key in line]


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs have the same checkpoint, bit for bit, and the same log."""
    expected, actual = tensors(one), tensors(other)
    assert actual.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(actual[name], expected[name])]
    assert log(other) == log(one)


def rows(dataset: Dataset) -> list[list[bytes]]:
    """The samples of each split, as bytes."""
    splits = (dataset.train, dataset.val, dataset.test)
    return [[x.numpy().tobytes() for x in split.x] for split in splits]
