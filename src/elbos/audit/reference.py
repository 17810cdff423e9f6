r"""The data as the process sees them, where a loss encodes or normalizes them first.

The latents $E(x)$ of a loss that encodes images are not given to anybody, but they are the same in
every batch. With $z_k = \alpha_k E(x) + \sigma_k \epsilon_k$ and the noise known, they can be
solved for; what stays open, their scale, the relation of $\alpha$ and $\sigma$ tells (`scaling`).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.audit.ask import Look, similarity
from elbos.audit.layout import unlike
from elbos.audit.scaling import relative_scale

REFUSAL = (
    "The network's input is not the data, scaled, plus noise of one level per sample: take out of "
    "the loss what is random besides (augmentation, a VAE's sample()), a shuffled batch, and data "
    "paired with noise (optimal transport); levels that differ within a sample, as per frame, have "
    "no weighting of this kind."
)


def reference_of(looks: list[Look], x: Tensor, x_other: Tensor) -> tuple[Tensor, Tensor]:
    """The data as the process sees them: themselves, if the changes of z are theirs, scaled.

    Raises:
        ValueError: If z is no data, scaled, plus noise.
    """
    z, z_other = torch.cat([look.z for look in looks]), torch.cat([look.z_other for look in looks])
    dz = (z - z_other).float()
    rounding = 100 * torch.finfo(z.dtype).eps ** 2 * z.float().square().nansum().item()
    size = dz.square().nansum().item()
    if size <= rounding:
        raise ValueError(REFUSAL)
    if z.shape[1:] == x.shape[1:]:
        dx = (x - x_other).repeat(len(looks), *(1,) * (x.ndim - 1))
        if unlike(dz, dx) * size < 1e-8 * size + rounding:
            return x, x_other
    return _encoded(looks, len(x))


def _encoded(looks: list[Look], num: int) -> tuple[Tensor, Tensor]:
    r"""The data as the process sees them, where the loss encodes or normalizes them first.

    For one sample of the batch, $z_k = \alpha_k E(x) + \sigma_k\epsilon_k$ with the same $E(x)$ in
    every batch $k$ and known noise, and with other data $dz_k \propto \alpha_k$.

    Raises:
        ValueError: If the changes of $z$ have no common direction, or the noise was not seen.
    """
    dz = torch.stack([look.z - look.z_other for look in looks], dim=1).double().flatten(2)
    best = dz.norm(dim=2).argmax(1)
    difference = dz[torch.arange(num), best]
    alpha = (dz @ difference[..., None]).squeeze(2) / difference.square().sum(1, keepdim=True)
    strange = (dz - alpha[..., None] * difference[:, None]).square().sum() / dz.square().sum()
    if strange > 0.05 or not all(look.draws for look in looks):
        raise ValueError(REFUSAL)
    z = torch.stack([look.z for look in looks], dim=1).double().flatten(2)
    eps = torch.stack([_best_draw(look, looks) for look in looks], dim=1).double().flatten(2)
    data, sigma = _data_and_sigma(z, eps, alpha)
    left = z - alpha[..., None] * data[:, None] - sigma[..., None] * eps
    if left.square().sum() > 1e-2 * z.square().sum():
        raise ValueError(REFUSAL)
    scale = relative_scale(alpha.T, sigma.T.abs())[:, None]
    shape = looks[0].z.shape
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


def _best_draw(look: Look, looks: list[Look]) -> Tensor:
    """The draw that the noisiest inputs resemble, by its place among the draws."""
    num = min(len(other.draws) for other in looks)
    fits = [sum(similarity(o.z, o.draws[i]) for o in looks) for i in range(num)]
    return look.draws[fits.index(max(fits))]
