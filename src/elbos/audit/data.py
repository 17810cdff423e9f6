r"""The data as the process sees them: encoded, normalized, scaled.

The latents $E(x)$ of a loss that encodes images are given to nobody, but they are the same in every
batch. With $z_k = \alpha_k E(x) + \sigma_k \epsilon_k$ and the noise known, they can be solved for.
Their scale stays open, as does that of data that the loss multiplies by $s$: what is measured is
$\alpha' = s\alpha$. The relation of $\alpha$ and $\sigma$ over the noise levels gives $s$:

| process | relation |
|---|---|
| variance preserving | $\alpha^2 + \sigma^2 = 1$ |
| rectified flow | $\alpha + \sigma = 1$ |
| variance exploding | $\alpha = 1$ |

One case stays open: EDM's input scaling $c_\mathrm{in}$ with data of standard deviation $\sigma_d$
*is* the variance-preserving process on data multiplied by $1/\sigma_d$. It is read as EDM's, the
data untouched, if nothing is added to the data and $\sigma_d < 1$.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.decompose import similarity
from elbos.audit.queries import PairedCalls, unlike

REFUSAL = (
    "The network's input is not the data, scaled, plus noise of one level per sample: take out of "
    "the loss what is random besides (augmentation, a VAE's sample()), a shuffled batch, and data "
    "paired with noise (optimal transport); levels that differ within a sample, as per frame, have "
    "no weighting of this kind."
)


class Process(NamedTuple):
    """A process, and the scale of the data.

    Args:
        name: Its name, or None if the relation is none of those known.
        scale: $s$, what the data are multiplied with before they are diffused.
        sigma_data: $\\sigma_d$ of an input scaled like EDM's, or None.
    """

    name: str | None
    scale: float
    sigma_data: float | None = None


def process_of(
    alpha: Float[Tensor, " n"], sigma: Float[Tensor, " n"], *, offset: float, rtol: float
) -> Process:
    r"""The process that the measured scales belong to.

    Args:
        alpha: $\alpha'$, per sample.
        sigma: $\sigma'$, per sample.
        offset: What is added to the data; if it is not 0, so is a scale likely.
        rtol: Relative error of `sigma` of a single sample.
    """
    order = alpha.argsort()
    groups = [(alpha[i], sigma[i]) for i in order.tensor_split(min(20, len(order)))]

    def holds(variance_of: Callable[[Tensor], Tensor]) -> bool:
        errors = [((s**2).mean() - variance_of(a).mean()).abs() for a, s in groups]
        largest = max((s**2).mean() for _, s in groups)
        size = min(len(s) for _, s in groups)
        return bool(max(errors) < (2e-3 + 8 * rtol / size**0.5) * largest)

    if alpha.max() - alpha.min() < 2e-3 * alpha.max():
        return Process("variance exploding", _rounded(alpha.median(), rtol))
    scale = _rounded(_preserving_scale(alpha, sigma), rtol)
    if holds(lambda a: 1 - (a / scale) ** 2):
        if scale > 1.002 and offset == 0:
            return Process("variance exploding, scaled by c_in", 1.0, 1 / scale)
        return Process("variance preserving", scale)
    scale = _rounded(_flow_scale(alpha, sigma), rtol)
    if scale > 0 and holds(lambda a: (1 - a / scale) ** 2):
        return Process("rectified flow", scale)
    return Process(None, 1.0)


def _preserving_scale(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**4).sum(0).div(((1 - sigma**2) * alpha**2).sum(0)).abs().sqrt()


def _flow_scale(alpha: Tensor, sigma: Tensor) -> Tensor:
    return (alpha**2).sum(0) / ((1 - sigma) * alpha).sum(0)


def _rounded(scale: Tensor, rtol: float) -> float:
    """Without the errors of the measurement: a scale of about 1 is none."""
    value = float(f"{scale.item():.4g}")
    return 1.0 if abs(value - 1) < 2e-3 + 0.2 * rtol else value


def reference_data(paired: list[PairedCalls], x: Tensor, x_other: Tensor) -> tuple[Tensor, Tensor]:
    """Both batches as the process sees them: themselves, if the changes of z are theirs, scaled.

    Raises:
        ValueError: If z is no data, scaled, plus noise.
    """
    z, z_other = (torch.cat([p.z for p in paired]), torch.cat([p.z_other for p in paired]))
    dz = (z - z_other).float()
    rounding = 100 * torch.finfo(z.dtype).eps ** 2 * z.float().square().nansum().item()
    size = dz.square().nansum().item()
    if size <= rounding:
        raise ValueError(REFUSAL)
    if z.shape[1:] == x.shape[1:]:
        dx = (x - x_other).repeat(len(paired), *(1,) * (x.ndim - 1))
        if unlike(dz, dx) * size < 1e-8 * size + rounding:
            return x, x_other
    return _encoded(paired, len(x))


def _encoded(paired: list[PairedCalls], num: int) -> tuple[Tensor, Tensor]:
    r"""The data after an encoder or a normalization in the loss.

    For one sample of the batch, $z_k = \alpha_k E(x) + \sigma_k\epsilon_k$ with the same $E(x)$ in
    every batch $k$ and known noise, and with other data $dz_k \propto \alpha_k$.

    Raises:
        ValueError: If the changes of $z$ have no common direction, or the noise was not recorded.
    """
    dz = torch.stack([p.z - p.z_other for p in paired], dim=1).double().flatten(2)
    best = dz.norm(dim=2).argmax(1)
    difference = dz[torch.arange(num), best]
    alpha = (dz @ difference[..., None]).squeeze(2) / difference.square().sum(1, keepdim=True)
    strange = (dz - alpha[..., None] * difference[:, None]).square().sum() / dz.square().sum()
    num_draws = min(len(p.moved.normals) for p in paired)
    if strange > 0.05 or num_draws == 0:
        raise ValueError(REFUSAL)
    fits = [sum(similarity(p.z, p.moved.normals[i]) for p in paired) for i in range(num_draws)]
    noise = fits.index(max(fits))  # the draw that the noisiest inputs resemble
    z = torch.stack([p.z for p in paired], dim=1).double().flatten(2)
    eps = torch.stack([p.moved.normals[noise] for p in paired], dim=1).double().flatten(2)
    data, sigma = _data_and_sigma(z, eps, alpha)
    left = z - alpha[..., None] * data[:, None] - sigma[..., None] * eps
    if left.square().sum() > 1e-2 * z.square().sum():
        raise ValueError(REFUSAL)
    scale = _relative_scale(alpha.T, sigma.T.abs())[:, None]
    shape = paired[0].z.shape
    return (data * scale).reshape(shape), ((data - difference) * scale).reshape(shape)


def _data_and_sigma(
    z: Float[Tensor, "b k d"], eps: Float[Tensor, "b k d"], alpha: Float[Tensor, "b k"]
) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b k"]]:
    r"""Least squares of $z_k = \alpha_k E + \sigma_k\epsilon_k$ for $E$ and $\sigma$.

    Given $\sigma$, $E$ is a mean, $\sum_k \alpha_k (z_k - \sigma_k\epsilon_k) / \sum_k \alpha_k^2$,
    which leaves a small linear system for $\sigma$.
    """
    mean = alpha / alpha.square().sum(1, keepdim=True)
    apart = torch.eye(alpha.shape[1], dtype=z.dtype, device=z.device)
    apart = apart - alpha[:, :, None] * mean[:, None]
    rest = (apart @ z * eps).sum(2)
    sigma = torch.linalg.solve(apart * (eps @ eps.mT), rest)
    data = (mean[..., None] * (z - sigma[..., None] * eps)).sum(1)
    return data, sigma


def _relative_scale(
    alpha: Float[Tensor, "k n"], sigma: Float[Tensor, "k n"]
) -> Float[Tensor, " n"]:
    """The scales of data whose `alpha` is known up to a factor for each of `n` samples, from the
    relation that holds best over `k` noise levels.
    """
    preserving, flow = _preserving_scale(alpha, sigma), _flow_scale(alpha, sigma)
    exploding = alpha.mean(0)
    errors = {
        (sigma**2 + (alpha / preserving) ** 2 - 1).square().mean(): preserving,
        (sigma + alpha / flow - 1).square().mean(): flow,
        (alpha / exploding - 1).square().mean(): exploding,
    }
    return errors[min(errors)]
