"""Writing goes on beside the training, and ends it at once, in all processes, if one fails."""

import errno
import json
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch
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
    """A training in which the disk of the second process is full when it writes its part."""
    write_part = checkpoint.write_part

    def full(partial: Path, part: int, groups: checkpoint.Groups) -> None:
        if part == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))
        write_part(partial, part, groups)

    checkpoint.write_part = full
    try:
        train(config, run)
    except OSError as error:
        (run / f"{os.environ['RANK']}.json").write_text(json.dumps(error.errno))


def test_a_part_that_cannot_be_written_ends_the_training_in_all(tmp_path: Path) -> None:
    in_processes(2, without_room, LONG, tmp_path)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    assert found == [errno.ENOSPC] * 2
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_checkpoint_is_written_without_a_copy_which_would_hold_up_the_training(
    tmp_path: Path,
) -> None:
    """What Python allocates meanwhile, in bytes, is far below what is written."""
    tensors = {
        "large": torch.randn(1024, 1024),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "number": torch.tensor(3.0),
        "half": torch.randn(7).bfloat16(),
        "none": torch.zeros(0, 2),
        "flags": torch.ones(3, dtype=torch.bool),
    }
    tracemalloc.start()
    checkpoint.write_part(tmp_path, 0, {"network": tensors})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < tensors["large"].nbytes / 2
    found = safetensors.torch.load_file(tmp_path / "network.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
