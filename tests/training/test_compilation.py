"""A compiled run is the run."""

import itertools
import json
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from forking import in_processes
from tiny import DIGITS, log
from torch import Tensor, nn
from torch._dynamo.utils import counters

from elbos.base.philox import Purpose, Stream
from elbos.runs.fit import fit
from elbos.training import checkpoint, sharding
from elbos.training.checkpoint import State
from elbos.training.config import Execution, Output, Precision
from elbos.training.loop import train


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own modules
@pytest.mark.parametrize(
    ("backend", "precision"),
    [
        ("eager", "fp32"),
        pytest.param("inductor", "fp32", marks=pytest.mark.slow),
        pytest.param("inductor", "bf16", marks=pytest.mark.slow),
    ],
)
def test_a_compiled_run_is_the_run_and_compiles_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, precision: Precision
) -> None:
    """Losses and bounds are equal, with dropout where the compiler leaves random numbers to torch.
    Validation, with batches of other sizes, is not compiled. A U-Net of two resolutions in bfloat16
    is what torch's joined kernels fail for.
    """
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    counters.clear()
    is_single = precision == "fp32"
    output = replace(DIGITS.output, log_every=16, validate_every=48)
    channels, dropout = (16,) if is_single else (16, 32), 0.1 if backend == "eager" else 0.0
    network = replace(DIGITS.network, channels=channels, dropout=dropout)
    config = replace(DIGITS, network=network, num_images=96, output=output, precision=precision)
    train(config, tmp_path / "plain")
    config = replace(config, execution=Execution(compile="on"))
    with torch._dynamo.config.patch(error_on_recompile=True):
        train(config, tmp_path / "compiled")
    assert counters["stats"]["unique_graphs"] == 2
    expected, actual = log(tmp_path / "plain"), log(tmp_path / "compiled")
    assert len(actual) == len(expected)
    tolerance = {"abs": 1e-5} if is_single else {"rel": 0.02}
    for item, other in zip(expected, actual, strict=True):
        assert other.keys() == item.keys()
        for name in item.keys() & {"loss", "validation/bits_per_dim"}:
            assert other[name] == pytest.approx(item[name], **tolerance)


class Block(nn.Linear):
    def __init__(self, num_in: int, num_out: int) -> None:
        super().__init__(num_in, num_out)
        self.tanh = nn.Tanh()

    def forward(self, h: Tensor) -> Tensor:
        return self.tanh(super().forward(h))


class Blocks(nn.Module):
    """Blocks of different shapes, more than the limit of graphs of one function."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (2, 10, 11, 12, 2)
        self.blocks = nn.ModuleList(Block(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, z: Tensor, logsnr: Tensor) -> Tensor:
        for block in self.blocks:
            z = block(z)
        return z


def fitted(folder: Path, execution: Execution) -> None:
    torch.manual_seed(0)
    how = {"num_images": 8, "batch_size": 4, "precision": "fp32", "output": Output(log_every=4)}
    fit(Blocks(), torch.ones(8, 2) / 2, DIGITS.objective, run=folder, execution=execution, **how)


def compiled(folder: Path, shard_size: int) -> None:
    """A run in each of two processes, compiled; it notes parts of the network, graphs, and how
    often each graph ran.
    """
    sharding.MIN_PARAMETERS = 1
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: object, **options: object):
        graphs.append(0)

        def run(*arguments: object, i: int = len(graphs) - 1):
            graphs[i] += 1
            return graph(*arguments)

        return run

    torch.compile = partial(torch.compile, backend=backend)
    # the library's own networks are gathered by blocks, a user's is not
    checkpoint.OwnNetwork = type("Nobody's", (), {})
    groups = State.groups

    def noting(self: State):
        note = len(sharding.sharded_parts(self.network)), graphs
        (folder / f"graphs-{os.environ['RANK']}").write_text(json.dumps(note))
        return groups(self)

    State.groups = noting  # of the checkpoint at the end
    limits = {"fail_on_recompile_limit_hit": True, "cache_size_limit": 2}  # torch's own is 8
    with torch._dynamo.config.patch(limits):
        fitted(folder, Execution(compile="on", shard_size=shard_size))


@pytest.mark.filterwarnings("ignore")  # of the compiler's own modules
@pytest.mark.parametrize("shard_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_processes_compile_every_block(tmp_path: Path, shard_size: int) -> None:
    """With a copy in each process one graph of network and loss; where they share a copy, a graph
    for each shape of a block.
    """
    fitted(tmp_path / "plain", Execution())
    (tmp_path / "compiled").mkdir()
    in_processes(2, compiled, tmp_path / "compiled", shard_size)
    expected, actual = log(tmp_path / "plain"), log(tmp_path / "compiled")
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (expected, actual)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    for rank in range(2):
        num_parts, graphs = json.loads((tmp_path / "compiled" / f"graphs-{rank}").read_text())
        if shard_size == 1:
            assert num_parts == 0
            assert graphs == [2, 2]  # of the data, and of the loss
        else:
            assert sum(graphs) >= 2 * num_parts  # in two steps
            assert len(graphs) >= 4


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler's own modules
def test_random_numbers_are_compiled_as_they_are() -> None:
    """Uniform ones bit for bit, normal ones to some units in the last place. Of one block of
    Philox, as those that hide labels, constants were folded in 32 bits.
    """
    step, samples = torch.zeros((), dtype=torch.int64), torch.arange(1000)
    stream = Stream.from_seed(0, Purpose.LABELS)
    for num in (1, 105):
        uniform, normal = partial(stream.uniform, num=num), partial(stream.normal, shape=(num,))
        torch._dynamo.reset()
        assert torch.equal(torch.compile(uniform)(step, samples), uniform(step, samples))
        actual, expected = torch.compile(normal)(step, samples), normal(step, samples)
        assert (actual.view(torch.int32) - expected.view(torch.int32)).abs().max() <= 4


def test_without_a_compiler_a_run_is_refused_and_goes_on_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: object, inputs: object, **options: object) -> NoReturn:
        raise OSError("no compiler")

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    config = replace(DIGITS, num_images=32)
    with pytest.raises(ValueError, match=r"no compiler.*--execution\.compile off"):
        train(replace(config, execution=Execution(compile="on")), tmp_path / "run")
    train(config, tmp_path / "run")
