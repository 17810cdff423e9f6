"""Rectified flow trained by transformers' `Trainer`. A callback, the lines marked with +, validates
the network every 24 steps.

python examples/validation/transformers_trainer.py
"""

import torch
from sklearn.datasets import load_digits
from transformers import Trainer, TrainingArguments

import elbos  # +
from elbos.adapters.transformers import ValidationCallback  # +

x = torch.tensor(load_digits().images[:, None], dtype=torch.float32) / 8 - 1  # in [-1, 1]
train, test = torch.utils.data.random_split(x, [1500, 297], torch.Generator().manual_seed(0))
conv, silu = torch.nn.Conv2d, torch.nn.SiLU()


class Network(torch.nn.Sequential):
    def forward(self, z, t):
        return super().forward(torch.cat([z, t.view(-1, 1, 1, 1).expand_as(z)], dim=1))


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.network = Network(
            conv(2, 32, 3, 1, 1), silu, conv(32, 32, 3, 1, 1), silu, conv(32, 1, 3, 1, 1)
        )

    def forward(self, x):
        t, eps = torch.rand(len(x), device=x.device), torch.randn_like(x)
        share = t.view(-1, 1, 1, 1)
        velocity = self.network((1 - share) * x + share * eps, t)
        return {"loss": torch.nn.functional.mse_loss(velocity, eps - x)}


validator = elbos.Validator(test, num_levels=17, logsnr_max=8.3, num_evaluations=4)  # +
denoiser = lambda model: elbos.adapters.flow.denoiser(model.network, data_at=0)  # +
history = elbos.ValidationHistory(validator, denoiser, every=24, patience=3)  # +
arguments = TrainingArguments(
    output_dir="runs/transformers",
    num_train_epochs=3,
    per_device_train_batch_size=64,
    learning_rate=3e-3,
    save_strategy="no",
    report_to=[],
)
trainer = Trainer(Model(), arguments, train_dataset=[{"x": image} for image in train])
trainer.add_callback(ValidationCallback(history, trainer.log))  # +
trainer.train()
