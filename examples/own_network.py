import torch

import elbos
from elbos.training.data import digits

images, _ = digits.images_and_labels()  # or a tensor, or a Dataset, of yours
x = images.float() / 8 - 1  # [n, 1, 8, 8] in [-1, 1]
train, test = torch.utils.data.random_split(x, [1500, 297], torch.Generator().manual_seed(0))

unet = elbos.networks.UNetConfig(channels=(32, 64))  # or any nn.Module of yours,
network = unet.build((1, 8, 8), num_classes=None)  # called as network(z, logsnr, cond)
weighting, v = elbos.weightings.Sigmoid(k=2.0), elbos.parameterizations.V()
schedule = elbos.schedules.Cosine(logsnr_min=-8.0, logsnr_max=7.8)
objective = elbos.Objective(weighting=weighting, schedule=schedule, parameterization=v)

optimizer = torch.optim.Adam(network.parameters())
for batch in torch.utils.data.DataLoader(train, batch_size=64, shuffle=True):  # your own loop
    objective.loss(network, batch).mean().backward()
    optimizer.step()
    optimizer.zero_grad()

settings = {"num_images": 80_000, "batch_size": 32, "learning_rate": 2e-3}  # a minute
run = elbos.fit(  # or a run with a log, averaged weights and checkpoints; the same call resumes
    network, train, objective, run="runs/own", validation=test, num_levels=17, **settings
)
few = run.sample(16, sampler=elbos.samplers.Heun(), num_steps=12)  # [16, 1, 8, 8] in [-1, 1]
more = run.sample(16, sampler=elbos.samplers.Heun(), num_steps=32)
bound = run.likelihood(test)
print(f"{bound.bits_per_dim:.3f} ± {bound.standard_error:.3f} bits/dim")  # 2.1
