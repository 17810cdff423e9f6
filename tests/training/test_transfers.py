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
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from elbos.runs.directory import RunDirectory
from elbos.training import trainer as module
from elbos.training.data import Dataset, Digits, InMemory, Split
from elbos.training.data.augment import augmented
from elbos.training.data.latents import Moments
from elbos.training.processes import Processes
from elbos.training.trainer import Trainer

META = torch.device("meta")
WAITING = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique")


class Transfers(TorchDispatchMode):
    """Counts what the host waits for: copies between host and device, and values asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, op.overloadpacket.__name__
        devices = {a.device for a in args if isinstance(a, Tensor)}
        devices |= {torch.device(kwargs["device"])} if kwargs.get("device") else set()
        is_copy = name in ("_to_copy", "copy_") and len(devices) > 1
        is_masked = name in ("index", "index_put_") and any(
            isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1] or ()
        )
        is_waiting = META in devices and (name in WAITING or is_masked)
        if is_waiting or (is_copy and not kwargs.get("non_blocking")):
            self.found.append(name)
        if name == "_local_scalar_dense" and META in devices:
            return 0.0
        if is_copy and args[0].device == META:
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        return op(*args, **kwargs)


def latents() -> Dataset:
    """Distributions in place of images."""
    split = Split(Moments(InMemory(torch.zeros(32, 2, 8, 8)), 0), torch.arange(32) % 10)
    return Dataset("latents", split, split, split, None, 10, None)


DATA = {"augmented": lambda: augmented(Digits().load(), flip=True, crop=6), "latents": latents}


@pytest.mark.parametrize(
    ("data", "use_muon"), [("augmented", False), ("augmented", True), ("latents", False)]
)
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
