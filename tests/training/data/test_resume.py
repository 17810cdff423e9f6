"""A run on data that are mirrored or drawn anew in each epoch resumes bit for bit, and its data are
known again.
"""

import hashlib
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import DIGITS, log, tensors

from elbos.base.errors import Interrupted
from elbos.runs.fit import train
from elbos.theory.adaptive import Adaptive
from elbos.training import data
from elbos.training.data.pack import pack
from elbos.training.data.shards import Index, SplitIndex, shard_name
from elbos.training.trainer import Trainer

SMALL = replace(
    DIGITS, schedule=Adaptive(logsnr_min=-8.0, logsnr_max=13.3), num_images=160, precision="fp32"
)
NUM = 40  # less than three batches: epochs end in their midst


def pictures(folder):
    rng = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(NUM):
        levels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / "pictures" / f"{i}.png")
    return folder / "pictures"


def packed(folder):
    pack(data.Folder(root=pictures(folder), size=10), folder / "packed")
    return data.Packed(path=folder / "packed", flip=True, crop=8)


def latents(folder):
    splits = []
    (folder / "latents").mkdir()
    for number, (name, num) in enumerate({"train": NUM, "val": 8, "test": 8}.items()):
        moments = np.random.default_rng(number).normal(size=(num, 4, 8, 8)).astype(np.float16)
        (folder / "latents" / shard_name(name, 0)).write_bytes(moments.tobytes())
        sha256 = hashlib.sha256(moments.tobytes()).hexdigest()
        splits.append(SplitIndex(nums=(num,), sha256=(sha256,)))
    Index(
        name="made",
        shape=(4, 8, 8),
        dtype="float16",
        num_levels=None,
        class_names=None,
        splits=tuple(splits),
        source={"made": "here"},
        labels_sha256=(),
    ).write(folder / "latents")
    return data.Latents(path=folder / "latents")


def decoded(folder):
    return data.Folder(root=pictures(folder), size=8, flip=True)


@pytest.mark.parametrize("make", [packed, latents, decoded], ids=lambda make: make.__name__)
def test_a_resumed_run_is_the_uninterrupted_run(tmp_path, monkeypatch, make):
    config = replace(SMALL, data=make(tmp_path))
    train(config, tmp_path / "one")
    batch = Trainer.batch

    def stopping(self):
        if self.state.step == 3:
            signal.raise_signal(signal.SIGINT)
        return batch(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "batch", stopping)
        with pytest.raises(Interrupted):
            train(config, tmp_path / "other")
    train(config, tmp_path / "other")
    expected, found = tensors(tmp_path / "one"), tensors(tmp_path / "other")
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert log(tmp_path / "one") == log(tmp_path / "other")


def test_other_samples_are_noticed(tmp_path):
    made = latents(tmp_path)
    config = replace(SMALL, data=made, num_images=16)
    train(config, tmp_path / "run")
    index = Index.read(made.path)
    first = replace(index.splits[0], sha256=("0" * 64,))
    replace(index, splits=(first, *index.splits[1:])).write(made.path)
    with pytest.raises(ValueError, match="sha256"):
        train(config, tmp_path / "run")
