# # What does my loss optimize?
#
# Min-SNR has one number, γ, and three forms in circulation: for a network that predicts the
# noise, for one that predicts v, and the first form used by mistake with v. Which weighting does
# each train?

import math

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F

import elbos

# ## Three losses
#
# Each is a function of a network and a batch, as in anybody's training loop. The steps are
# DDPM's.

alphas_cumprod = (1 - torch.linspace(1e-4, 0.02, 1000)).cumprod(0)


def noised(x):
    t = torch.randint(1000, (len(x),))
    alpha_bar = alphas_cumprod[t].view(-1, 1, 1, 1)
    eps = torch.randn_like(x)
    z = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * eps
    return z, t, eps, alpha_bar, alpha_bar / (1 - alpha_bar)


def predicts_noise(network, x):
    z, t, eps, _, snr = noised(x)
    weight = snr.clamp(max=5) / snr
    return (weight * F.mse_loss(network(z, t), eps, reduction="none")).mean()


def predicts_v(network, x, plus=1):
    z, t, eps, alpha_bar, snr = noised(x)
    v = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * x
    weight = snr.clamp(max=5) / (snr + plus)
    return (weight * F.mse_loss(network(z, t), v, reduction="none")).mean()


def forgets_the_one(network, x):
    return predicts_v(network, x, plus=0)


# ## Three audits
#
# `probe` calls a loss with networks of its own. It finds the noise levels, the prediction type
# and the coefficient, and from them the weighting w(λ) of the ELBO at log-SNR λ.

x = 2 * torch.rand(16, 1, 8, 8) - 1  # no real data needed: w does not depend on them
losses = [predicts_noise, predicts_v, forgets_the_one]
audits = [elbos.audit.probe(loss, x) for loss in losses]
for loss, audit in zip(losses, audits, strict=True):
    for near in audit.resembles:
        print(f"{loss.__name__}: {near.name}, {near.formula}, {near.change or 'as published'}")

# The first two are the same objective, though their coefficients differ. How far is the third?

for loss, audit in zip(losses[1:], audits[1:], strict=True):
    distance, error = audits[0].distance(audit)
    print(f"{loss.__name__}: w differs from the first by a factor of {math.exp(distance):.3f}")

# ## Where they differ

logsnr = torch.linspace(-9, 9, 200)
for loss, audit, style in zip(losses, audits, ["-", "--", "-"], strict=True):
    weight = audit.weighting(logsnr)
    plt.plot(logsnr, weight / weight.max(), style, label=loss.__name__)
plt.axvline(math.log(5), color="0.8")
plt.xlabel("log-SNR λ: noise on the left, data on the right")
plt.ylabel("w(λ), greatest 1")
plt.legend()
plt.show()

# Min-SNR's weighting rises and falls, whatever the network predicts. Without the 1, the
# coefficient of v is 1 up to SNR 5, and w grows without bound towards pure noise: that loss is
# spent on images of which nearly nothing is left.
