r"""Where the data are in the network's input, if not where they were.

Losses pack latents into tokens, move channels last, transpose sequences, fold frames into the
batch, or put other channels beside the noisy data. With the same noise, an input changes only where
it holds data: data that spell the bits of each element's place, one bit a call, tell of each
element of the input which one of the data it is.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from elbos.audit.ask import Asker


def order_of(asker: Asker, seed: int) -> Int[Tensor, " d"] | None:
    """Where each element of the data is in the network's input; None if in its own place.

    None, too, if the input is no permutation of the data, scaled, plus noise.
    """
    x, z = asker.x, _inputs(asker, asker.x, seed)
    if len(z) % len(x) or z.numel() != x.numel():
        return None

    def change(first: Tensor, second: Tensor) -> Tensor:
        return (_inputs(asker, first, seed) - _inputs(asker, second, seed)).reshape(len(x), -1)

    dx = (x - asker.x_other).flatten(1)
    dz = (z - _inputs(asker, asker.x_other, seed)).reshape(len(x), -1)
    if unlike(dz, dx) < 1e-6:
        return None
    place = torch.arange(dx.shape[1], device=x.device)
    strongest = dz.norm(dim=1).argmax()
    low, high = x.min(), x.max()
    found = torch.zeros_like(place)
    for i in range(len(place).bit_length()):
        bit = (place >> i & 1).bool().reshape(x[0].shape).expand_as(x)
        dz_bit = change(torch.where(bit, high, low), torch.where(bit, low, high))
        found += (dz_bit[strongest] > 0).long() << i
    order = found.argsort()
    is_permutation = torch.equal(found[order], place) and not torch.equal(order, place)
    return order if is_permutation and unlike(dz[:, order], dx) < 0.05 else None


def first_channel(asker: Asker, seed: int) -> int:
    """Where the noisy data begin, in an input that holds other channels besides.

    They change as the data do; of several such places, they are where the noise changes most.
    """
    x = asker.x
    z, other, later = (
        _inputs(asker, *change) for change in ((x, seed), (asker.x_other, seed), (x, seed + 1))
    )
    num, extra = x.shape[1], z.shape[1] - x.shape[1]
    if extra <= 0 or z.shape[2:] != x.shape[2:] or len(z) != len(x):
        return 0
    strange = [unlike((z - other)[:, i : i + num], x - asker.x_other) for i in range(extra + 1)]
    places = [i for i, share in enumerate(strange) if share < 2 * min(strange) + 1e-6]
    return max(places, key=lambda i: (z - later)[:, i : i + num].square().sum().item())


def _inputs(asker: Asker, x: Tensor, seed: int) -> Tensor:
    """The noisy data of the last call of the network."""
    return asker.watch(x, seed)[-1].z.float()


def unlike(dz: Tensor, dx: Tensor) -> float:
    """The share of a change of the input that is not the change of the data, scaled by sample."""
    dz, dx = dz.flatten(1), dx.flatten(1).to(dz)
    alpha = (dz * dx).sum(1, keepdim=True) / dx.square().sum(1, keepdim=True)
    left = (dz - alpha * dx).square().nansum() / dz.square().nansum().clamp(min=1e-30)
    return left.item()
