"""What the number of a validation would not show: of the data and of the denoiser."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.conditions import Condition, map_tensors
from elbos.denoiser import Denoise, Denoiser, estimate
from elbos.errors import flat
from elbos.items import Items
from elbos.process import align, alpha_sigma, diffuse

NUM_READ_TWICE = 8  # samples: a flip of half of them is missed once in 256
USER = 5  # levels of the stack from here to the line that calls the validator
MAX_MISFIT = 0.05  # of the noisy data: rounding in bfloat16, and to the nearest of 1,000 steps


class TimeIgnoredWarning(UserWarning):
    """A network returns the same at both ends of the noise levels."""


class RandomDataWarning(UserWarning):
    """A dataset returns other samples when it is read again."""


class InconsistentEstimatesWarning(UserWarning):
    """A denoiser's estimates of data and noise do not add up to the noisy data."""


@contextmanager
def explained_types(dtype: torch.dtype) -> Iterator[None]:
    """Let torch's errors about types be a ValueError that names the data's."""
    try:
        yield
    except RuntimeError as error:
        if "type" not in str(error):
            raise
        raise ValueError(
            f"the network does not take {dtype} ({flat(error)}): convert what it is given, as in "
            "lambda z, logsnr: network(z.to(torch.bfloat16), logsnr)."
        ) from error


def warn_if_random(items: Items) -> None:
    """Warn if the first samples of a dataset differ when they are read again."""
    if isinstance(items.dataset, Tensor):
        return
    rows = torch.arange(min(NUM_READ_TWICE, len(items)))
    first, second = (_tensors(items.batch(rows)) for _ in range(2))
    if not all(
        torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
        for a, b in zip(first, second, strict=True)
    ):
        warnings.warn(
            "the dataset returns other samples when it is read again, as with random crops, flips "
            "or latents: validate the data without them.",
            RandomDataWarning,
            stacklevel=USER,
        )


def _tensors(batch: tuple[Tensor, Condition]) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(found.append, {"x": batch[0], "cond": batch[1]})
    return found


def warn_if_blind(
    denoiser: Denoiser, x: Float[Tensor, "b *d"], ends: tuple[float, float], cond: Condition
) -> None:
    """Warn if a network answers the same at both ends of the noise levels."""
    low, high = (denoiser.output(x, torch.full((len(x),), end).to(x), cond) for end in ends)
    if torch.equal(low, high) and low.any():
        warnings.warn(
            f"the network returns the same at log-SNR {ends[0]:g} and {ends[1]:g}: it takes no "
            "account of its second argument.",
            TimeIgnoredWarning,
            stacklevel=USER,
        )


def require_consistent(
    denoiser: Denoise,
    x: Float[Tensor, "2 *d"],
    eps: Float[Tensor, "2 *d"],
    ends: tuple[float, float],
    cond: Condition,
) -> None:
    r"""Warn unless $z = \alpha\hat x + \sigma\hat\epsilon$, at a quarter and three quarters of the
    noise levels, as for every linear parameterization.

    Raises:
        ValueError: If the two are interchanged: that holds with them in each other's places.
    """
    logsnr = torch.linspace(*ends, 5)[[1, 3]].to(x)
    z = diffuse(x, eps, logsnr)
    x_hat, eps_hat = estimate(denoiser, z.clone(), logsnr, cond)
    alpha, sigma = alpha_sigma(align(logsnr, z))

    def misfit(first: Tensor, second: Tensor) -> float:
        error = (alpha * first + sigma * second - z).flatten(1).norm(dim=1)
        return float((error / z.flatten(1).norm(dim=1)).max())

    own = misfit(x_hat, eps_hat)
    if not own > MAX_MISFIT:
        return
    if misfit(eps_hat, x_hat) < MAX_MISFIT:
        raise ValueError("the denoiser returns (eps_hat, x_hat): it has to be (x_hat, eps_hat).")
    warnings.warn(
        f"alpha x_hat + sigma eps_hat of the denoiser is {100 * own:.0f} % off z, as where x_hat "
        "is clipped: the bound is that of eps_hat alone.",
        InconsistentEstimatesWarning,
        stacklevel=USER,
    )


def require_finite_losses(loss: Float[Tensor, "n m"], logsnr: Float[Tensor, "n m"]) -> None:
    """Raise a ValueError that names the first loss of `n` samples that is NaN or infinity."""
    bad = (~loss.isfinite()).nonzero()
    if len(bad):
        row, level = bad[0].tolist()
        raise ValueError(
            f"{len(bad)} of {loss.numel()} losses are NaN or infinity, the first of sample {row} "
            f"at log-SNR {logsnr[row, level].item():.2f}: check the data and the network."
        )
