"""A run is the same on any number of processes, in parts of a batch, and resumed on others."""

import io
import itertools
import os
import signal
import sys
import warnings
from contextlib import redirect_stderr
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import TINY, Result, assert_one_line
from forking import in_processes
from PIL import Image
from tiny import DIGITS, assert_same_run, bounds, log, tensors
from torch import nn

from elbos import cli
from elbos.base import processes as module
from elbos.base.errors import Interrupted
from elbos.base.processes import Processes, naming_lost_processes
from elbos.runs.fit import fit
from elbos.training import loop, sharding
from elbos.training.checkpoint import State
from elbos.training.config import Config, Execution
from elbos.training.loop import train
from elbos.validation import BinnedLoss

ADAMW = replace(
    DIGITS,
    network=replace(DIGITS.network, channels=(16,), dropout=0.0),
    precision="fp32",
    num_images=144,  # 9 steps
    output=replace(DIGITS.output, log_every=16, validate_every=80),  # twice
)


def trained(config: Config, run: Path, stop_at: int | None = None) -> None:
    """A run in this process, one of several, with small blocks sharded by themselves."""
    sharding.MIN_PARAMETERS = 2000
    times = loop.times
    is_last = os.environ.get("RANK") == str(int(os.environ.get("WORLD_SIZE", "1")) - 1)

    def stopped(seed: int, step: int, batch_size: int):
        if step == stop_at and is_last:
            os.kill(os.getpid(), signal.SIGTERM)
        return times(seed, step, batch_size)

    loop.times = stopped
    try:
        train(config, run)
    except Interrupted:
        assert stop_at is not None


def executed(config: Config, **how: object) -> Config:
    return replace(config, execution=Execution(**how))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in this process, from which those of the others are forked, with what it loaded."""
    run = tmp_path_factory.mktemp("runs") / "adamw"
    train(ADAMW, run)
    return run


def assert_alike(run: Path, expected: Path) -> None:
    """Weights, moments, averages, log and pictures are those of another run, to rounding."""
    torch.testing.assert_close(tensors(run), tensors(expected), rtol=1e-6, atol=1e-6)
    lines = [[line for line in log(path) if "loss" in line] for path in (expected, run)]
    for item, two in zip(*lines, strict=True):
        assert two["loss"] == pytest.approx(item["loss"], abs=1e-6)
        item, two = (BinnedLoss.from_dict(line["loss_by_level"]) for line in (item, two))
        assert two.num_samples == item.num_samples
        assert two.nats_per_dim == pytest.approx(item.nats_per_dim, abs=1e-5)
    assert len(bounds(expected)) == 2
    assert bounds(run) == pytest.approx(bounds(expected), rel=1e-5)
    paths = sorted((expected / "samples").iterdir())
    assert paths
    for path in paths:
        pair = (Image.open(item) for item in (path, run / "samples" / path.name))
        item, other = (np.asarray(picture, dtype=int) for picture in pair)
        assert np.abs(item - other).max() <= 1  # of 255


def test_a_run_is_the_same_to_rounding_on_any_numbers_of_processes(
    alone: Path, tmp_path: Path
) -> None:
    """Two copies in two shards each, stopped by a signal to the last process; then three processes
    with unequal shares, and one.
    """
    copies = {"shard_size": 2, "num_micro_batches": 2, "use_checkpointing": True}
    in_processes(4, trained, executed(ADAMW, **copies), tmp_path, 2)
    assert tensors(tmp_path)["step"] == 3
    in_processes(3, trained, executed(ADAMW, num_micro_batches=2), tmp_path, 5)
    assert tensors(tmp_path)["step"] == 6
    train(ADAMW, tmp_path)
    assert_alike(tmp_path, alone)


def in_turn(config: Config, folder: Path) -> None:
    trained(config, folder / "whole")
    trained(config, folder / "parts", 2)
    assert tensors(folder / "parts")["step"] == 3
    torch.manual_seed(7)  # as in a new process
    trained(config, folder / "parts")


def test_a_resumed_run_in_shards_is_the_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    """With dropout, which is seeded by step and process."""
    network = replace(ADAMW.network, dropout=0.1)
    config = executed(replace(ADAMW, network=network, num_images=80), shard_size=2)
    in_processes(2, in_turn, config, tmp_path)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


class Own(nn.Module):
    """A network of a user's, of two arguments, initially another one in each process."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(int(os.environ["RANK"]))
            self.blocks = nn.ModuleList([nn.Linear(3, 64), nn.Linear(64, 2)])
            self.none = nn.Parameter(torch.zeros(0, 2))
            self.register_buffer("num_calls", torch.zeros(1))
            self.register_buffer("ends", torch.tensor([-1, 1]).short(), persistent=False)

    def __len__(self):
        raise TypeError  # as of a compiled module

    def forward(self, z, logsnr):
        h = torch.cat([z, logsnr[:, None] / 10], 1)
        self.num_calls += int(os.environ["RANK"] == "0")  # buffers are the main process's
        h = self.blocks[1](torch.tanh(self.blocks[0](h))) + self.none.sum()
        return h.view(z.shape)  # of which FSDP2 warns


def stop(num_images: int) -> None:
    """Stop after two steps, by a signal to the first process."""
    if num_images == 14 and os.environ["RANK"] == "0":
        os.kill(os.getpid(), signal.SIGTERM)


def fitted(folder: Path, shard_size: int) -> None:
    sharding.MIN_PARAMETERS = 1
    network, x = Own(), torch.linspace(-1, 1, 84).reshape(42, 2)
    execution = Execution(shard_size=shard_size)
    how = {"num_images": 70, "batch_size": 7, "precision": "fp32", "execution": execution}
    with pytest.raises(Interrupted):
        fit(network, x, ADAMW.objective, run=folder, on_images=stop, **how)
    if shard_size == 1:
        stopped = tensors(folder)
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, stopped[f"network/{name}"])
    else:
        with pytest.raises(ValueError, match="Tensor"):
            other = x + float(os.environ["RANK"]) / 100
            fit(network, other, ADAMW.objective, run=folder, is_bounded=False, **how)
        with pytest.raises(ValueError, match="seed"):  # in all, though one looks at the folder
            fit(network, x, ADAMW.objective, run=folder, seed=1, **how)
    run = fit(network, x, ADAMW.objective, run=folder, **how)
    actual = {"samples": run.sample(8), **network.state_dict()}
    torch.save(actual, folder.with_name(f"{folder.name}-{os.environ['RANK']}.pt"))


@pytest.mark.slow
def test_a_network_of_a_users_is_trained_in_place_in_every_process(tmp_path: Path) -> None:
    in_processes(1, fitted, tmp_path / "alone", 1)
    expected = torch.load(tmp_path / "alone-0.pt")
    for shard_size in (1, 2):
        in_processes(2, fitted, tmp_path / f"of-{shard_size}", shard_size)
        actual = [torch.load(tmp_path / f"of-{shard_size}-{rank}.pt") for rank in range(2)]
        assert torch.equal(actual[0]["num_calls"], actual[1]["num_calls"])
        for other in actual:
            for name in expected:
                torch.testing.assert_close(other[name], expected[name], rtol=1e-5, atol=1e-5)


def left_alone(folder: Path) -> None:
    """A training whose second process is gone when a checkpoint is due."""
    groups = State.groups

    def lost(self: State) -> Any:
        if os.environ["RANK"] == "1":
            os._exit(0)
        return groups(self)

    State.groups = lost
    often = ["--output.save-every", "16", "--execution.shard-size", "2"]
    sys.argv = ["elbos", *TINY, *often, "--run", str(folder)]
    with redirect_stderr(io.StringIO()) as shown, pytest.raises(SystemExit) as stop:
        cli.main()
    assert_one_line(Result(stop.value.code, "", shown.getvalue()), "process", has_begun=True)


def test_what_another_process_leaves_behind_is_one_line(tmp_path: Path) -> None:
    in_processes(2, left_alone, tmp_path / "run")
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize(
    ("change", "num"),
    [({"execution": Execution(shard_size=2)}, 1), ({"batch_size": 3, "num_images": 9}, 4)],
)
def test_what_processes_cannot_share_is_refused_before_anything_is_written(
    change, num: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, processes = replace(ADAMW, **change), Processes(0, num, torch.device("cpu"))
    monkeypatch.setattr(Processes, "joined", lambda: processes)
    with pytest.raises(ValueError, match=r"shard_size 2|batch_size 3"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


class Containers(nn.Module):
    """Blocks as in CompVis' U-Nets: modules that hold others, and have no forward."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("unknown", torch.full((2,), torch.nan), persistent=False)
        self.stages = nn.ModuleList(nn.Module() for _ in range(2))
        for stage, (num_in, num_out) in zip(self.stages, ((1, 8), (8, 1)), strict=True):
            stage.block = nn.ModuleList([nn.Sequential(nn.Conv2d(num_in, 8, 1), nn.Tanh())])
            stage.end = nn.Conv2d(8, num_out, 1)

    def forward(self, z, logsnr):
        for stage in self.stages:
            z = stage.end(stage.block[0](z))
        return z


class Appended(nn.Conv2d):
    def forward(self, h):
        h.append(super().forward(h[-1]))


class Listed(nn.Module):
    """Blocks that return nothing: on several processes the second one's gradient was lost."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Appended(1, 1, 1) for _ in range(2)])

    def forward(self, z, logsnr):
        h = [z]
        for block in self.blocks:
            block(h)
        return h[-1]


class Unused(nn.Module):
    """A layer is not called."""

    def __init__(self) -> None:
        super().__init__()
        self.unused, self.used = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)

    def forward(self, z, logsnr):
        return self.used(z)


class Half(nn.Module):
    """A frozen part in bfloat16, as a large one that adapters are trained for."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Conv2d(1, 1, 1).bfloat16().requires_grad_(False)
        self.adapter = nn.Conv2d(1, 1, 1)

    def forward(self, z, logsnr):
        return self.frozen(z.bfloat16()).float() + self.adapter(z)


RECOMPUTED = {"num_micro_batches": 4, "use_checkpointing": True}  # of seven samples: unequal
PLAIN = (Listed, Unused, Half)
UNUSUAL = {Containers: RECOMPUTED} | {network: {} for network in PLAIN}


def fitted_all(folder: Path, shard_size: int) -> None:
    sharding.MIN_PARAMETERS = 1
    x = torch.linspace(-1, 1, 84).reshape(21, 1, 2, 2)
    for network, how in UNUSUAL.items():
        execution = Execution(shard_size=shard_size, **how)
        settings = {"num_images": 28, "batch_size": 7, "precision": "fp32", "execution": execution}
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of blocks that are gathered all at once
            fit(network(), x, ADAMW.objective, run=folder / network.__name__, **settings)


@pytest.mark.slow
def test_unusual_networks_are_the_same_on_several_processes(tmp_path: Path) -> None:
    in_processes(1, fitted_all, tmp_path / "one", 1)
    for shard_size in (1, 2):
        in_processes(2, fitted_all, tmp_path / f"{shard_size}", shard_size)
    for network, name in itertools.product(UNUSUAL, "12"):
        expected, actual = (tensors(tmp_path / num / network.__name__) for num in ("one", name))
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


def test_shares_cover_the_samples_in_order() -> None:
    for num in (1, 4, 5, 7, 64):
        for num_processes in (1, 2, 3, 4):
            shares = [
                Processes(i, num_processes, torch.device("cpu")).share(num)
                for i in range(num_processes)
            ]
            sizes = [share.stop - share.start for share in shares]
            assert [i for share in shares for i in range(num)[share]] == list(range(num))
            assert max(sizes) - min(sizes) <= 1


def stopped_rank() -> None:
    module.TIMEOUT = timedelta(seconds=4)
    processes = Processes.joined()
    pids = processes.lists([os.getpid()])
    if processes.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    try:
        with pytest.raises(ConnectionError), naming_lost_processes():
            processes.wait()
    finally:
        os.kill(pids[1], signal.SIGCONT)
    os._exit(0)


@pytest.mark.usefixtures("at_once")
def test_a_stopped_rank_ends_the_others_after_the_time_limit() -> None:
    in_processes(2, stopped_rank)
