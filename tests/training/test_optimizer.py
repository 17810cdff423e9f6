"""Muon: orthogonal steps for matrices, AdamW's for the rest."""

import pytest
import torch
import torch.distributed as dist
from forking import in_processes
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from elbos.models.networks import MLPConfig
from elbos.training.config import Optimizer
from elbos.training.ema import EMA
from elbos.training.optimizer import Muon, inner_matrices, new_optimizer

SHAPES = [(16, 16), (8, 40), (40, 8)]
RATES = {"lr": 1e-2, "betas": (0.9, 0.99), "weight_decay": 0.0}


def muon_only(*parameters, **rates):
    return Muon(parameters, [nn.Parameter(torch.zeros(1))], **{**RATES, **rates})


def stepped(optimizer, parameter, grad):
    """How far one step moves a parameter."""
    before, parameter.grad = parameter.detach().clone(), grad
    optimizer.step()
    return parameter.detach() - before


@pytest.mark.parametrize("shape", SHAPES)
def test_a_step_has_the_size_of_adams(shape, generator):
    """Root mean square 0.2 of the learning rate, whatever the gradient's; 15 % for bfloat16."""
    for scale in (1e-4, 1e4):
        parameter = nn.Parameter(torch.zeros(shape))
        step = stepped(
            muon_only(parameter), parameter, scale * torch.randn(shape, generator=generator)
        )
        assert step.square().mean().sqrt().item() == pytest.approx(0.2 * 1e-2, rel=0.15)


def test_a_convolution_is_the_matrix_of_outputs_by_inputs(generator):
    """In either memory format, the step of its rows as a matrix."""
    grad = torch.randn(8, 4, 3, 3, generator=generator)
    rows = nn.Parameter(torch.zeros(8, 36))
    expected = stepped(muon_only(rows), rows, grad.movedim(1, -1).flatten(1)).view(8, 3, 3, 4)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        weight = nn.Parameter(torch.zeros(8, 4, 3, 3).to(memory_format=memory_format))
        step = stepped(muon_only(weight), weight, grad.to(memory_format=memory_format))
        torch.testing.assert_close(step, expected.movedim(-1, 1), rtol=1e-6, atol=0)


def test_momentum_is_nesterovs(generator):
    """The second step is that of g2 + m (m g1 + g2), m = 0.95; 10 % for bfloat16."""
    first, second = torch.randn(2, 6, 30, generator=generator)
    parameter, fresh = nn.Parameter(torch.zeros(6, 30)), nn.Parameter(torch.zeros(6, 30))
    optimizer = muon_only(parameter)
    stepped(optimizer, parameter, first)
    expected = stepped(muon_only(fresh), fresh, second + 0.95 * (0.95 * first + second))
    assert (stepped(optimizer, parameter, second) - expected).norm() < 0.1 * expected.norm()


def test_weight_decay_is_decoupled():
    parameter = nn.Parameter(torch.ones(4, 4))
    step = stepped(muon_only(parameter, weight_decay=0.5), parameter, torch.zeros(4, 4))
    torch.testing.assert_close(step, torch.full((4, 4), -1e-2 * 0.5), rtol=1e-4, atol=0)


def test_every_parameter_is_one_of_muons_or_adamws():
    network = MLPConfig().build((2,), 10)
    optimizer = new_optimizer(network, Optimizer(use_muon=True))
    matrices, rest = (group["params"] for group in optimizer.param_groups)
    assert matrices == inner_matrices(network)
    assert {*matrices, *rest} == {*network.parameters()}
    assert len(matrices) + len(rest) == len(list(network.parameters()))


def test_matrices_of_one_shape_take_the_steps_of_each_alone(generator, monkeypatch):
    """Of different shapes, too, and in stacks of two, as large ones are; to float32's rounding."""
    monkeypatch.setattr("elbos.training.optimizer._MAX_STACKED", 100)
    grads = [torch.randn(4, 6, 2, 1, generator=generator) for _ in range(5)]
    grads += [torch.randn(9, 4, generator=generator)]
    together = [nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for parameter, grad in zip(together, grads, strict=True):
        parameter.grad = grad
    muon_only(*together, dtype=torch.float32).step()
    for parameter, grad in zip(together, grads, strict=True):
        alone = nn.Parameter(torch.zeros_like(grad))
        expected = stepped(muon_only(alone, dtype=torch.float32), alone, grad)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-7)


def test_adamw_of_the_rest_is_torchs_own(generator):
    """Also after a state was loaded, and with a learning rate set from outside."""
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    optimizer = Muon([nn.Parameter(torch.zeros(2, 2))], [ours], **RATES)
    reference = torch.optim.AdamW([theirs], **RATES)
    optimizer.load_state_dict(optimizer.state_dict())
    for lr in (1e-2, 1e-3):
        for group in [*optimizer.param_groups, *reference.param_groups]:
            group["lr"] = lr
        grad = torch.randn(5, generator=generator)
        moved, expected = stepped(optimizer, ours, grad), stepped(reference, theirs, grad)
        torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-8)


class Network(nn.Module):
    """Three matrices of one shape, with rows that two processes cannot share evenly; a convolution,
    and one of a single row. The ends are AdamW's.
    """

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.linear_in = nn.Linear(6, 5)
            self.inner = nn.Sequential(*(nn.Linear(5, 5) for _ in range(3)))
            self.convolutions = nn.Sequential(nn.Conv1d(1, 3, 2), nn.Conv1d(3, 1, 2))
            self.linear_out = nn.Linear(3, 6)

    def forward(self, x):
        h = self.inner(torch.tanh(self.linear_in(x)))
        return self.linear_out(self.convolutions(h[:, None]).flatten(1))


def trained(mesh=None):
    """The weights after some steps on two samples, and their average: with the gradients' mean,
    where the samples are two processes' own.
    """
    network, x = Network(), torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    ema = EMA(network, 0.2)
    if mesh is not None:
        x = x[dist.get_rank() % 2 :][:1]
        for item in (network, ema.network) if mesh.size(1) > 1 else ():
            fully_shard(item, mesh=mesh)
    muon = new_optimizer(network, Optimizer(use_muon=True), torch.float32)
    for step in range(1, 5):
        muon.zero_grad()
        (network(x) - x).square().mean().backward()
        if mesh is not None and mesh.size(1) == 1:
            for parameter in network.parameters():
                dist.all_reduce(parameter.grad)
                parameter.grad /= 2
        muon.step()
        ema.update(network, step)
    values = [*network.parameters(), *ema.network.parameters()]
    return [v.full_tensor() if isinstance(v, DTensor) else v.detach() for v in values]


def work(folder, num_replicas, num_shards):
    """One of several processes; it leaves its weights in a file."""
    dist.init_process_group("gloo")
    names = ("replicate", "shard")
    mesh = dist.init_device_mesh("cpu", (num_replicas, num_shards), mesh_dim_names=names)
    weights = [tensor.detach() for tensor in trained(mesh)]
    torch.save(weights, folder / f"{dist.get_rank()}.pt")


@pytest.mark.parametrize(("num_replicas", "num_shards"), [(2, 1), (2, 2)])
def test_processes_are_one(tmp_path, num_replicas, num_shards):
    """Weights and averages, to 1e-6, with sharded parameters and with whole ones in each."""
    num = num_replicas * num_shards
    in_processes(num, work, tmp_path, num_replicas, num_shards)
    expected = trained()
    for rank in range(num):
        weights = torch.load(tmp_path / f"{rank}.pt")
        torch.testing.assert_close(weights, expected, rtol=0, atol=1e-6)
