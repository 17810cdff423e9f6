"""Random flips and crops of training images, different in each epoch.

They are computed on the device, from uniform random numbers of (seed, epoch, sample): resuming,
batches and processes do not change them. Validation and evaluation use the centre of each image.
"""

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor


def cropped(
    x: UInt8[Tensor, "b c i j"], size: int, u: Float32[Tensor, "b 2"]
) -> UInt8[Tensor, "b c s s"]:
    """Cut a square from each image, at a place that two numbers in (0, 1] determine."""
    places = []
    for fraction, side in zip(u.unbind(1), x.shape[-2:], strict=True):
        last = side - size
        first = (fraction * (last + 1)).long().clamp(max=last)
        places.append(first[:, None] + torch.arange(size, device=x.device))
    rows, columns = places
    sample, channel = (torch.arange(num, device=x.device) for num in x.shape[:2])
    at = sample[:, None, None, None], channel[:, None, None]
    return x[*at, rows[:, None, :, None], columns[:, None, None, :]]


def mirrored(x: UInt8[Tensor, "b c h w"], u: Float32[Tensor, "b 1"]) -> UInt8[Tensor, "b c h w"]:
    """Mirror each image left to right if its number in (0, 1] is at most 1/2."""
    return torch.where(u.view(-1, 1, 1, 1) <= 0.5, x.flip(-1), x)
