"""Convolutions get batches whose channels are last, in one process and in several."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forking import in_processes
from tiny import DIGITS
from torch.testing._internal.distributed.fake_pg import FakeStore
from transfers import Convolutions

from elbos.base.processes import Processes
from elbos.training.config import Execution
from elbos.training.data import Dataset, InMemory, Split
from elbos.training.directory import RunDirectory
from elbos.training.trainer import Trainer

SHAPE = (3, 8, 8)
NETWORK = replace(DIGITS.network, channels=(16,))


def trained(run: Path, num: int, shard_size: int) -> None:
    """Forward and backward of a step in one process of `num`, of which the others are not there."""
    if num > 1:
        dist.init_process_group("fake", rank=0, world_size=num, store=FakeStore())
    execution = Execution(shard_size=shard_size)
    config = replace(DIGITS, network=NETWORK, precision="fp32", execution=execution)
    split = Split(InMemory(torch.zeros(32, *SHAPE)), torch.arange(32) % 10, None)
    data = Dataset("colours", split, split, split, 10, None)
    trainer = Trainer(config, RunDirectory(run), data, Processes(0, num, torch.device("cpu")))
    levels = trainer.objective.levels(trainer.logsnr()[trainer.share]).float()
    with Convolutions() as convolutions:
        trainer.differentiate(levels)
    assert all(convolutions.found)


@pytest.mark.parametrize(("num", "shard_size"), [(1, 1), (2, 2)])
def test_convolutions_get_channels_last(tmp_path: Path, num: int, shard_size: int) -> None:
    in_processes(1, trained, tmp_path, num, shard_size)
