r"""Points in the plane from a Gaussian mixture, whose densities are known in closed form.

$$p(x) = \sum_k \pi_k \, \mathcal N(x; \mu_k, s_k^2 I), \qquad x \in \mathbb R^2.$$

The density, the denoiser and the ELBO at every noise level can be compared with `mixture`.
"""

from dataclasses import dataclass

import torch

from elbos.base.checks import Typed
from elbos.theory.oracles import GaussianMixture
from elbos.training.data.dataset import Dataset, Split

_NUM_HELD_OUT = 10_000


@dataclass(frozen=True, kw_only=True)
class Toy(Typed):
    """Points in the plane from 8 equal Gaussians on a circle, labelled by component.

    All lie within about [-2, 2], with variance below 1 in each dimension. Splits have fixed seeds,
    and 10,000 points each for validation and test; the seed of a run does not change the data.
    """

    num_train: int = 50_000
    """Number of training points."""

    @property
    def mixture(self) -> GaussianMixture:
        angle = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
        means = 1.3 * torch.stack([angle.cos(), angle.sin()], dim=1)
        return GaussianMixture(torch.full_like(angle, 1 / 8), means, torch.full_like(angle, 0.1))

    def load(self) -> Dataset:
        if self.num_train < 1:
            raise ValueError(f"num_train is {self.num_train}: give at least one point")
        splits = []
        for seed, num in enumerate((self.num_train, _NUM_HELD_OUT, _NUM_HELD_OUT)):
            x, component = self.mixture.sample(num, torch.Generator().manual_seed(seed))
            splits.append(Split(x.float(), component, None))
        train, val, test = splits
        return Dataset("toy-ring", train, val, test, 8, None)
