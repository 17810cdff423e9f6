"""What processes send and hold, counted in one of them."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from forking import in_processes
from tiny import DIGITS
from torch import Tensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from elbos.base.processes import Processes
from elbos.training import sharding
from elbos.training.config import Execution
from elbos.training.directory import RunDirectory
from elbos.training.trainer import Trainer


class Traffic(TorchDispatchMode):
    """Bytes that go into collectives, by name; into all-gathers, those that come out."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if op.namespace == "c10d":
            tensors = args[0] if isinstance(args[0], list | tuple) else [args[0]]
            if op.overloadpacket.__name__ == "_reduce_scatter_base_":
                tensors = [args[1]]
            flat = [t for t in tensors if isinstance(t, Tensor)]
            self.bytes[op.overloadpacket.__name__] += sum(t.nbytes for t in flat)
            self.calls[op.overloadpacket.__name__] += 1
        return op(*args, **(kwargs or {}))


def padded(parameters, shard_size: int) -> int:
    """Bytes of parameters whose first axes are rounded up to a multiple of the shards."""
    rows = (-(-p.shape[0] // shard_size) * shard_size for p in parameters)
    return sum(4 * num * math.prod(p.shape[1:]) for num, p in zip(rows, parameters, strict=True))


def step(run: Path, num: int, shard_size: int, num_parts: int, precision: str) -> None:
    """One step of one process, checked."""
    if num == 2:
        processes = Processes.joined()
    else:  # those of this group are not there
        dist.init_process_group("fake", rank=0, world_size=num, store=FakeStore())
        processes = Processes(0, num, torch.device("cpu"))
    sharding.MIN_PARAMETERS = 2000
    execution = Execution(shard_size=shard_size, num_micro_batches=num_parts)
    config = replace(DIGITS, batch_size=2 * num, precision=precision, execution=execution)
    trainer = Trainer(config, RunDirectory(run), config.data.load(), processes)
    plain = config.network.build((1, 8, 8), 10)
    whole = padded(list(plain.parameters()), shard_size)
    trainer.observed = lambda losses: lambda: torch.ones(2 * num + 1)
    optimize, held = trainer.optimize, []

    def noting() -> None:
        held.extend(p.grad for p in trainer.state.network.parameters())
        optimize()

    trainer.optimize = noting
    with Traffic() as traffic:
        trainer.step()
    found = traffic.bytes
    if shard_size > 1:
        root = padded(_own_parameters(trainer.state.network), shard_size)
        size = 2 if precision == "bf16" else 4  # of numbers of blocks; gradients have 4
        gathered = 2 * (whole - root) * size // 4 + root  # forward and backward
        assert found["_allgather_base_"] == num_parts * gathered
        assert found["_reduce_scatter_base_"] == num_parts * whole  # so that no process keeps all
    else:
        assert traffic.calls.keys() == {"allreduce_"}
        assert traffic.calls["allreduce_"] <= 2  # buckets, the first one small
    if shard_size < num:
        assert found["allreduce_"] == whole // shard_size  # once, after the last part
    held += [*trainer.state.network.parameters(), *trainer.state.ema.network.parameters()]
    moments = [m for state in trainer.state.optimizer.state.values() for m in state.values()]
    local = sum(sharding.local(t).nbytes for t in [*held, *moments] if t.ndim)
    assert local == 5 * whole // shard_size  # gradients, weights, their average and two moments


def _own_parameters(root):
    """Those that belong to no block that is gathered by itself."""
    blocks = sharding.sharded_parts(root)[1:]
    inner = {id(p) for block in blocks for p in block.parameters()}
    return [p for p in root.parameters() if id(p) not in inner]


@pytest.mark.parametrize(
    ("num", "shard_size", "num_parts", "precision"),
    [(2, 1, 2, "fp32"), (64, 8, 2, "bf16")],
)
def test_traffic_and_memory_of_one_process(
    tmp_path: Path, num: int, shard_size: int, num_parts: int, precision: str
) -> None:
    """Copies send their gradients once a step, and no weights. Shards gather weights for forward
    and backward, and add up the gradients of each part of a batch; each process holds its share of
    gradients, weights, average and moments.
    """
    in_processes(num if num == 2 else 1, step, tmp_path, num, shard_size, num_parts, precision)
