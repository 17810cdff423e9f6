"""A worker that is killed: the launcher starts all again, to the end that they would have had.

The launcher is torchrun's own, called in Python, with forked workers.
"""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from forking import in_processes
from tiny import DIGITS, assert_same_run
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from elbos.training import checkpoint, loop, sharding
from elbos.training.config import Config, Execution
from elbos.training.loop import train

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
    times = loop.times

    def killed(seed: int, step: int, batch_size: int):
        if life == 0 and os.environ["RANK"] == "1" and step == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return times(seed, step, batch_size)

    loop.times = killed
    train(config, run)
    (run / f"{life}-{os.environ['RANK']}").touch()


def launched(run: Path, num_nodes: int) -> None:
    """What `torchrun --nnodes NUM --nproc-per-node 2/NUM --max-restarts 2` does on one of them."""
    launch = LaunchConfig(
        min_nodes=num_nodes,
        max_nodes=num_nodes,
        nproc_per_node=2 // num_nodes,
        max_restarts=2,
        start_method="fork",
        monitor_interval=0.05,
        rdzv_backend="c10d",
        rdzv_endpoint=f"localhost:{os.environ['MASTER_PORT']}",
        run_id="elbos",
        local_addr="localhost",
    )
    elastic_launch(launch, worker)(CONFIG, run, 5)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a restart."""
    run = tmp_path_factory.mktemp("runs") / "whole"
    in_processes(2, worker, CONFIG, run)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("num_nodes", [1, 2])
def test_a_worker_that_is_killed_changes_no_bit(
    whole: Path, tmp_path: Path, num_nodes: int
) -> None:
    in_processes(num_nodes, launched, tmp_path, num_nodes)
    ended = {path.name for path in tmp_path.glob("?-?")}
    assert "1-1" in ended  # the second life of the one that was killed
    assert len(ended) == 2
    assert_same_run(whole, tmp_path)
    assert not list(tmp_path.rglob(".*.partial"))
    newest = checkpoint.latest(tmp_path / "checkpoints")
    assert newest is not None
    assert int(newest.name) == CONFIG.num_steps
