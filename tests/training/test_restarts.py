"""A worker that is killed: the launcher starts all again, to the end that they would have had.

The launcher is torchrun's own, called in Python, with forked workers.
"""

import os
import signal
from dataclasses import replace
from pathlib import Path

import torch
from forking import in_processes
from tiny import DIGITS, log, tensors
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from elbos.runs import checkpoint
from elbos.training import sharding
from elbos.training.config import Config
from elbos.training.fit import train
from elbos.training.settings import Execution
from elbos.training.trainer import Trainer

CONFIG = replace(
    DIGITS,
    network=replace(DIGITS.network, channels=(16,)),  # with dropout
    precision="fp32",
    num_images=144,  # 9 steps
    execution=Execution(shard_size=2),
    output=replace(DIGITS.output, log_every=16, save_every=32, validate_every=64),
)


def worker(config: Config, run: Path, killed_at: int | None = None) -> None:
    """One of several processes that train; the last one is killed in the middle of a step, once."""
    torch.set_num_threads(1)
    sharding.MIN_PARAMETERS = 2000
    life = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    optimize = Trainer.optimize

    def optimized(self: Trainer) -> None:
        is_last = self.processes.rank == self.processes.num - 1
        if life == 0 and is_last and self.state.step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        optimize(self)

    Trainer.optimize = optimized
    train(config, run)
    (run / f"{life}-{os.environ['RANK']}").touch()


def launched(run: Path) -> None:
    """What `torchrun --nproc-per-node 2 --max-restarts 2` does."""
    launch = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        max_restarts=2,
        start_method="fork",
        monitor_interval=0.05,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
    )
    elastic_launch(launch, worker)(CONFIG, run, 5)


def test_a_worker_that_is_killed_changes_no_bit(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    in_processes(2, worker, CONFIG, whole)
    in_processes(1, launched, killed)
    assert {path.name for path in killed.glob("?-?")} == {"1-0", "1-1"}  # the second life
    assert tensors(killed).keys() == tensors(whole).keys()
    assert all(torch.equal(t, tensors(whole)[name]) for name, t in tensors(killed).items())
    assert log(killed) == log(whole)
    assert not list(killed.rglob(".*.partial"))
    newest = checkpoint.latest(killed / "checkpoints")
    assert newest is not None
    assert int(newest.name) == CONFIG.num_steps
