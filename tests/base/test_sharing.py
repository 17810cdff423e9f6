"""Several processes share a validation, and each gets the result that one alone gets."""

import multiprocessing
import os

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from elbos import Denoiser, Validator
from elbos.theory import parameterizations

IMAGES = torch.randint(256, (11, 1, 4, 4), generator=torch.Generator().manual_seed(1)) / 127.5 - 1
LABELS = torch.arange(11) % 3


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Linear(17, 32), nn.Linear(32, 16)

    def forward(self, z, logsnr, cond):
        h = torch.cat([z.flatten(1), logsnr[:, None] / 10 + cond[:, None]], 1)
        return self.last(torch.tanh(self.first(h))).reshape(z.shape)


WRAPPERS = {
    "alone": lambda network: network,
    "DDP": DistributedDataParallel,
    "FSDP2": lambda network: fully_shard(
        network, mesh=torch.distributed.init_device_mesh("cpu", (dist.get_world_size(),))
    ),
}


def validated(network, **options):
    denoiser = Denoiser(network, parameterizations.V())
    return Validator(IMAGES, num_levels=256)(denoiser, cond=LABELS, batch_size=8, **options)


def work(rank, size, folder, name):
    """One process of a group, which leaves its result in a file."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{name}"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    found = validated(WRAPPERS[name](Network()), is_shared=True)
    torch.save([found.bound, found.labels], folder / f"{name}-{rank}.pt")
    with pytest.raises(ValueError, match="batch sizes"):
        denoiser = Denoiser(lambda z, logsnr: z * logsnr.view(-1, 1, 1, 1), parameterizations.V())
        Validator(IMAGES, seed=rank)(denoiser, is_shared=True)
    (folder / f"{name}-{rank}.refused").touch()
    dist.destroy_process_group()
    os._exit(0)


@pytest.mark.parametrize(("name", "size"), [("alone", 4), ("DDP", 2), ("FSDP2", 2)])
def test_processes_share_the_work_and_the_result(name, size, tmp_path):
    """Of 6 blocks 4 processes compute 2, 2, 1 and 1; to rounding, the bound of each sample."""
    expected = validated(Network())
    context = multiprocessing.get_context("fork")
    processes = [
        context.Process(target=work, args=(rank, size, tmp_path, name)) for rank in range(size)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    for rank in range(size):
        bound, labels = torch.load(tmp_path / f"{name}-{rank}.pt")
        torch.testing.assert_close(bound, expected.bound, rtol=1e-6, atol=1e-7)
        assert torch.equal(labels, LABELS)
        assert (tmp_path / f"{name}-{rank}.refused").exists()
