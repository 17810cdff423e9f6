"""A step on a device waits for it once, and once for what it sends: counted on `meta`, which stands
in for a GPU.
"""

import contextlib
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import DIGITS
from transfers import META, Transfers

from elbos.base.processes import Processes
from elbos.training import trainer as module
from elbos.training.data import Dataset, Digits, InMemory, Split
from elbos.training.data.augment import augmented
from elbos.training.data.packed import Moments
from elbos.training.directory import RunDirectory
from elbos.training.trainer import Trainer


def latents() -> Dataset:
    """Distributions in place of images."""
    split = Split(Moments(InMemory(torch.zeros(32, 2, 8, 8)), 0), torch.arange(32) % 10)
    return Dataset("latents", split, split, split, None, 10, None)


DATA = {"augmented": lambda: augmented(Digits().load(), flip=True, crop=6), "latents": latents}


@pytest.mark.parametrize(("data", "use_muon"), [("augmented", True), ("latents", False)])
def test_a_step_waits_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, use_muon: bool
):
    """Once for what depends on the noise levels, once for the losses and the gradient's norm."""
    monkeypatch.setattr(module, "autocast", lambda *_: contextlib.nullcontext())
    # fused, as on GPUs, it does not run on `meta`
    adamw = partial(torch.optim.AdamW.__init__, foreach=True)
    monkeypatch.setattr(
        torch.optim.AdamW,
        "__init__",
        lambda self, *a, fused=False, **k: adamw(self, *a, **k),
    )
    optimizer = replace(DIGITS.optimizer, use_muon=use_muon)
    config = replace(DIGITS, optimizer=optimizer, precision="fp32")
    trainer = Trainer(config, RunDirectory(tmp_path), DATA[data](), Processes(0, 1, META))
    for _ in range(2):  # the first step also makes the optimizer's state
        with Transfers() as transfers:
            trainer.step()
    assert transfers.found == ["_to_copy", "_to_copy"]
