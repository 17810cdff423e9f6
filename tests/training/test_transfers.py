"""A step on a device waits for its losses alone, after its work is launched.

Counted on `meta`, in the place of a GPU.
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
    split = Split(Moments(InMemory(torch.zeros(32, 2, 8, 8)), 0), torch.arange(32) % 10, None)
    return Dataset("latents", split, split, split, 10, None)


DATA = {"augmented": lambda: augmented(Digits().load(), flip=True, crop=6), "latents": latents}


class Event:
    """In the place of an event of the device."""

    def __init__(self, device: torch.device, calls: list[str]) -> None:
        self.calls = calls

    def record(self) -> None:
        self.calls.append("record")

    def synchronize(self) -> None:
        self.calls.append("wait")


@pytest.mark.parametrize(("data", "use_muon"), [("augmented", True), ("latents", False)])
def test_a_step_waits_for_its_losses_after_its_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: str, use_muon: bool
):
    """Noise levels, losses and the gradient's norm are copied without waiting."""
    calls: list[str] = []
    monkeypatch.setattr(module.execution, "autocast", lambda *_: contextlib.nullcontext())
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
    monkeypatch.setattr(torch, "Event", partial(Event, calls=calls))
    optimize = trainer.optimize
    monkeypatch.setattr(trainer, "optimize", lambda: (calls.append("update"), optimize()))
    for _ in range(2):  # the first step also makes the optimizer's state
        with Transfers() as transfers:
            trainer.step()
    assert transfers.found == []
    assert calls == 2 * ["record", "update", "wait"]
