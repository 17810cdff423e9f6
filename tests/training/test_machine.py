"""A run has the precision that serves the machine it was begun on, and keeps it."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import DIGITS, tensors

from elbos.training import execution
from elbos.training.config import Optimizer
from elbos.training.directory import RunDirectory
from elbos.training.execution import best_precision, fast_kernels
from elbos.training.loop import train

ONE_STEP = replace(DIGITS, num_images=16)


def test_a_run_keeps_the_precision_it_was_begun_in(tmp_path, monkeypatch):
    """Another machine would choose the other; the run goes on as it was, unless told to change. It
    is bit for bit the run that was told so.
    """
    for best in ("fp32", "bf16"):
        monkeypatch.setattr(execution, "best_precision", lambda _, best=best: best)
        train(ONE_STEP, tmp_path / "auto")
        assert RunDirectory(tmp_path / "auto").config() == replace(ONE_STEP, precision="fp32")
    with pytest.raises(ValueError, match="precision = fp32, not bf16"):
        train(replace(ONE_STEP, precision="bf16"), tmp_path / "auto")
    train(replace(ONE_STEP, precision="fp32"), tmp_path / "told")
    auto, told = tensors(tmp_path / "auto"), tensors(tmp_path / "told")
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
        monkeypatch.setattr(execution, "_seconds", lambda _, seconds=seconds: seconds)
        assert best_precision(device) == expected
    best_precision.cache_clear()


def kernels() -> tuple[bool, bool, str]:
    cudnn = torch.backends.cudnn
    return cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()


def test_kernels_of_gpus_are_chosen_for_a_training_and_then_as_before():
    before = kernels()
    with pytest.raises(KeyError), fast_kernels(torch.device("cuda")):
        assert kernels() == (True, True, "high")
        raise KeyError
    assert kernels() == before
    with fast_kernels(torch.device("cpu")):
        assert kernels() == before


def test_a_machine_that_has_changed_is_noted(tmp_path, caplog):
    """Versions and threads, once: not in a new run, nor when it is resumed again."""
    caplog.set_level("INFO", "elbos")
    file = tmp_path / "machine.json"
    train(ONE_STEP, tmp_path)
    now = json.loads(file.read_text())
    assert now["threads"] == torch.get_num_threads()
    assert torch.__version__.startswith(now["torch"])
    file.write_text(json.dumps(now | {"threads": 77, "torch": "1.0"}))
    caplog.clear()
    train(ONE_STEP, tmp_path)
    assert f"torch 1.0, now {now['torch']}; threads 77, now {now['threads']}" in caplog.text
    caplog.clear()
    train(ONE_STEP, tmp_path)
    assert " now " not in caplog.text
    assert json.loads(file.read_text()) == now
