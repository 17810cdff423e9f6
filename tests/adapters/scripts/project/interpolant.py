"""A module of a project that needs a package which is not installed, but not for its loss."""

import torch
from no_such_library.layers import Attention, compiled
from parts.inner.times import shifted


class Block(Attention):
    pass


class Interpolant:
    def __init__(self, shift):
        self.shift = shift

    @compiled
    def training_losses(self, network, x):
        t = shifted(torch.rand(len(x), device=x.device), self.shift)
        eps, at = torch.randn_like(x), t.view(-1, 1, 1, 1)
        output = network((1 - at) * x + at * eps, t)
        assert output.shape[1] == 2 * x.shape[1]  # a variance is learned, too
        flow, _ = output.chunk(2, dim=1)
        return {"loss": (flow - (eps - x)).square().mean((1, 2, 3))}
