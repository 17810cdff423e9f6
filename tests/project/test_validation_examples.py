"""The scripts in examples/validation: loops of other people, and few lines that validate them."""

import contextlib
import importlib.util
import multiprocessing
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from torch import nn

from elbos import Denoiser
from elbos.theory.parameterizations import V

FOLDER = Path(__file__).parents[2] / "examples" / "validation"
SCRIPTS = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}


@pytest.mark.parametrize("path", SCRIPTS.values(), ids=SCRIPTS)
def test_ten_lines_more_validate_a_loop(path: Path) -> None:
    """Without those marked with + it is a whole script, which knows nothing of elbos and lacks no
    name.
    """
    lines = path.read_text().splitlines(keepends=True)
    others = "".join(line for line in lines if "# +" not in line)
    assert sum("# +" in line for line in lines) <= 10
    assert "elbos" not in others
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "-"]
    done = subprocess.run(command, input=others, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def run(name: str) -> dict[str, Any]:
    """The names of a script, once it has run."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return runpy.run_path(str(SCRIPTS[name]))


@pytest.mark.parametrize("name", ["plain_loop", "diffusers_unconditional", "flow_matching"])
def test_a_validated_loop_learns(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(name)
    printed = re.findall(r"([\d.]+) ± ([\d.]+) bits/dim", capsys.readouterr().out)
    bits, errors = zip(*[map(float, pair) for pair in printed], strict=True)
    assert len(bits) > 1
    assert bits[-1] < bits[0] - 4 * errors[0]


def work(rank: int, port: int, folder: Path) -> None:
    """One of two processes, as torchrun starts them; it leaves its result in a file."""
    AcceleratorState._reset_state(reset_partial_state=True)  # what other tests left
    GradientState._reset_state()
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    names = run("accelerate_processes")
    alone = names["validator"](names["denoiser"], is_shared=False)
    torch.save([names["result"].bound, alone.bound], folder / f"{rank}.pt")
    names["accelerator"].end_training()
    os._exit(0)


def test_two_processes_of_accelerate_share_a_validation(tmp_path: Path) -> None:
    """Both get what each of them gets alone, to rounding."""
    with contextlib.closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work, args=(rank, port, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    (first, alone), (second, _) = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=1e-5, atol=1e-6)


class Module(nn.Module):
    """As much of a LightningModule as the script uses."""

    device = torch.device("cpu")

    def log(self, name: str, value: Any, **_: Any) -> None:
        self.trainer.logged_metrics[name] = float(value)


class Trainer:
    """As much of Lightning's trainer as the script uses, with its order of hooks."""

    world_size = 1

    def __init__(self, *, max_epochs: int, **_: Any) -> None:
        self.max_epochs, self.global_step = max_epochs, 0
        self.callbacks: list[Any] = []
        self.logged_metrics: dict[str, float] = {}

    def fit(self, module: Any, loader: Any) -> None:
        module.trainer, optimizer = self, module.configure_optimizers()
        for i, batch in (pair for _ in range(self.max_epochs) for pair in enumerate(loader)):
            optimizer.zero_grad()
            loss = module.training_step(batch, i)
            loss.backward()
            optimizer.step()
            self.global_step += 1
            for callback in self.callbacks:
                callback.on_train_batch_end(self, module, loss, batch, i)
            module.on_train_batch_end(loss, batch, i)


@pytest.mark.filterwarnings("ignore")
def test_a_callback_of_lightning_validates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Lightning where it is installed, else by as much of it as the script uses."""
    monkeypatch.chdir(tmp_path)  # Lightning writes logs
    if importlib.util.find_spec("lightning") is None:
        stand_in = SimpleNamespace(LightningModule=Module, Callback=object, Trainer=Trainer)
        monkeypatch.setitem(sys.modules, "lightning", stand_in)
    names = run("lightning_callback")
    before = names["validator"](Denoiser(names["Diffusion"]().ema, V()))
    bits = float(names["trainer"].logged_metrics["bits_per_dim"])
    assert bits < before.bits_per_dim - 4 * before.standard_error
