"""DDPM in a plain loop with averaged weights. The lines marked with + validate every 23 steps.

python examples/validation/plain_loop.py
"""

import torch
from sklearn.datasets import load_digits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import elbos  # +

x = torch.tensor(load_digits().images[:, None], dtype=torch.float32) / 8 - 1  # in [-1, 1]
train, test = torch.utils.data.random_split(x, [1500, 297], torch.Generator().manual_seed(0))
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True, drop_last=True)


class Network(torch.nn.Sequential):
    def forward(self, z, t):
        return super().forward(torch.cat([z, t.view(-1, 1, 1, 1).expand_as(z) / 1000], dim=1))


conv, silu = torch.nn.Conv2d, torch.nn.SiLU()
network = Network(conv(2, 32, 3, 1, 1), silu, conv(32, 32, 3, 1, 1), silu, conv(32, 1, 3, 1, 1))
ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.95))
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)

ddpm = {"_class_name": "DDPMScheduler"}  # + these betas, and a network that predicts the noise
denoiser = elbos.adapters.diffusers.denoiser(ema.module, ddpm)  # + the averaged weights
validator = elbos.Validator(test, num_levels=17, logsnr_max=9.2, num_evaluations=4)  # +
history = elbos.ValidationHistory(validator, every=23, patience=3)  # +
step = 0
for _ in range(3):
    for batch in loader:
        t, eps = torch.randint(1000, (len(batch),)), torch.randn_like(batch)
        snr_part = alphas_cumprod[t].view(-1, 1, 1, 1)
        z = snr_part.sqrt() * batch + (1 - snr_part).sqrt() * eps
        loss = torch.nn.functional.mse_loss(network(z, t), eps)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        ema.update_parameters(network)
        step += 1
        if metrics := history.update(step, denoiser):  # +
            print(f"step {step}: {metrics}")  # +
        if history.should_stop:  # +
            break  # +
