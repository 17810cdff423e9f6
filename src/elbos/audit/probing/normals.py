"""Normal draws as parts of the noise: shared between elements, centred, or summed."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def is_shared(draw: Tensor, z: Tensor) -> bool:
    """Test whether a random tensor broadcasts to the shape of the noisy data."""
    pairs = zip(draw.shape, z.shape, strict=False)
    return draw.ndim == z.ndim and all(num in (1, size) for num, size in pairs)


@dataclass(frozen=True)
class DrawSum:
    """Noise of unit variance as a linear combination of random tensors."""

    draws: Float[Tensor, "b k d"]
    factors: Float[Tensor, "b k"]  # of norm 1

    @classmethod
    def from_noise(cls, draws: list[Tensor], noise: Tensor) -> "DrawSum":
        """Fit noise, up to a constant, by a linear combination of random tensors."""
        stacked = torch.stack([draw.flatten(1).double() for draw in draws], dim=1)
        factors = _factors(stacked, noise)
        return cls(stacked, factors / factors.norm(dim=1, keepdim=True).clamp(min=1e-30))

    def noise(self) -> Float[Tensor, "b d"]:
        return torch.einsum("bk,bkd->bd", self.factors, self.draws)

    def independent_part(self, noise: Tensor) -> Float[Tensor, "b d"]:
        """Return the component of the target's noise that is orthogonal to the input noise."""
        factors = _factors(self.draws, noise)
        along = (factors * self.factors).sum(1, keepdim=True) * self.factors
        return torch.einsum("bk,bkd->bd", factors - along, self.draws)


def _factors(draws: Float[Tensor, "b k d"], value: Tensor) -> Float[Tensor, "b k"]:
    vectors = torch.cat([draws, torch.ones_like(draws[:, :1])], dim=1)
    projections = vectors @ value.flatten(1).double()[:, :, None]
    factors: Tensor = torch.linalg.solve_ex(vectors @ vectors.mT, projections).result
    return factors[:, : draws.shape[1], 0]


def without_mean(value: Tensor, axis: int) -> Tensor:
    return value - value.mean(axis, keepdim=True)
