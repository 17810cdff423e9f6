r"""The exponential moving average of the weights.

$$\bar\theta \leftarrow 2^{-b/h}\,\bar\theta + (1 - 2^{-b/h})\,\theta$$

after every batch of $b$ images, with a half-life of $h$ images that warms up: it never exceeds a
share of the images seen, so that the average forgets the initial weights.

References:
    Karras et al. (2022), https://arxiv.org/abs/2206.00364, whose training code has this warm-up
"""

import copy

import torch
from torch import nn

from elbos.training.config import Averaging


class EMA:
    """A copy of a network whose weights are the running average of the original's.

    Args:
        network: The original, at its initial weights.
        config: Half-life and warm-up.
    """

    def __init__(self, network: nn.Module, config: Averaging) -> None:
        self.config = config
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module, num_images: int, batch_size: int) -> None:
        """Take in the weights after a batch.

        Args:
            network: The original.
            num_images: Images seen so far, this batch included.
            batch_size: Images in the batch.
        """
        half_life = min(self.config.half_life_images, self.config.warmup * num_images)
        share = 1 - 0.5 ** (batch_size / half_life)
        for mean, weight in zip(self.network.parameters(), network.parameters(), strict=True):
            mean.lerp_(weight, share)
