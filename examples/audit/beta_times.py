"""Flow matching with Beta(1.5, 1) times, as in pi0, and with a sampler that forgets to reject.

    elbos audit examples/audit/beta_times.py:exact --shape 3 8 8
    elbos audit examples/audit/beta_times.py:ratio --shape 3 8 8

For uniform U and V, U**(1/a) / (U**(1/a) + V**(1/b)) has the density Beta(a, b) if pairs with a sum
U**(1/a) + V**(1/b) > 1 are rejected (Johnk, 1964). `ratio` accepts all pairs, as lerobot did before
0.3.3: the density is 2.26 times as high at t = 0.5, and 0.40 times at t = 1, which is noise.
"""

import torch

A, B = 1.5, 1.0


def train_step(network, x, beta):
    """Compute the flow-matching loss; time 1 is noise."""
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
