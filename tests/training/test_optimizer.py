"""Muon: orthogonal steps for matrices, AdamW's for the rest."""

import pytest
import torch
from torch import nn

from elbos.networks import MLPConfig, UNetConfig
from elbos.training.config import Optimizer
from elbos.training.optimizer import Muon, new_optimizer, orthogonalized

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
def test_orthogonalized_is_the_polar_factor(shape, generator):
    """Same singular vectors, as numpy's SVD has them; singular values from 0.6 to 1.3."""
    matrix = torch.randn(shape, generator=generator)
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(0, -2, len(s))) @ v  # two orders of magnitude
    found = u.T @ orthogonalized(matrix).float() @ v.T
    values = found.diagonal()
    assert (values > 0.6).all()
    assert (values < 1.3).all()
    assert (found - torch.diag(values)).abs().max() < 0.05


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


@pytest.mark.parametrize("config", [UNetConfig(num_attention_levels=1), MLPConfig()], ids=repr)
def test_inner_matrices_are_muons_and_the_rest_adamws(config):
    shape = (1, 28, 28) if isinstance(config, UNetConfig) else (2,)
    network = config.build(shape, 10)
    optimizer = new_optimizer(network, Optimizer(use_muon=True))
    matrices, others = (group["params"] for group in optimizer.param_groups)
    named = {id(parameter): name for name, parameter in network.named_parameters()}
    muons = [named[id(parameter)] for parameter in matrices]
    assert len(matrices) + len(others) == len(named)
    assert all(parameter.ndim >= 2 for parameter in matrices)
    assert not [n for n in muons if n.startswith(("conv_", "linear_", "embedding", "modulation"))]
    assert "blocks.0" in " ".join(muons)


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
