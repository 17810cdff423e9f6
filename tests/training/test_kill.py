"""Kill a training at random moments, again and again: what comes out is what would have come out.

A moment is a random number of checkpoints after the start and a random fraction of the time that
a checkpoint takes. A checkpoint is written every step, which is most of the time of so small a
training, so that kills hit the middle of it. ELBOS_KILLS=100 kills more often.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny import log, tensors

from elbos.training import checkpoint

NUM_KILLS = int(os.environ.get("ELBOS_KILLS", "20"))
CHECKPOINTS_PER_LIFE = 5
COMMAND = [
    *(sys.executable, "-m", "elbos.cli", "train", "digits", "--run", "run"),
    *("--network.channels", "16", "32", "--network.embedding-dim", "32", "--batch-size", "16"),
    *("--num-images", str(16 * (NUM_KILLS + 1) * (CHECKPOINTS_PER_LIFE + 10))),
    *("--output.save-every", "16", "--output.log-every", "80", "--output.validate-every", "160"),
    *("--sampling.num-steps", "2"),
]


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(COMMAND, cwd=folder, env=environment)


def step_of(folder: Path) -> int:
    newest = checkpoint.latest(folder / "run" / "checkpoints")
    return 0 if newest is None else int(newest.name)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    assert start(tmp_path / "whole").wait() == 0
    chance, num_torn = random.Random(0), 0  # noqa: S311
    for _ in range(NUM_KILLS):
        process, begin = start(tmp_path / "killed"), step_of(tmp_path / "killed")
        enough = begin + chance.randint(1, CHECKPOINTS_PER_LIFE)
        while step_of(tmp_path / "killed") < enough:
            assert process.poll() is None
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.1))
        process.kill()
        assert process.wait() < 0  # killed, not finished
        leftovers = list((tmp_path / "killed").rglob(".*.partial"))
        num_torn += bool(leftovers)
        assert len(leftovers) <= 3  # one write of this process: those of others were removed
    assert start(tmp_path / "killed").wait() == 0
    print(f"{NUM_KILLS} kills, {num_torn} of them in the middle of writing")  # noqa: T201
    whole, killed = tmp_path / "whole" / "run", tmp_path / "killed" / "run"
    assert tensors(killed).keys() == tensors(whole).keys()
    assert all(torch.equal(t, tensors(whole)[name]) for name, t in tensors(killed).items())
    assert log(killed) == log(whole)
    assert not list(killed.rglob(".*.partial"))
    pictures = sorted(path.name for path in (whole / "samples").iterdir())
    assert sorted(path.name for path in (killed / "samples").iterdir()) == pictures
