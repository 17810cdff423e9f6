"""Flow matching in a plain loop. The lines marked with + validate after each epoch.

python examples/validation/flow_matching.py
"""

import torch
from sklearn.datasets import load_digits

import elbos  # +

x = torch.tensor(load_digits().images[:, None], dtype=torch.float32) / 8 - 1  # in [-1, 1]
train, test = torch.utils.data.random_split(x, [1500, 297], torch.Generator().manual_seed(0))
loader = torch.utils.data.DataLoader(train, batch_size=64, shuffle=True)


class Network(torch.nn.Sequential):
    def forward(self, z, t):
        return super().forward(torch.cat([z, t.view(-1, 1, 1, 1).expand_as(z)], dim=1))


conv, silu = torch.nn.Conv2d, torch.nn.SiLU()
network = Network(conv(2, 32, 3, 1, 1), silu, conv(32, 32, 3, 1, 1), silu, conv(32, 1, 3, 1, 1))
optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)

denoiser = elbos.adapters.flow.denoiser(network, data_at=0)  # + the network predicts eps - x
validator = elbos.Validator(test, num_levels=17, logsnr_min=-8.0, logsnr_max=7.8)  # +
history = elbos.ValidationHistory(validator, every=1)  # +
for epoch in range(3):
    for batch in loader:
        eps, t = torch.randn_like(batch), torch.rand(len(batch))
        share = t.view(-1, 1, 1, 1)
        error = network((1 - share) * batch + share * eps, t) - (eps - batch)
        error.square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    history.update(epoch + 1, denoiser)  # +
    print(f"epoch {epoch + 1}: {history.results[epoch + 1]}")  # +
