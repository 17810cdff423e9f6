r"""A lean U-Net: few but wide convolutions, and few operations between them.

What a small diffusion U-Net spends its time on is often not its convolutions but what stands
between them: normalizations, activations, copies, each a pass through memory. Here it is different:

- maps of every pixel have few channels, and many blocks; each next resolution has more channels;
- a block is two 3x3 convolutions, and the embedding $e$ of log-SNR and label acts between them,

$$h \leftarrow h + \mathrm{conv}_2\, \mathrm{silu}\big((1 + s(e)) \odot
    \mathrm{norm}\, \mathrm{conv}_1 h + t(e)\big);$$

- all $s$ and $t$ come from one matrix product per forward;
- groups have 16 channels: those of 8 are six times slower on a CPU, where 16 fill a vector;
- resolutions change by averaging and repeating pixels, and skip connections are added, not
  concatenated.

A block has no norm before its first convolution, as the one behind it takes out any scale: without
it, and its activation, the network learned faster per step, and a step is faster. Whatever is added
to $h$ starts at zero, and so does the output.

It runs in the dtype of its weights, or under autocast, for which it is meant: bfloat16, in
channels-last memory.
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from elbos.base.checks import Typed, require_positive
from elbos.models.networks.layers import (
    Embedding,
    FourierFeatures,
    attended,
    require_dropout,
    require_exponents,
    require_images,
    set_zero,
)
from elbos.models.networks.norms import GroupNorm, upsampled

GROUP_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class UNetConfig(Typed):
    """Configuration of a U-Net on square or rectangular images."""

    channels: tuple[int, ...] = (64, 128)
    """Channels per resolution, finest first; each next resolution has half the side."""

    fourier_exponents: tuple[int, ...] = ()
    """Fourier features of the pixels at these powers of 2 (VDM: 7 and 8 for 256 pixel values), as
    further inputs: without, noise that is finer than bfloat16's digits of a pixel is lost."""

    num_blocks: int = 3
    """Residual blocks per resolution, on the way down and on the way up (once at the coarsest)."""

    num_attention_levels: int = 1
    """Self-attention at this many of the coarsest resolutions."""

    head_dim: int = 32
    """Channels per attention head."""

    embedding_dim: int = 256
    """Length of the embedding of log-SNR and label."""

    dropout: float = 0.0
    """Probability of dropping a channel's value inside a residual block, in training."""

    def build(self, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
        require_positive(num_blocks=self.num_blocks, embedding_dim=self.embedding_dim)
        require_channels(self.channels, self.num_attention_levels, self.head_dim)
        require_exponents(self.fourier_exponents)
        require_dropout(self.dropout)
        num_halvings = len(self.channels) - 1
        require_images("UNet", shape, 2**num_halvings, f"halved {num_halvings} times")
        return UNet(self, num_image_channels=shape[0], num_classes=num_classes)


class UNet(nn.Module):
    """U-Net for square or rectangular images.

    `UNetConfig.build` checks the sizes and builds the network.
    """

    def __init__(
        self, config: UNetConfig, *, num_image_channels: int, num_classes: int | None
    ) -> None:
        super().__init__()
        self.num_blocks, channels = config.num_blocks, config.channels
        self.features = FourierFeatures(config.fourier_exponents)
        num_inputs = num_image_channels * (1 + 2 * len(config.fourier_exponents))
        pairs = list(itertools.pairwise(channels))

        def resolution(i: int) -> Resolution:
            use_attention = i >= len(channels) - config.num_attention_levels
            return Resolution(config, channels[i], use_attention=use_attention)

        self.embedding = Embedding(config.embedding_dim, num_classes)
        self.conv_in = nn.Conv2d(num_inputs, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(resolution(i) for i in range(len(pairs)))
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 1) for fine, coarse in pairs)
        self.middle = resolution(len(pairs))
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(resolution(i) for i in range(len(pairs)))
        self.norm_out = group_norm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], num_image_channels, 3, padding=1)

        resolutions = [*self.encoder, self.middle, *reversed(self.decoder)]
        self.sizes = [2 * size for each in resolutions for size in each.sizes]
        self.modulation = nn.Linear(config.embedding_dim, sum(self.sizes))
        set_zero(self.conv_out, self.modulation)

    def forward(
        self,
        z: Float[Tensor, "b c h w"],
        logsnr: Float[Tensor, " b"],
        cond: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        modulation = self.modulation(self.embedding(logsnr, cond))[:, :, None, None]
        each, num = modulation.split(self.sizes, dim=1), self.num_blocks
        modulations = iter([each[i : i + num] for i in range(0, len(each), num)])
        h = self.conv_in(self.features(z, logsnr))
        skips = []
        for resolution, down in zip(self.encoder, self.down, strict=True):
            h = resolution(h, next(modulations))
            skips.append(h)
            h = down(F.avg_pool2d(h, 2))
        h = self.middle(h, next(modulations))
        for resolution, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            h = skips.pop() + upsampled(up(h))
            h = resolution(h, next(modulations))
        y: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return y.to(z.dtype)


class Resolution(nn.Module):
    """Residual blocks at one resolution of the U-Net.

    Attention follows if `use_attention`.
    """

    def __init__(self, config: UNetConfig, num_channels: int, *, use_attention: bool) -> None:
        super().__init__()
        self.sizes = [num_channels] * config.num_blocks
        self.blocks = nn.ModuleList(Block(num_channels, config.dropout) for _ in self.sizes)
        self.attention = Attention(num_channels, config.head_dim) if use_attention else None

    def forward(
        self, h: Float[Tensor, "b c h w"], modulations: tuple[Float[Tensor, "b _ 1 1"], ...]
    ) -> Float[Tensor, "b c h w"]:
        for block, modulation in zip(self.blocks, modulations, strict=True):
            h = block(h, modulation)
        return h if self.attention is None else self.attention(h)


class Block(nn.Module):
    """Residual block of two 3x3 convolutions.

    The noise-level embedding modulates the features in between.
    """

    def __init__(self, num_channels: int, dropout: float) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        self.norm = group_norm(num_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        set_zero(self.conv_2)

    def forward(
        self, h: Float[Tensor, "b c h w"], modulation: Float[Tensor, "b 2*c 1 1"]
    ) -> Float[Tensor, "b c h w"]:
        scale, shift = modulation.chunk(2, dim=1)
        branch = F.silu(torch.addcmul(shift, self.norm(self.conv_1(h)), 1 + scale))
        out: Tensor = h + self.conv_2(self.dropout(branch))
        return out


class Attention(nn.Module):
    """Residual self-attention over the pixels of a feature map."""

    def __init__(self, num_channels: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = group_norm(num_channels)
        self.qkv = nn.Linear(num_channels, 3 * num_channels)
        self.linear = nn.Linear(num_channels, num_channels)
        set_zero(self.linear)

    def forward(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        tokens = self.norm(h).permute(0, 2, 3, 1).flatten(1, 2)  # a view where h is channels-last
        heads = self.qkv(tokens).unflatten(2, (3, -1, self.head_dim)).unbind(2)
        q, k, v = (each.transpose(1, 2) for each in heads)
        mixed = attended(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = h + self.linear(mixed).unflatten(1, h.shape[2:]).permute(0, 3, 1, 2)
        return out


def group_norm(num_channels: int) -> GroupNorm:
    return GroupNorm(num_channels // GROUP_SIZE, num_channels)


def require_channels(channels: tuple[int, ...], num_attention_levels: int, head_dim: int) -> None:
    require_positive(head_dim=head_dim)
    num_resolutions = len(channels)
    if num_resolutions == 0:
        raise ValueError("channels is empty: give at least one resolution.")
    for num_channels in channels:
        if num_channels < 1 or num_channels % GROUP_SIZE:
            raise ValueError(f"channels must be multiples of {GROUP_SIZE}, got {num_channels}.")
    if not 0 <= num_attention_levels <= num_resolutions:
        raise ValueError(
            f"num_attention_levels is {num_attention_levels}: "
            f"give a number between 0 and the number of resolutions, {num_resolutions}."
        )
    for num_channels in channels[num_resolutions - num_attention_levels :]:
        if num_channels % head_dim:
            raise ValueError(
                f"head_dim {head_dim} does not divide {num_channels} channels: choose a divisor."
            )
