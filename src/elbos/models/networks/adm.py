r"""U-Net of ADM (Dhariwal & Nichol), as trained on ImageNet.

A block normalizes before each of its two 3x3 convolutions, and the embedding $e$ of log-SNR and
label acts between them,

$$h \leftarrow h + \mathrm{conv}_2\, \mathrm{silu}\big((1 + s(e)) \odot \mathrm{norm}\,
    \mathrm{conv}_1\, \mathrm{silu}(\mathrm{norm}\, h) + t(e)\big);$$

the blocks that change the resolution average or repeat pixels of $h$, and of the normalized $h$
before $\mathrm{conv}_1$. Each output of the encoder goes to the block of the decoder that is its
mirror image, as further channels; the decoder has one block more per resolution. Attention follows
each block of the coarse resolutions.

The defaults are the network for 64x64 images, of 295.8 million parameters for 1000 classes. ADM's
has 295.9: of its 192 features of the time step 64 are left, of log-SNR. Groups of a norm have 16
channels here, and there are 32 of them there.

References:
    Dhariwal & Nichol (2021), https://arxiv.org/abs/2105.05233
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from elbos.base.checks import Typed, require_positive
from elbos.models.networks.layers import Embedding, require_dropout, require_images, set_zero
from elbos.models.networks.norms import upsampled
from elbos.models.networks.unet import Attention, group_norm, require_channels

Resampling = Literal["none", "down", "up"]


@dataclass(frozen=True, kw_only=True)
class ADMConfig(Typed):
    """Configuration of ADM's U-Net.

    The default is the network for ImageNet at 64x64.
    """

    channels: tuple[int, ...] = (192, 384, 576, 768)
    """Channels per resolution, finest first; each next resolution has half the side."""

    num_blocks: int = 3
    """Residual blocks per resolution on the way down; one more on the way up."""

    num_attention_levels: int = 3
    """Self-attention at this many of the coarsest resolutions."""

    head_dim: int = 64
    """Channels per attention head."""

    embedding_dim: int = 768
    """Length of the embedding of log-SNR and label."""

    dropout: float = 0.1
    """Probability of dropping a channel's value inside a residual block, in training."""

    def build(self, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
        require_positive(num_blocks=self.num_blocks, embedding_dim=self.embedding_dim)
        num_levels = max(1, self.num_attention_levels)  # the middle has attention, too
        require_channels(self.channels, num_levels, self.head_dim)
        require_dropout(self.dropout)
        num_halvings = len(self.channels) - 1
        require_images("ADM", shape, 2**num_halvings, f"halved {num_halvings} times")
        return ADM(self, num_image_channels=shape[0], num_classes=num_classes)


class ADM(nn.Module):
    """U-Net of the ablated diffusion model (ADM).

    `ADMConfig.build` checks the sizes and builds the network.
    """

    def __init__(
        self, config: ADMConfig, *, num_image_channels: int, num_classes: int | None
    ) -> None:
        super().__init__()
        channels, embedding_dim, dropout = config.channels, config.embedding_dim, config.dropout
        first_attention = len(channels) - config.num_attention_levels

        def stage(i: int, num_inputs: int, resampling: Resampling = "none") -> Stage:
            block = ResidualBlock(num_inputs, channels[i], embedding_dim, dropout, resampling)
            use_attention = i >= first_attention and resampling == "none"
            return Stage(block, Attention(channels[i], config.head_dim) if use_attention else None)

        self.embedding = Embedding(embedding_dim, num_classes)
        self.conv_in = nn.Conv2d(num_image_channels, channels[0], 3, padding=1)
        encoder, decoder, widths = [], [], [channels[0]]
        for i, width in enumerate(channels):
            if i:
                block = ResidualBlock(widths[-1], widths[-1], embedding_dim, dropout, "down")
                encoder.append(Stage(block, None))
                widths.append(widths[-1])
            for _ in range(config.num_blocks):
                encoder.append(stage(i, widths[-1]))
                widths.append(width)
        num_inputs = widths[-1]
        self.middle = nn.ModuleList(
            Stage(
                ResidualBlock(num_inputs, num_inputs, embedding_dim, dropout),
                Attention(num_inputs, config.head_dim) if use_attention else None,
            )
            for use_attention in (True, False)
        )
        for i in reversed(range(len(channels))):
            for _ in range(config.num_blocks + 1):
                decoder.append(stage(i, num_inputs + widths.pop()))
                num_inputs = channels[i]
            if i:
                decoder.append(stage(i, num_inputs, "up"))
        self.encoder, self.decoder = nn.ModuleList(encoder), nn.ModuleList(decoder)
        self.norm_out = group_norm(channels[0])
        self.conv_out = nn.Conv2d(channels[0], num_image_channels, 3, padding=1)
        set_zero(self.conv_out)

    def forward(
        self,
        z: Float[Tensor, "b c h w"],
        logsnr: Float[Tensor, " b"],
        cond: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        embedding = self.embedding(logsnr, cond)
        h = self.conv_in(z)
        skips = [h]
        for stage in self.encoder:
            h = stage(h, embedding)
            skips.append(h)
        for stage in self.middle:
            h = stage(h, embedding)
        for stage in self.decoder:
            if not stage.is_up:
                h = torch.cat([h, skips.pop()], dim=1)
            h = stage(h, embedding)
        y: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return y.to(z.dtype)


class Stage(nn.Module):
    """Residual block of the U-Net with optional attention."""

    def __init__(self, block: "ResidualBlock", attention: Attention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention
        self.is_up = block.resampling == "up"

    def forward(
        self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        h = self.block(h, embedding)
        return h if self.attention is None else self.attention(h)


class ResidualBlock(nn.Module):
    """Residual block of two normalized 3x3 convolutions.

    Each convolution follows a norm; the noise-level embedding modulates the second norm.

    Args:
        num_inputs: Channels of the input.
        num_channels: Channels of the output.
        embedding_dim: Length of the embedding.
        dropout: Probability of dropping a value before the second convolution, in training.
        resampling: Whether the output has half or twice the side.
    """

    def __init__(
        self,
        num_inputs: int,
        num_channels: int,
        embedding_dim: int,
        dropout: float,
        resampling: Resampling = "none",
    ) -> None:
        super().__init__()
        self.resampling = resampling
        self.norm_1 = group_norm(num_inputs)
        self.conv_1 = nn.Conv2d(num_inputs, num_channels, 3, padding=1)
        self.modulation = nn.Linear(embedding_dim, 2 * num_channels)
        self.norm_2 = group_norm(num_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv_2 = nn.Conv2d(num_channels, num_channels, 3, padding=1)
        is_changing = num_inputs != num_channels
        self.skip = nn.Conv2d(num_inputs, num_channels, 1) if is_changing else nn.Identity()
        set_zero(self.conv_2)

    def forward(
        self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c2 h2 w2"]:
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        branch = self.resampled(F.silu(self.norm_1(h)))
        branch = F.silu(torch.addcmul(shift, self.norm_2(self.conv_1(branch)), 1 + scale))
        out: Tensor = self.skip(self.resampled(h)) + self.conv_2(self.dropout(branch))
        return out

    def resampled(self, h: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
        if self.resampling == "down":
            return F.avg_pool2d(h, 2)
        return upsampled(h) if self.resampling == "up" else h
