# # Does the noise schedule change what is optimal?
#
# The schedule says how often each noise level is drawn, and the loss is weighted by w(λ) / p(λ):
# so p cancels in its mean (Kingma & Gao, section 3). It does not cancel in its variance. Here are
# both, for one network and one weighting under four schedules.

import matplotlib.pyplot as plt
import torch

import elbos
from elbos.training.data import digits

images, _ = digits.images_and_labels()
x = images.float() / 8 - 1  # 1,797 digits of 8×8 pixels, in [-1, 1]

ends = {"logsnr_min": -8.0, "logsnr_max": 7.8}
schedules = {
    "cosine": elbos.schedules.Cosine(**ends),
    "linear in log-SNR": elbos.schedules.Linear(**ends),
    "EDM's normal": elbos.schedules.Normal(mean=2.4, std=2.4, **ends),
    "logit-normal times": elbos.schedules.Normal(mean=0.0, std=2.0, **ends),
}
v, weighting = elbos.parameterizations.V(), elbos.weightings.Sigmoid(k=2.0)
objectives = {
    name: elbos.Objective(weighting=weighting, schedule=schedule, parameterization=v)
    for name, schedule in schedules.items()
}

# ## Train with the first schedule

torch.manual_seed(0)
network = elbos.networks.UNetConfig(channels=(16, 32), num_blocks=1).build((1, 8, 8), None)
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
for _ in range(200):
    batch = x[torch.randint(len(x), (64,))]
    objectives["cosine"].loss(network, batch).mean().backward()
    optimizer.step()
    optimizer.zero_grad()

# ## The same network's loss under each

network.eval()
losses = {}
with torch.no_grad():
    for name, objective in objectives.items():
        losses[name] = torch.cat([objective.loss(network, x) for _ in range(10)])
        loss = losses[name]
        error = loss.std() / len(loss) ** 0.5
        print(f"{name:18} mean {loss.mean():.4f} ± {error:.4f}   std {loss.std():.3f}")

# Means agree within their errors, standard deviations do not. The adaptive schedule
# (`elbos.adaptive.Adaptive`) estimates during the training where losses are large, and draws
# these levels more often: the least variance that a schedule alone can reach.

logsnr = torch.linspace(-7.9, 7.7, 200)
for name, schedule in schedules.items():
    plt.plot(logsnr, schedule.density(logsnr), label=name)
plt.xlabel("log-SNR λ: noise on the left, data on the right")
plt.ylabel("how often it is drawn, p(λ)")
plt.legend()
plt.show()
