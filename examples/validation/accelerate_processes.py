"""EDM's loss in a loop with accelerate. All processes together validate every 24 steps, by the
lines marked with +.

accelerate launch --num_processes 2 examples/validation/accelerate_processes.py
torchrun --nproc-per-node 2 examples/validation/accelerate_processes.py  # on the CPU
"""

import torch
from accelerate import Accelerator
from sklearn.datasets import load_digits

import elbos  # +

x = torch.tensor(load_digits().images[:, None], dtype=torch.float32) / 8 - 1  # in [-1, 1]
train, test = torch.utils.data.random_split(x, [1500, 297], torch.Generator().manual_seed(0))
loader = torch.utils.data.DataLoader(train, batch_size=32, shuffle=True)


class Precond(torch.nn.Sequential):
    def forward(self, z, sigma, sigma_data=0.7):
        sigma = sigma.view(-1, 1, 1, 1)
        total = (sigma**2 + sigma_data**2).sqrt()
        inputs = torch.cat([z / total, (sigma.log() / 4).expand_as(z)], dim=1)
        return sigma_data**2 / total**2 * z + sigma * sigma_data / total * super().forward(inputs)


accelerator = Accelerator(cpu=not torch.accelerator.is_available())
conv, silu = torch.nn.Conv2d, torch.nn.SiLU()
model = Precond(conv(2, 32, 3, 1, 1), silu, conv(32, 32, 3, 1, 1), silu, conv(32, 1, 3, 1, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
model, optimizer, loader = accelerator.prepare(model, optimizer, loader)

step = 0
validator = elbos.Validator(test, num_levels=17, logsnr_max=8.3, num_evaluations=4)  # +
history = elbos.ValidationHistory(validator, elbos.adapters.edm.denoiser, every=24)  # +
for epoch in range(3):
    for batch in loader:
        sigma = (1.2 * torch.randn(len(batch), device=batch.device) - 1.2).exp()
        weight = (sigma**2 + 0.7**2) / (sigma * 0.7) ** 2
        z = batch + sigma.view(-1, 1, 1, 1) * torch.randn_like(batch)
        loss = (weight * (model(z, sigma) - batch).square().mean((1, 2, 3))).mean()
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if history.update(step, model):  # + in every process
            accelerator.print(f"step {step}: {history.results[step]}")  # +
    accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
