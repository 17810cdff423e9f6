# # Is my model still improving?
#
# The training loss does not tell: it is noisy, and says nothing about other images. The bound on
# held-out images does, if each measurement has the same images and the same noise. Then the error
# of a *difference* is many times smaller than that of either number.

from itertools import pairwise

import matplotlib.pyplot as plt
import torch

import elbos
from elbos.training.data import digits

images, _ = digits.images_and_labels()
x = images.float() / 8 - 1  # 1,797 digits of 8×8 pixels, in [-1, 1]
train, test = x[:1500], x[1500:]

# ## A loop of your own, with one more line

torch.manual_seed(0)
network = elbos.networks.UNetConfig(channels=(16, 32), num_blocks=1).build((1, 8, 8), None)
schedule = elbos.schedules.Normal(mean=2.4, std=2.4, logsnr_min=-8.0, logsnr_max=7.8)
v, weighting = elbos.parameterizations.V(), elbos.weightings.Sigmoid(k=2.0)
objective = elbos.Objective(weighting=weighting, schedule=schedule, parameterization=v)
validator = elbos.Validator(test, num_levels=17, logsnr_min=-8.0, logsnr_max=7.8)
history = elbos.ValidationHistory(validator, every=100)
denoiser = elbos.Denoiser(network, v)
optimizer = torch.optim.Adam(network.parameters(), betas=(0.9, 0.99))
learning_rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=600)

losses = []
for step in range(1, 601):
    batch = train[torch.randint(len(train), (32,))]
    loss = objective.loss(network, batch).mean()
    loss.backward()
    optimizer.step()
    learning_rate.step()
    optimizer.zero_grad()
    losses.append(loss.item())
    history.update(step, denoiser)  # measures at every 100th step

# ## What it says

results = history.results
for (step, before), (later, after) in pairwise(results.items()):
    gain = validator.compare(before, after)
    print(
        f"steps {step} to {later}: {after.bits_per_dim:.3f} ± {after.standard_error:.3f} bits/dim, "
        f"better by {gain.mean:.4f} ± {gain.standard_error:.4f}"
    )

# A gain has a smaller error than either bound. The last one is many of its errors: the model was
# still improving when it stopped.

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
left.plot(range(1, len(losses) + 1), losses, lw=0.5)
left.set(xlabel="step", ylabel="training loss", yscale="log")
bounds = [result.bits_per_dim for result in results.values()]
errors = [2 * result.standard_error for result in results.values()]
right.errorbar(list(results), bounds, errors, marker="o", capsize=3)
right.set(xlabel="step", ylabel="bits/dim of held-out digits")
plt.show()

# [The guide](../validate.md#is-it-still-improving) has this for a whole training, and says what
# else can be read from it.
