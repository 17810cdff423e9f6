r"""Points in the plane from a Gaussian mixture, whose densities are known in closed form.

$$p(x) = \sum_k \pi_k \, \mathcal N(x; \mu_k, s_k^2 I), \qquad x \in \mathbb R^2.$$

The density, the denoiser and the ELBO at every noise level can be compared with `mixture`.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from elbos.base.checks import Typed
from elbos.theory.oracles import GaussianMixture
from elbos.training.data.dataset import Dataset, InMemory, Split

_NUM_HELD_OUT = 10_000


@dataclass(frozen=True, kw_only=True)
class Toy(Typed):
    """Points in the plane from a Gaussian mixture, labelled by component.

    `ring`: 8 equal components on a circle. `grid`: 25 equal components. `pair`: a wide component
    of weight 3/4 beside a narrow one. All lie within about [-2, 2], with variance below 1 in each
    dimension. Splits have fixed seeds, and 10,000 points each for validation and test; the seed of
    a run does not change the data.
    """

    kind: Literal["ring", "grid", "pair"] = "ring"
    """Which mixture."""

    num_train: int = 50_000
    """Number of training points."""

    @property
    def mixture(self) -> GaussianMixture:
        line = 0.65 * torch.arange(-2, 3, dtype=torch.float64)
        angle = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
        circle = 1.3 * torch.stack([angle.cos(), angle.sin()], dim=1)
        two = torch.tensor([[-0.5, 0.0], [1.2, 0.0]], dtype=torch.float64)
        weights, means, stds = {
            "ring": ([1 / 8] * 8, circle, [0.1] * 8),
            "grid": ([1 / 25] * 25, torch.cartesian_prod(line, line), [0.05] * 25),
            "pair": ([0.75, 0.25], two, [0.4, 0.1]),
        }[self.kind]
        return GaussianMixture(means.new_tensor(weights), means, means.new_tensor(stds))

    def load(self) -> Dataset:
        if self.num_train < 1:
            raise ValueError(f"num_train is {self.num_train}: give at least one point")
        mixture, splits = self.mixture, []
        for seed, num in enumerate((self.num_train, _NUM_HELD_OUT, _NUM_HELD_OUT)):
            x, component = mixture.sample(num, torch.Generator().manual_seed(seed))
            splits.append(Split(InMemory(x.float()), component, None))
        train, val, test = splits
        return Dataset(f"toy-{self.kind}", train, val, test, len(mixture.weights), None)
