r"""Points in the plane from a Gaussian mixture, whose densities are known in closed form.

$$p(x) = \sum_k \pi_k \, \mathcal N(x; \mu_k, s_k^2 I), \qquad x \in \mathbb R^2.$$

The density, the denoiser and the ELBO at every noise level can be compared with `mixture`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from elbos.base.checks import Typed
from elbos.theory.oracles import GaussianMixture
from elbos.training.data.dataset import Dataset, InMemory, Split

_Parameters = tuple[Float64[Tensor, " k"], Float64[Tensor, "k 2"], Float64[Tensor, " k"]]
_NUM_HELD_OUT = 10_000
_TRAIN_SEED, _VAL_SEED, _TEST_SEED = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Toy(Typed):
    """Points in the plane from a Gaussian mixture; the label is the component.

    `ring`: 8 equal components on a circle. `grid`: 25 equal components. `pair`: a wide component
    of weight 3/4 beside a narrow one. All lie within about [-2, 2], with variance below 1 in each
    dimension. Splits are drawn with fixed seeds (train 0, validation 1, test 2), 10,000 points each
    for validation and test; the seed of a run does not change the data.
    """

    kind: Literal["ring", "grid", "pair"] = "ring"
    """Which mixture."""

    num_train: int = 50_000
    """Number of training points."""

    @property
    def mixture(self) -> GaussianMixture:
        return GaussianMixture(*_MIXTURES[self.kind]())

    def load(self) -> Dataset:
        if self.num_train < 1:
            raise ValueError(f"num_train is {self.num_train}: give at least one point")
        mixture = self.mixture
        train = _draw(mixture, self.num_train, _TRAIN_SEED)
        val = _draw(mixture, _NUM_HELD_OUT, _VAL_SEED)
        test = _draw(mixture, _NUM_HELD_OUT, _TEST_SEED)
        num_classes = len(_MIXTURES[self.kind]()[0])
        return Dataset(f"toy-{self.kind}", train, val, test, None, num_classes, None)


def _draw(mixture: GaussianMixture, num: int, seed: int) -> Split:
    x, component = mixture.sample(num, torch.Generator().manual_seed(seed))
    return Split(InMemory(x.float()), component)


def _ring() -> _Parameters:
    angle = torch.arange(8, dtype=torch.float64) * (torch.pi / 4)
    means = 1.3 * torch.stack([angle.cos(), angle.sin()], dim=1)
    return _equal(8), means, torch.full((8,), 0.1, dtype=torch.float64)


def _grid() -> _Parameters:
    line = 0.65 * torch.arange(-2, 3, dtype=torch.float64)
    return (
        _equal(25),
        torch.cartesian_prod(line, line),
        torch.full((25,), 0.05, dtype=torch.float64),
    )


def _pair() -> _Parameters:
    return (
        torch.tensor([0.75, 0.25], dtype=torch.float64),
        torch.tensor([[-0.5, 0.0], [1.2, 0.0]], dtype=torch.float64),
        torch.tensor([0.4, 0.1], dtype=torch.float64),
    )


def _equal(num: int) -> Float64[Tensor, " k"]:
    return torch.full((num,), 1 / num, dtype=torch.float64)


_MIXTURES = {"ring": _ring, "grid": _grid, "pair": _pair}
