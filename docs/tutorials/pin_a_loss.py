# # How do I keep a loss as it is?
#
# A refactoring can change what a loss trains while it still is finite and still falls. A test of
# two lines holds its weighting. Here it passes, and then meets two bugs of the kind that were
# released.

import torch

import elbos

# ## A loss, and its test
#
# EDM's: ln σ is normal, the network is preconditioned, and the squared error of the denoised
# image is weighted by (σ² + σ_data²) / (σ σ_data)².


def weight_of(sigma, sigma_data=0.5):
    return (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


def loss(network, x, weight_of=weight_of):
    sigma = torch.exp(1.2 * torch.randn(len(x)) - 1.2)
    s = sigma.view(-1, 1, 1, 1)
    z, norm = x + s * torch.randn_like(x), (s**2 + 0.25).sqrt()
    x_hat = z * 0.25 / norm**2 + network(z / norm, sigma.log() / 4) * s * 0.5 / norm
    error = (x_hat - x).square().flatten(1).mean(1)
    return (weight_of(sigma) * error).mean()


x = 2 * torch.rand(16, 3, 8, 8) - 1


def test_the_loss_is_edm(loss=loss):
    elbos.testing.assert_weighting(loss, x, like="edm", within=0.02)


test_the_loss_is_edm()
print("passed")

# ## σ² for σ
#
# Somebody passes variances.


def with_variances(network, x):
    return loss(network, x, weight_of=lambda sigma: weight_of(sigma**2))


try:
    test_the_loss_is_edm(with_variances)
except AssertionError as error:
    print(error)

# ## A weight that is broadcast away
#
# The weights have shape [b, 1], the errors [b]: the product is [b, b], and each error meets every
# weight. The loss is finite and falls, and its weights have no effect.


def broadcast(network, x):
    return loss(network, x, weight_of=lambda sigma: weight_of(sigma)[:, None])


try:
    test_the_loss_is_edm(broadcast)
except AssertionError as error:
    print(error)

# In a project, `test_the_loss_is_edm` stands in a test file, and CI runs it. [The
# guide](../ci.md) has the same for whole audits, for the command line, and as a workflow for pull
# requests.
