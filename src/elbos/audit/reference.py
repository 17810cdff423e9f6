r"""The data as the process sees them, where a loss encodes or normalizes them first.

The latents $E(x)$ of a loss that encodes images are not given to anybody, but they are the same in
every batch. With $z_k = \alpha_k E(x) + \sigma_k \epsilon_k$ and the noise known, they can be
solved for; what stays open, their scale, the relation of $\alpha$ and $\sigma$ tells (`scaling`).
"""

import torch
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
    every batch $k$ and known noise: alternating least squares, in the scale of the batch with the
    most signal.

    Raises:
        ValueError: If the changes of $z$ have no common direction, or the noise is not torch's.
    """
    z = torch.stack([look.z for look in looks]).double()
    dz = torch.stack([look.z - look.z_other for look in looks]).double()
    flat = dz.flatten(2)
    best = flat.norm(dim=2).argmax(0)
    difference = flat[best, torch.arange(num)]
    alpha = (flat * difference).sum(2) / difference.square().sum(1)
    strange = (flat - alpha[..., None] * difference).square().sum() / flat.square().sum()
    if strange > 0.05 or not all(look.draws for look in looks):
        raise ValueError(REFUSAL)
    eps = torch.stack([_best_draw(look, looks) for look in looks]).double()
    shape = (*alpha.shape, *(1,) * (z.ndim - 2))
    alpha, axes = alpha.reshape(shape), tuple(range(2, z.ndim))
    data = torch.zeros_like(z[0])
    for _ in range(200):
        noise = z - alpha * data
        sigma = (noise * eps).sum(axes, keepdim=True) / eps.square().sum(axes, keepdim=True)
        weight = alpha / sigma.square().clamp(min=1e-6)
        before, data = data, (weight * (z - sigma * eps)).sum(0) / (weight * alpha).sum(0)
        if (data - before).norm() < 1e-9 * data.norm():
            break
    left = z - alpha * data - sigma * eps
    if left.square().sum() > 1e-2 * z.square().sum():
        raise ValueError(REFUSAL)
    scale = relative_scale(alpha.reshape(len(looks), -1), sigma.reshape(len(looks), -1).abs())
    scale = scale.reshape(-1, *(1,) * (z.ndim - 2))
    return data * scale, (data - difference.reshape(data.shape)) * scale


def _best_draw(look: Look, looks: list[Look]) -> Tensor:
    """The draw that the noisiest inputs resemble, by its place among the draws."""
    num = min(len(other.draws) for other in looks)
    fits = [sum(similarity(o.z, o.draws[i]) for o in looks) for i in range(num)]
    return look.draws[fits.index(max(fits))]
