"""A checkpoint that cannot be written ends the training at once, in all processes."""

import errno
import json
import os
from dataclasses import replace
from pathlib import Path

from forking import in_processes
from tiny import DIGITS

from elbos.runs.fit import train
from elbos.training import checkpoint
from elbos.training.config import Config, Execution

LONG = replace(
    DIGITS,
    network=replace(DIGITS.network, channels=(16,)),
    num_images=16 * 10**6,
    execution=Execution(shard_size=2),
    output=replace(DIGITS.output, save_every=32),
)


def without_room(config: Config, run: Path) -> None:
    """A training in which the disk is full when the main process writes."""

    def full(path: Path, _: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def save(*given, **how) -> None:
        checkpoint.files.write = full
        written(*given, **how)

    written, checkpoint.save = checkpoint.save, save
    try:
        train(config, run)
    except OSError as error:
        (run / f"{os.environ['RANK']}.json").write_text(json.dumps(error.errno))


def test_a_checkpoint_that_cannot_be_written_ends_the_training_in_all(tmp_path: Path) -> None:
    in_processes(2, without_room, LONG, tmp_path)
    errors = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert errors == [errno.ENOSPC] * 2
    assert not list((tmp_path / "checkpoints").iterdir())
