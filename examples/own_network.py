"""Your own network and data: a loss in your own loop, and a whole training run."""

import torch
from sklearn.datasets import load_digits

x = torch.tensor(load_digits().images[:, None], dtype=torch.float32) / 8 - 1  # 17 pixel values


class Network(torch.nn.Sequential):  # a torch.nn.Module, called as network(z, logsnr, cond)
    def forward(self, z, logsnr, cond=None):
        level = (logsnr / 8)[:, None, None, None].expand(-1, 1, *z.shape[2:])
        return super().forward(torch.cat([z, level], 1))


def conv(channels_in, channels_out):
    return torch.nn.Conv2d(channels_in, channels_out, 3, padding=1)


network = Network(conv(2, 64), torch.nn.SiLU(), conv(64, 64), torch.nn.SiLU(), conv(64, 1))
