# # Where is there something to gain?
#
# No denoiser is perfect: noise hides which image it was. What is the least loss at each noise
# level, and how far above it is my model? Where the two meet, no training helps.

import math

import matplotlib.pyplot as plt
import torch

import elbos
from elbos.training.data import digits

images, _ = digits.images_and_labels()
x = images.float() / 8 - 1
train, test = x[:1500], x[1500:]

# ## A model

torch.manual_seed(0)
network = elbos.networks.UNetConfig(channels=(16, 32), num_blocks=1).build((1, 8, 8), None)
schedule = elbos.schedules.Normal(mean=2.4, std=2.4, logsnr_min=-8.0, logsnr_max=7.8)
v, weighting = elbos.parameterizations.V(), elbos.weightings.ELBO()
objective = elbos.Objective(weighting=weighting, schedule=schedule, parameterization=v)
denoiser = elbos.Denoiser(network, v)
optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99))
learning_rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=600)
for _ in range(600):
    batch = train[torch.randint(len(train), (32,))]
    objective.loss(network, batch).mean().backward()
    optimizer.step()
    learning_rate.step()
    optimizer.zero_grad()

# ## Its loss, and the least loss, on the digits that it was trained on

validator = elbos.Validator(train, num_levels=17, logsnr_min=-8.0, logsnr_max=7.8)
loss = validator(denoiser).by_level
floor = validator(elbos.oracles.FiniteSet(train.double())).by_level  # knows them by heart

plt.plot(loss.logsnr, loss.nats_per_dim, label="this model")
plt.plot(floor.logsnr, floor.nats_per_dim, label="least loss of any model on these digits")
plt.xlabel("log-SNR λ: noise on the left, data on the right")
plt.ylabel("loss, nats per dimension")
plt.legend()
plt.show()

# Left of the hump every digit is possible, and the best guess is their mean: both losses are near
# 0. On the right, the least loss is 0, since only one of the 1,500 digits fits what is seen. The
# area under it is ln 1500 / 64 nats, the cost of saying which digit it is.

# ## How much is where

excess = torch.tensor(loss.nats_per_dim) - torch.tensor(floor.nats_per_dim)
area = torch.cumulative_trapezoid(excess, torch.tensor(loss.logsnr))
quarter, half, rest = (loss.logsnr[int((area < q * area[-1]).sum())] for q in (0.25, 0.5, 0.75))
print(
    f"the model is {area[-1] / math.log(2):.2f} bits/dim above the least loss: a quarter of it is"
)
print(f"below log-SNR {quarter:.1f}, half below {half:.1f}, three quarters below {rest:.1f}")

# A model at the floor has learned its images by heart, so not all of this should be gained. On
# *held-out* images the floor of the training images still is a lower bound, on average, and the
# best model of all digits lies between the two curves.
