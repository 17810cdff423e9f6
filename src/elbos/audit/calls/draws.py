r"""Distributions of random-number functions, and low-discrepancy quantiles to replace random
numbers.

A drawn number is recorded as the logit of its quantile, $\log P(\text{smaller}) -
\log P(\text{greater})$, which loses no digits in either tail. A given quantile may replace it: the
quantiles of all calls are a scrambled Sobol sequence, which covers the unit cube more evenly than
independent draws.

References:
    Owen (1997), https://doi.org/10.1214/aos/1031594731
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import scipy
import torch
from jaxtyping import Float
from torch import Tensor
from torch.quasirandom import SobolEngine

_ZERO, _ONE = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
_LOWEST = 2.0**-31  # quantile: half of the resolution of a Sobol sequence


@dataclass(frozen=True)
class Distribution:
    """Distribution family of a random-number function such as `torch.randn`."""

    kind: Literal["uniform", "normal", "integer", "beta"]
    parameters: tuple[str, ...] = ()  # keywords, in the order of positional arguments
    first: int = 0  # index of the first parameter among the positional arguments
    is_closed: bool = False  # the range of integers includes its upper end

    def of_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], value: Tensor) -> "Drawn":
        if not self.parameters:
            return Drawn(self.kind, _ZERO, _ONE)
        arguments = dict(zip(self.parameters, args[self.first :], strict=False)) | dict(kwargs)
        lower, upper = self.parameters
        if self.kind == "integer" and isinstance(arguments.get(upper), tuple | list | None):
            arguments |= {lower: 0, upper: arguments[lower]}  # randint(high, size)
        first, second = (
            torch.as_tensor(
                arguments.get(name, default), dtype=torch.float64, device=value.device
            ).detach()
            for name, default in zip(self.parameters, (0.0, 1.0), strict=True)
        )
        return Drawn(self.kind, first, second + self.is_closed)


@dataclass(frozen=True)
class Drawn:
    """Probability distribution of the random numbers that a loss draws."""

    kind: str
    first: Tensor
    second: Tensor

    def standardized(self, value: Tensor) -> Tensor:
        if self.first is _ZERO:
            return value
        scale = torch.where(self.second == 0, 1.0, self.second)
        return (value - self.first.to(value)) / scale.to(value)

    def logit(self, value: Tensor) -> Float[Tensor, " n"]:
        """Compute the logit of the cumulative distribution function."""
        value = value.double()
        if self.kind == "normal":
            z = self.standardized(value).flatten().cpu()
            logit: Tensor = torch.special.log_ndtr(z) - torch.special.log_ndtr(-z)
            return logit
        first, second = (p.expand_as(value).flatten().cpu() for p in (self.first, self.second))
        value = value.flatten().cpu()
        if self.kind == "beta":
            below, above = (
                torch.from_numpy(function(first.numpy(), second.numpy(), value.numpy()))
                for function in (scipy.special.betainc, scipy.special.betaincc)
            )
            return below.log() - above.log()
        share = (value + (0.5 if self.kind == "integer" else 0.0) - first) / (second - first)
        return share.log() - torch.log1p(-share)

    def at(self, quantile: Float[Tensor, " n"], like: Tensor) -> Tensor:
        """Evaluate the inverse of the cumulative distribution function."""
        u = quantile.reshape(like.shape)
        first, second = self.first.cpu(), self.second.cpu()
        if self.kind == "normal":
            value: Tensor = torch.special.ndtri(u)
            value = value if self.first is _ZERO else first + second * value
        elif self.kind == "beta":
            value = u.new_tensor(scipy.special.betaincinv(first.numpy(), second.numpy(), u.numpy()))
        elif self.kind == "integer":
            value = (first + u * (second - first)).floor().clamp(max=second - 1)
        else:  # never the upper end
            below_one = 1 - torch.finfo(like.dtype).eps / 2
            value = first + u.clamp(max=below_one) * (second - first)
        return value.to(like)


def even_quantiles(
    batch: int, *, batch_size: int, num_batches: int, num_draws: int, seed: int
) -> tuple[Float[Tensor, "b draws"], Float[Tensor, " draws"]]:
    """Return scrambled Sobol numbers as quantiles of draws of one number per sample, and per batch.

    Each block of `num_batches` batches is evenly spread and in random order. Blocks are
    independent, so that the variance between blocks estimates the error of a result.
    """
    block, place = divmod(batch, num_batches)
    samples = _sobol_block(batch_size * num_batches, num_draws, seed + 2 * block)
    batches = _sobol_block(num_batches, num_draws, seed + 2 * block + 1)
    return samples[place * batch_size :][:batch_size], batches[place]


@lru_cache(maxsize=2)
def _sobol_block(size: int, num_draws: int, seed: int) -> Float[Tensor, "size draws"]:
    generator = torch.Generator().manual_seed(seed)
    engine = SobolEngine(num_draws, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    points = engine.draw(size, dtype=torch.float64).clamp(min=_LOWEST)
    return points[torch.randperm(size, generator=generator)]
