r"""From dot products to the coefficients of a loss.

For one sample, a loss and its answers span a space of a few vectors: the data $x$, the noisy data
$z$, the noise $\epsilon$, the gradient $g$ at answer 0, the constant, and the changes $dx, dz$ that
come with other data and the same noise. All that is asked of them are projections,

$$z = \alpha' (x + \mu) + \sigma'\epsilon, \qquad g = -2c\,y, \qquad
  y = a (x + \mu) + b\epsilon,$$

so that their Gram matrix is all that is kept, in float64: a sample is a small matrix, whatever the
size of the images. The primes are there because the scale of the data is still open (`scaling`).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

ROWS = ("x", "dx", "z", "dz", "y", "dy", "eps", "one")


def gram(**rows: Float[Tensor, "b *d"]) -> Float[Tensor, "b r r"]:
    """The dot products of the vectors of each sample, in the order of `ROWS`."""
    vectors = torch.stack([rows[name].flatten(1).double() for name in ROWS], dim=1)
    return vectors @ vectors.mT


@dataclass(frozen=True)
class Coefficients:
    r"""What a loss does to each sample, up to the scale of its data.

    Attributes:
        alpha: $\alpha'$, what the data are multiplied with in $z$.
        sigma: $\sigma' \ge 0$.
        a: Coefficient of the data in the target.
        b: Coefficient of the noise in the target.
        offset: $\mu$, what is added to the data before anything else; one number for all samples.
        strange_signal: Share of the change of $z$ that is not proportional to that of $x$.
        strange_noise: Share of the noise in $z$ that is not the noise that torch drew; 1 where none
            was seen.
        strange_offset: Share of the noise in $z$ that is constant over the image and no offset of
            the data.
        strange_target: Share of the target that is no combination of data and noise.
        rounding: Error of $\log(\alpha'^2/\sigma'^2)$ that rounding to float32 makes.
    """

    alpha: Float[Tensor, " n"]
    sigma: Float[Tensor, " n"]
    a: Float[Tensor, " n"]
    b: Float[Tensor, " n"]
    offset: float
    strange_signal: Float[Tensor, " n"]
    strange_noise: Float[Tensor, " n"]
    strange_offset: float
    strange_target: Float[Tensor, " n"]
    rounding: Float[Tensor, " n"]


def solve(grams: Float[Tensor, "n r r"], *, is_noise_known: bool) -> Coefficients:
    r"""The coefficients of every sample, by projection.

    Args:
        grams: From `gram`, with `y` the target and `dy` its change.
        is_noise_known: Whether `eps` is the noise; otherwise $\sigma'$ is the norm of what is left
            of $z$ without the signal, with a relative error of $1/\sqrt{2d}$.
    """
    x, dx, z, dz, y, dy, eps, one = torch.eye(len(ROWS), dtype=torch.float64)

    def dot(u: Tensor, v: Tensor) -> Float[Tensor, " n"]:
        u, v = u.expand(len(grams), -1), v.expand(len(grams), -1)
        return torch.einsum("ni,nij,nj->n", u, grams, v)

    def norm2(u: Tensor) -> Float[Tensor, " n"]:
        return dot(u, u).clamp(min=0)

    def along(u: Tensor, v: Tensor) -> Float[Tensor, " n"]:
        """The coefficient of `v` in `u`."""
        return dot(u, v) / dot(v, v).clamp(min=1e-300)

    def times(s: Float[Tensor, " n"], u: Tensor) -> Tensor:
        return s[:, None] * u

    alpha, a = along(dz, dx), along(dy, dx)
    strange_signal = norm2(dz - times(alpha, dx)) / norm2(dz).clamp(min=1e-300)

    # what is constant over the image in z - alpha x, apart from the noise's own mean
    noise = z - times(alpha, x)
    flat = one - times(along(one, eps), eps) if is_noise_known else one.expand(len(grams), -1)
    is_flat_seen = norm2(flat) > 1e-9 * norm2(one.expand_as(flat))  # in one dimension it is noise
    constant = torch.where(is_flat_seen, along(noise, flat), 0.0)
    weight = norm2(flat) / norm2(noise).clamp(min=1e-12) * alpha
    information = (weight * alpha).sum().clamp(min=1e-300)
    mu = (weight * constant).sum() / information
    error = (weight * (constant - alpha * mu)).norm() / information
    offset = mu.item() if mu.abs() > 6 * error + 1e-4 else 0.0

    x = x + offset * one
    noise = z - times(alpha, x)
    size = norm2(noise)
    if is_noise_known:
        sigma, b = along(noise, eps), along(y - times(a, x), eps)
        strange_noise = norm2(noise - times(sigma, eps)) / size.clamp(min=1e-300)
        if not is_flat_seen.any():  # any draw fits; only that of the noise has the same sign always
            strange_noise = (sigma * sigma.median() < 0).double().mean().expand_as(sigma)
    else:
        sigma = (size / dot(one, one)).sqrt()
        b = along(y - times(a, x), noise) * sigma
        strange_noise = torch.ones_like(sigma)
        eps = noise / sigma[:, None].clamp(min=1e-300)
    left = y - times(a, x) - times(b, eps)
    is_mirrored = (alpha < 0) != (sigma < 0)  # the noise is as likely as its mirror image
    return Coefficients(
        alpha=alpha.abs(),
        sigma=sigma.abs(),
        a=a,
        b=torch.where(is_mirrored, -b, b),
        offset=offset,
        strange_signal=strange_signal,
        strange_noise=strange_noise,
        strange_offset=_share(dot(one, one) * (constant - alpha * offset) ** 2, size),
        strange_target=norm2(left) / norm2(y).clamp(min=1e-300),
        rounding=2
        * 6e-8
        * (norm2(z) / dot(one, one)).sqrt()
        * (1 / (alpha.abs() * norm2(dx).sqrt()) + 1 / (sigma.abs() * dot(one, one).sqrt())),
    )


def _share(part: Float[Tensor, " n"], whole: Float[Tensor, " n"]) -> float:
    return (part.sum() / whole.sum().clamp(min=1e-300)).item()
