"""A run on data that are mirrored or drawn anew in each epoch resumes bit for bit, and its data are
known again.
"""

import signal
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from tiny import DIGITS, assert_same_run

from elbos.base.errors import Interrupted
from elbos.theory.adaptive import Adaptive
from elbos.training import data
from elbos.training.data import packed
from elbos.training.loop import train

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


def cropped(folder):
    data.Images(path=str(pictures(folder)), size=10).pack(folder / "packed")
    return data.Packed(path=folder / "packed", flip=True, crop=8)


def made(folder, seed=0):
    (folder / "made").mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(256, size=(NUM + 16, 3, 8, 8), dtype=np.uint8)
    packed.write(
        folder / "made",
        pixels,
        [range(NUM), range(NUM, NUM + 8), range(NUM + 8, NUM + 16)],
        [],
        name="made",
        num_levels=256,
        class_names=None,
        source="made",
    )
    return data.Packed(path=folder / "made")


def decoded(folder):
    return data.Images(path=str(pictures(folder)), size=8, flip=True)


@pytest.mark.parametrize("make", [cropped, decoded], ids=lambda make: make.__name__)
def test_a_resumed_run_is_the_uninterrupted_run(tmp_path, at_step, make):
    config = replace(SMALL, data=make(tmp_path))
    train(config, tmp_path / "one")
    at_step(3, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(Interrupted):
        train(config, tmp_path / "other")
    at_step(3, lambda: None)
    train(config, tmp_path / "other")
    assert_same_run(tmp_path / "one", tmp_path / "other")


def test_other_samples_are_noticed(tmp_path):
    config = replace(SMALL, data=made(tmp_path), num_images=16)
    train(config, tmp_path / "run")
    made(tmp_path, seed=1)
    with pytest.raises(ValueError, match="sha256"):
        train(config, tmp_path / "run")
