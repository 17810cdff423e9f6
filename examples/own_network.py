import torch
from sklearn.datasets import load_digits

import elbos

x = torch.tensor(load_digits().images[:, None], dtype=torch.float32) / 8 - 1  # in [-1, 1]
train, test = torch.utils.data.random_split(x, [1500, 297], torch.Generator().manual_seed(0))


class Network(torch.nn.Sequential):  # your nn.Module, called as network(z, logsnr, cond)
    def forward(self, z, logsnr, cond=None):
        return super().forward(torch.cat([z, (logsnr / 8).view(-1, 1, 1, 1).expand_as(z)], dim=1))


conv, silu = torch.nn.Conv2d, torch.nn.SiLU()
network = Network(conv(2, 32, 3, 1, 1), silu, conv(32, 32, 3, 1, 1), silu, conv(32, 1, 3, 1, 1))
weighting, v = elbos.weightings.Sigmoid(k=2.0), elbos.parameterizations.V()
schedule = elbos.schedules.Cosine(logsnr_min=-8.0, logsnr_max=7.8)
objective = elbos.Objective(weighting=weighting, schedule=schedule, parameterization=v)

optimizer = torch.optim.Adam(network.parameters())
for batch in torch.utils.data.DataLoader(train, batch_size=64, shuffle=True):  # your own loop
    objective.loss(network, batch).mean().backward()
    optimizer.step()
    optimizer.zero_grad()

run = elbos.fit(  # or a run with a log, averaged weights and checkpoints; the same call resumes
    network, train, objective, run="runs/own", num_images=20_000, validation=test, num_levels=17
)
few = run.sample(16, sampler=elbos.samplers.UniPC(), num_steps=12)  # [16, 1, 8, 8] in [-1, 1]
more = run.sample(16, sampler=elbos.samplers.Heun(), num_steps=32)
bound = run.likelihood(test)
print(f"{bound.bits_per_dim:.3f} ± {bound.standard_error:.3f} bits/dim")  # 4.8
