"""Flow matching with Beta(1.5, 1) times, as pi0 has them, and a sampler without its rejection.

    elbos audit examples/audit/beta_times.py:exact --shape 3 8 8
    elbos audit examples/audit/beta_times.py:ratio --shape 3 8 8

U**(1/a) / (U**(1/a) + V**(1/b)) of uniform numbers is Beta(a, b) if pairs whose sum is above 1 are
drawn anew (Johnk, 1964). `ratio` takes them all, as lerobot did before 0.3.3: it has 2.26 times
the density at t = 0.5, and 0.40 times at t = 1, which is noise.
"""

import torch

A, B = 1.5, 1.0


def train_step(network, x, beta):
    """The flow-matching loss; time 1 is noise."""
    t = (0.999 * beta + 0.001).view(-1, 1, 1, 1)
    noise = torch.randn_like(x)
    return (network(t * noise + (1 - t) * x, t.flatten()) - (noise - x)).square().mean()


def exact(network, x):
    """Beta(1.5, 1)."""
    return train_step(network, x, torch.distributions.Beta(A, B).sample((len(x),)))


def ratio(network, x):
    """A ratio that is not Beta(1.5, 1)."""
    u, v = torch.rand(len(x)) ** (1 / A), torch.rand(len(x)) ** (1 / B)
    return train_step(network, x, u / (u + v))
