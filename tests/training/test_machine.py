"""A run has the precision that serves the machine it was begun on, and keeps it."""

import itertools
from dataclasses import replace

import pytest
import torch
from tiny import DIGITS, tensors

from elbos.runs.directory import RunDirectory
from elbos.training import machine
from elbos.training.config import run_config
from elbos.training.fit import train
from elbos.training.machine import best_precision
from elbos.training.settings import Optimizer

ONE_STEP = replace(DIGITS, num_images=16)


@pytest.mark.parametrize("chosen", ["bf16", "fp32"])
def test_a_run_keeps_the_precision_it_was_begun_in(chosen, tmp_path, monkeypatch):
    """Another machine would choose the other; the run goes on as it was, unless told to change."""
    monkeypatch.setattr(machine, "best_precision", lambda _: chosen)
    train(ONE_STEP, tmp_path)
    other = {"bf16": "fp32", "fp32": "bf16"}[chosen]
    monkeypatch.setattr(machine, "best_precision", lambda _: other)
    train(replace(ONE_STEP, num_images=16), tmp_path)
    assert run_config(RunDirectory(tmp_path)) == replace(ONE_STEP, precision=chosen)
    with pytest.raises(ValueError, match=f"precision = {chosen}, not {other}"):
        train(replace(ONE_STEP, precision=other), tmp_path)


def test_auto_is_what_it_stands_for(tmp_path, monkeypatch):
    """Bit for bit the run that was told so."""
    for name in ("auto", "fp32"):
        monkeypatch.setattr(machine, "best_precision", lambda _: "fp32")
        train(replace(ONE_STEP, precision=name), tmp_path / name)
    auto, told = tensors(tmp_path / "auto"), tensors(tmp_path / "fp32")
    assert all(torch.equal(auto[name], tensor) for name, tensor in told.items())


def test_float32_is_float32_everywhere(tmp_path, monkeypatch):
    """Muon's matrices included: nothing of a float32 run is rounded to bfloat16."""
    seen = []
    product = torch.Tensor.__matmul__

    def watched(a, b):
        seen.append(a.dtype)
        return product(a, b)

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    muon = replace(ONE_STEP, optimizer=Optimizer(use_muon=True))
    train(replace(muon, precision="fp32"), tmp_path / "fp32")
    assert set(seen) == {torch.float32}
    train(replace(muon, precision="bf16"), tmp_path / "bf16")
    assert torch.bfloat16 in seen


def test_the_choice_follows_the_time_of_products(monkeypatch):
    device = torch.device("cpu")
    for seconds, expected in (([1.3, 1.0], "fp32"), ([1.2, 1.0], "bf16"), ([0.5, 1.0], "bf16")):
        best_precision.cache_clear()
        monkeypatch.setattr(machine, "_seconds", lambda _, seconds=seconds: seconds)
        assert best_precision(device) == expected
    best_precision.cache_clear()


def test_stalls_do_not_choose(monkeypatch):
    """A machine that is busy during the first products, of either type, and then is not."""
    clock = itertools.chain.from_iterable((i, i + (9 if i < 12 else 1)) for i in range(100))
    monkeypatch.setattr(machine.time, "perf_counter", clock.__next__)
    assert machine._seconds((torch.bfloat16, torch.float32)) == [1, 1]
