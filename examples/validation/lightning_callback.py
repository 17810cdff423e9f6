"""A Lightning module with averaged weights. A callback, the lines marked with +, validates them
every 24 steps.

python examples/validation/lightning_callback.py
"""

import math

import lightning as L
import torch
from sklearn.datasets import load_digits
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import elbos  # +
from elbos.adapters.lightning import ValidationCallback  # +

x = torch.tensor(load_digits().images[:, None], dtype=torch.float32) / 8 - 1  # in [-1, 1]
train, test = torch.utils.data.random_split(x, [1500, 297], torch.Generator().manual_seed(0))
conv, silu = torch.nn.Conv2d, torch.nn.SiLU()


class Network(torch.nn.Sequential):
    def forward(self, z, logsnr):
        return super().forward(torch.cat([z, logsnr.view(-1, 1, 1, 1).expand_as(z) / 8], dim=1))


class Diffusion(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = Network(
            conv(2, 32, 3, 1, 1), silu, conv(32, 32, 3, 1, 1), silu, conv(32, 1, 3, 1, 1)
        )
        self.ema = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(0.95))
        self.ema.requires_grad_(False)  # which DDP asks for

    def training_step(self, x, batch_idx):
        t, eps = 0.01 + 0.98 * torch.rand(len(x), device=self.device), torch.randn_like(x)
        logsnr = -2 * (math.pi / 2 * t).tan().log()  # the cosine schedule
        alpha, sigma = (torch.sigmoid(s * logsnr).sqrt().view(-1, 1, 1, 1) for s in (1, -1))
        v = self.network(alpha * x + sigma * eps, logsnr)
        loss = torch.nn.functional.mse_loss(v, alpha * eps - sigma * x)
        self.log("loss", loss)
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.ema.update_parameters(self.network)

    def configure_optimizers(self):
        return torch.optim.Adam(self.network.parameters(), lr=3e-3)


validator = elbos.Validator(test, num_levels=17, logsnr_max=8.3, num_evaluations=4)  # +
denoiser = lambda module: elbos.Denoiser(module.ema, elbos.parameterizations.V())  # +
history = elbos.ValidationHistory(validator, denoiser, every=24, patience=3)  # +
trainer = L.Trainer(max_epochs=3, log_every_n_steps=8)
trainer.callbacks.append(ValidationCallback(history))  # +
trainer.fit(Diffusion(), torch.utils.data.DataLoader(train, batch_size=64, shuffle=True))
