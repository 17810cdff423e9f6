"""A script whose object holds both the network and the loss, as in tutorials of DDPM."""

import torch
from no_such_library import UNet, loader
from torch import nn


class DDPM(nn.Module):
    def __init__(self, network, num_steps):
        super().__init__()
        self.network, self.num_steps = network, num_steps
        self.register_buffer("alpha_bar", torch.linspace(0.999, 0.001, num_steps))
        self.criterion = nn.MSELoss()

    def forward(self, x):
        t = torch.randint(0, self.num_steps, (len(x),), device=x.device)
        alpha_bar, eps = self.alpha_bar[t][:, None, None, None], torch.randn_like(x)
        z = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * eps
        return self.criterion(eps, self.network(z, t / self.num_steps))


def main():
    ddpm = DDPM(UNet(3, width=10**9), num_steps=500).to("cuda")
    ddpm.load_state_dict(torch.load("no_such_file.pt"))
    optimizer = torch.optim.Adam(ddpm.parameters())
    for x in loader:
        optimizer.zero_grad()
        loss = ddpm(x.to("cuda"))
        loss.backward()
        optimizer.step()
