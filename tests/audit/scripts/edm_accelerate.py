"""A loss in a second module, which preconditions the network, and accelerate around both."""

import torch
from accelerate import Accelerator
from neighbour import Network
from torch import nn


class Preconditioned(nn.Module):
    def __init__(self):
        super().__init__()
        self.network = Network()

    def forward(self, z, sigma):
        c_skip, c_out = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25).sqrt()
        c_in = 1 / (sigma**2 + 0.25).sqrt()
        return c_skip * z + c_out * self.network(c_in * z, sigma.log().flatten() / 4)


class Loss(nn.Module):
    def __init__(self, denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, images):
        sigma = (torch.randn(len(images), 1, 1, 1) * 1.2 - 1.2).exp()
        noise = torch.randn_like(images)
        weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
        return (weight * (self.denoiser(images + sigma * noise, sigma) - images) ** 2).mean()


torch.manual_seed(0)
accelerator = Accelerator(cpu=True)
loss = Loss(Preconditioned())
loss, optimizer = accelerator.prepare(loss, torch.optim.SGD(loss.parameters(), lr=1e-4))
for _ in range(10_000):
    value = loss(2 * torch.rand(64, 2, 4, 4) - 1)
    accelerator.backward(value)
    optimizer.step()
    optimizer.zero_grad()
