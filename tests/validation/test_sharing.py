"""Several processes share a validation, and each gets the result that one alone gets."""

import pytest
import torch
import torch.distributed as dist
from forking import in_processes
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


def work(folder, name):
    """One process of a group, which leaves its result in a file."""
    dist.init_process_group("gloo")
    actual = validated(WRAPPERS[name](Network()), is_shared=True)
    torch.save(actual.bound, folder / f"{dist.get_rank()}.pt")
    with pytest.raises(ValueError, match="batch sizes"):
        denoiser = Denoiser(lambda z, logsnr: z * logsnr.view(-1, 1, 1, 1), parameterizations.V())
        Validator(IMAGES, seed=dist.get_rank())(denoiser, is_shared=True)


@pytest.mark.parametrize(("name", "size"), [("alone", 4), ("DDP", 2), ("FSDP2", 2)])
def test_processes_share_the_work_and_the_result(name, size, tmp_path):
    """Of 6 blocks 4 processes compute 2, 2, 1 and 1; to rounding, the bound of each sample."""
    expected = validated(Network())
    in_processes(size, work, tmp_path, name)
    for rank in range(size):
        bound = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(bound, expected.bound, rtol=1e-6, atol=1e-7)
