r"""A vision transformer on patches of pixels or latents.

Each $p \times p$ patch is a token $h_i$. A block is attention among the tokens, then a
multilayer perceptron for each, and the embedding $e$ of log-SNR and label acts before and after
both (adaLN-zero),

$$h \leftarrow h + g(e) \odot f\big((1 + s(e)) \odot \mathrm{norm}(h) + t(e)\big),$$

where $s, t, g$ start at zero, and so does the output. As in DiT, with what has become usual since:

- queries and keys are normalized (as in ViT-22B), so that attention in bfloat16 stays bounded;
- positions rotate them (RoPE, axial: half of the pairs by the row, half by the column), besides
  DiT's sines and cosines that are added to the tokens at the start;
- the perceptron is gated, SwiGLU, $W_3 (\mathrm{silu}(W_1 h) \odot W_2 h)$, with two thirds of the
  width and so with as many parameters.

References:
    Peebles & Xie (2023), https://arxiv.org/abs/2212.09748; Yao et al. (2025),
    https://arxiv.org/abs/2501.01423 (DiT with these three); Shazeer (2020),
    https://arxiv.org/abs/2002.05202 (SwiGLU); Dehghani et al. (2023),
    https://arxiv.org/abs/2302.05442 (ViT-22B)
"""

import math
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
from elbos.models.networks.norms import layer_norm

LONGEST_PERIOD = 10_000.0  # DiT's, in patches, of positions added to the tokens
ROTATION_PERIOD = 100.0  # the base of RoPE, in patches: sides are shorter, not texts
MULTIPLE = 64  # the perceptron's width is a multiple, for fast matrix products


@dataclass(frozen=True, kw_only=True)
class ViTConfig(Typed):
    """Configuration of a vision transformer.

    DiT's sizes, features x blocks: S 384 x 12, B 768 x 12, L 1024 x 24.
    """

    num_features: int = 384
    """Width of the tokens."""

    num_blocks: int = 12
    """Transformer blocks."""

    patch_size: int = 2
    """Side of the square patches that are the tokens."""

    head_dim: int = 64
    """Features per attention head, a multiple of 4."""

    fourier_exponents: tuple[int, ...] = ()
    """Fourier features of the pixels at these powers of 2 (VDM: 7 and 8 for 256 pixel values), as
    further inputs: without, noise that is finer than bfloat16's digits of a pixel is lost."""

    dropout: float = 0.0
    """Probability of dropping a value inside a perceptron, in training."""

    def build(self, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
        require_positive(
            num_blocks=self.num_blocks,
            num_features=self.num_features,
            patch_size=self.patch_size,
            head_dim=self.head_dim,
        )
        require_heads(self.num_features, self.head_dim)
        require_exponents(self.fourier_exponents)
        require_dropout(self.dropout)
        require_images("ViT", shape, self.patch_size, "patch_size")
        return ViT(self, shape=shape, num_classes=num_classes)


class ViT(nn.Module):
    """Vision transformer for denoising images.

    `ViTConfig.build` checks the sizes and builds the network.
    """

    def __init__(
        self, config: ViTConfig, *, shape: tuple[int, ...], num_classes: int | None
    ) -> None:
        super().__init__()
        num_features, self.patch_size = config.num_features, config.patch_size
        self.head_dim = config.head_dim
        num_patch_channels = shape[0] * config.patch_size**2
        num_inputs = num_patch_channels * (1 + 2 * len(config.fourier_exponents))
        self.features = FourierFeatures(config.fourier_exponents)
        self.embedding = Embedding(num_features, num_classes)
        self.linear_in = nn.Linear(num_inputs, num_features)
        self.blocks = nn.ModuleList(
            Block(num_features, num_features, config.head_dim, config.dropout)
            for _ in range(config.num_blocks)
        )
        self.modulation = nn.Linear(num_features, 2 * num_features)
        self.linear_out = nn.Linear(num_features, num_patch_channels)
        set_zero(self.modulation, self.linear_out)

    def forward(
        self,
        z: Float[Tensor, "b c h w"],
        logsnr: Float[Tensor, " b"],
        cond: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        embedding = self.embedding(logsnr, cond)
        patches = F.pixel_unshuffle(self.features(z, logsnr), self.patch_size)
        tokens = self.linear_in(patches.flatten(2).transpose(1, 2))
        height, width = patches.shape[2:]
        h = tokens + positions(height, width, tokens.shape[2], tokens)
        rotation = rotations(height, width, self.head_dim, h)
        for block in self.blocks:
            h = block(h, embedding, rotation)
        scale, shift = self.modulation(embedding)[:, None].chunk(2, dim=2)
        y = self.linear_out(torch.addcmul(shift, layer_norm(h), 1 + scale))
        y = y.transpose(1, 2).unflatten(2, (height, width))
        return F.pixel_shuffle(y, self.patch_size).to(z.dtype)


class Block(nn.Module):
    """Transformer block modulated by the noise-level embedding (adaLN-zero).

    The embedding determines scales, shifts and gates.
    """

    def __init__(
        self, num_features: int, embedding_dim: int, head_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        width = MULTIPLE * math.ceil(8 * num_features / 3 / MULTIPLE)
        self.modulation = nn.Linear(embedding_dim, 6 * num_features)
        self.queries_keys = nn.Linear(num_features, 2 * num_features)
        self.values = nn.Linear(num_features, num_features)
        self.norm = nn.Parameter(torch.ones(head_dim))  # scale of the normalized queries and keys
        self.mixed = nn.Linear(num_features, num_features)
        self.gate = nn.Linear(num_features, width)
        self.linear_1 = nn.Linear(num_features, width)
        self.dropout = nn.Dropout(dropout)
        self.linear_2 = nn.Linear(width, num_features)
        set_zero(self.modulation)

    def forward(
        self,
        h: Float[Tensor, "b n c"],
        embedding: Float[Tensor, "b e"],
        rotation: tuple[Float[Tensor, "n 1 1 d"], Float[Tensor, "n 1 1 d"]],
    ) -> Float[Tensor, "b n c"]:
        modulation = self.modulation(embedding)[:, None]
        scale, shift, gate, scale_2, shift_2, gate_2 = modulation.chunk(6, dim=2)
        tokens = torch.addcmul(shift, layer_norm(h), 1 + scale)
        h = torch.addcmul(h, gate, self.attention(tokens, rotation))
        tokens = torch.addcmul(shift_2, layer_norm(h), 1 + scale_2)
        hidden = F.silu(self.gate(tokens)) * self.linear_1(tokens)
        return torch.addcmul(h, gate_2, self.linear_2(self.dropout(hidden)))

    def attention(
        self,
        tokens: Float[Tensor, "b n c"],
        rotation: tuple[Float[Tensor, "n 1 1 d"], Float[Tensor, "n 1 1 d"]],
    ) -> Float[Tensor, "b n c"]:
        pairs = self.queries_keys(tokens).unflatten(2, (2, -1, self.head_dim))
        q, k = rotated(layer_norm(pairs, self.norm), rotation).transpose(1, 3).unbind(2)
        v = self.values(tokens).unflatten(2, (-1, self.head_dim)).transpose(1, 2)
        heads = attended(q, k, v)  # [b, heads, n, head_dim]
        out: Tensor = self.mixed(heads.transpose(1, 2).flatten(2))
        return out


def angles(height: int, width: int, num: int, period: float, like: Tensor) -> Float[Tensor, "n d"]:
    """Return the phase angles of 2D position features.

    Each patch has `num` angles of the row and `num` of the column. Patches are in row-major order.
    Frequencies fall geometrically from one radian per patch to almost one per `period` patches; the
    dtype is float32 at least.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    frequencies = period ** -(torch.arange(num, dtype=dtype, device=like.device) / num)
    rows, columns = (
        torch.arange(side, dtype=dtype, device=like.device).unsqueeze(1) * frequencies
        for side in (height, width)
    )
    rows = rows.unsqueeze(1).expand(height, width, num)
    columns = columns.unsqueeze(0).expand(height, width, num)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)


def positions(height: int, width: int, num_features: int, like: Tensor) -> Float[Tensor, "n c"]:
    """Return sinusoidal position embeddings of image patches.

    They are zero-padded to `num_features`.
    """
    phase = angles(height, width, num_features // 4, LONGEST_PERIOD, like)
    table = torch.cat([phase.sin(), phase.cos()], dim=1).to(like.dtype)
    return F.pad(table, (0, num_features - table.shape[1]))


def rotations(
    height: int, width: int, head_dim: int, like: Tensor
) -> tuple[Float[Tensor, "n 1 1 d"], Float[Tensor, "n 1 1 d"]]:
    """Return the cosines and sines of axial rotary position embeddings.

    The sines are signed.
    """
    phase = angles(height, width, head_dim // 4, ROTATION_PERIOD, like)
    cos, sin = phase.cos(), phase.sin()
    factors = torch.cat([cos, cos], dim=1), torch.cat([-sin, sin], dim=1)
    cosines, sines = (each.to(like.dtype)[:, None, None] for each in factors)
    return cosines, sines


def rotated(
    heads: Float[Tensor, "b n k heads d"],
    rotation: tuple[Float[Tensor, "n 1 1 d"], Float[Tensor, "n 1 1 d"]],
) -> Float[Tensor, "b n k heads d"]:
    """Rotate queries and keys by angles that depend on the position.

    Each feature pair (i, i + d/2) is rotated.
    """
    cosines, sines = rotation
    return torch.addcmul(heads * cosines, heads.roll(heads.shape[4] // 2, 4), sines)


def require_heads(num_features: int, head_dim: int) -> None:
    if num_features % head_dim or head_dim % 4:
        raise ValueError(
            f"head_dim {head_dim} does not divide {num_features} features, or 4 does not divide "
            "it: choose a divisor that is a multiple of 4."
        )
