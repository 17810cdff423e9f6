r"""U-ViT of simple diffusion: a U-Net with a transformer at its coarsest resolution.

Fine resolutions cost memory and coarse ones computation, of which the network spends most where
it is cheapest: at 1/8 of the side, by default 16x16 tokens of 128x128 images. The residual
blocks are those of `adm`, their outputs on the way down are further channels on the way up; the
transformer's blocks are those of `vit`.

The paper gives channels, blocks, layers, dropout and the width of the embedding. From it differ
the blocks of the transformer (adaLN-zero, attention before the perceptron, SwiGLU, RoPE: as in
`vit`), and the heads, of 128 features where the paper has 4 of 512, for which there are no fast
kernels; computation and parameters of heads do not depend on their number.

References:
    Hoogeboom et al. (2023), https://arxiv.org/abs/2301.11093, appendix B
"""

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from elbos.base.checks import Typed, require_positive
from elbos.models.networks.adm import ResidualBlock
from elbos.models.networks.layers import Embedding, require_dropout, require_images, set_zero
from elbos.models.networks.norms import upsampled
from elbos.models.networks.unet import group_norm, require_channels
from elbos.models.networks.vit import Block, positions, require_heads, rotations


@dataclass(frozen=True, kw_only=True)
class UViTConfig(Typed):
    """Configuration of simple diffusion's U-ViT.

    The default is for ImageNet at 128x128 (2.3 billion parameters).
    """

    channels: tuple[int, ...] = (128, 256, 512, 2048)
    """Channels per resolution, finest first; each next resolution has half the side. The last one
    is the transformer's."""

    num_blocks: int = 2
    """Residual blocks per resolution, on the way down and on the way up."""

    num_transformer_blocks: int = 36
    """Transformer blocks, at the coarsest resolution."""

    head_dim: int = 128
    """Features per attention head, a multiple of 4."""

    embedding_dim: int = 1024
    """Length of the embedding of log-SNR and label."""

    dropout: float = 0.2
    """Probability of dropping a value inside a perceptron of the transformer, in training. The
    residual blocks have no dropout: on fine resolutions it does harm."""

    def build(self, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
        require_positive(num_blocks=self.num_blocks, embedding_dim=self.embedding_dim)
        require_positive(num_transformer_blocks=self.num_transformer_blocks)
        require_channels(self.channels, 1, self.head_dim)
        require_heads(self.channels[-1], self.head_dim)
        require_dropout(self.dropout)
        num_halvings = len(self.channels) - 1
        require_images("UViT", shape, 2**num_halvings, f"halved {num_halvings} times")
        return UViT(self, num_image_channels=shape[0], num_classes=num_classes)


class UViT(nn.Module):
    """U-Net with a transformer in the middle.

    `UViTConfig.build` checks the sizes and builds the network.
    """

    def __init__(
        self, config: UViTConfig, *, num_image_channels: int, num_classes: int | None
    ) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        channels, embedding_dim, num = config.channels, config.embedding_dim, config.num_blocks
        pairs = list(itertools.pairwise(channels))

        def residual(num_inputs: int, num_channels: int) -> ResidualBlock:
            return ResidualBlock(num_inputs, num_channels, embedding_dim, dropout=0.0)

        self.embedding = Embedding(embedding_dim, num_classes)
        self.conv_in = nn.Conv2d(num_image_channels, channels[0], 3, padding=1)
        self.encoder = nn.ModuleList(
            nn.ModuleList(residual(fine, fine) for _ in range(num)) for fine, _ in pairs
        )
        self.down = nn.ModuleList(nn.Conv2d(fine, coarse, 1) for fine, coarse in pairs)
        self.blocks = nn.ModuleList(
            Block(channels[-1], embedding_dim, config.head_dim, config.dropout)
            for _ in range(config.num_transformer_blocks)
        )
        self.up = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs)
        self.decoder = nn.ModuleList(
            nn.ModuleList(residual(2 * fine, fine) for _ in range(num)) for fine, _ in pairs
        )
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
        skips = []
        for blocks, down in zip(self.encoder, self.down, strict=True):
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                h = block(h, embedding)
                skips.append(h)
            h = down(F.avg_pool2d(h, 2))
        h = self.transformer(h, embedding)
        for blocks, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            h = upsampled(up(h))
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                h = torch.cat([h, skips.pop()], dim=1)
                h = block(h, embedding)
        y: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return y.to(z.dtype)

    def transformer(
        self, h: Float[Tensor, "b c h w"], embedding: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c h w"]:
        height, width = h.shape[2:]
        tokens: Tensor = h.permute(0, 2, 3, 1).flatten(1, 2)  # a view where h is channels-last
        tokens = tokens + positions(height, width, tokens.shape[2], tokens)
        rotation = rotations(height, width, self.head_dim, tokens)
        for block in self.blocks:
            tokens = block(tokens, embedding, rotation)
        return tokens.reshape(len(tokens), height, width, -1).permute(0, 3, 1, 2)
