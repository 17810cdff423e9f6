r"""Residual multilayer perceptron for vectors, such as two-dimensional toy data or features.

Every block adds to the state $h$ a function of $h$ and of the embedding $e$ of log-SNR and label,

$$h \leftarrow h + W_2\, \mathrm{silu}\big((1 + s(e)) \odot W_1\, \mathrm{silu}(h) + t(e)\big).$$

The output starts at zero. There is no normalization: in two dimensions it takes out the length of
$h$, part of what $z$ says, and a swiss roll was learned more slowly with it.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from elbos.base.checks import Typed, require_positive
from elbos.models.networks.layers import Embedding, set_zero


@dataclass(frozen=True, kw_only=True)
class MLPConfig(Typed):
    """Configuration of a residual multilayer perceptron for vectors of any length."""

    num_features: int = 128
    """Width of the hidden layers."""

    num_blocks: int = 3
    """Residual blocks, of two linear maps each."""

    def build(self, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
        if len(shape) != 1:
            raise ValueError(
                f"MLP takes vectors, not data of shape {shape}: "
                "flatten them, or use the U-Net for images."
            )
        require_positive(num_blocks=self.num_blocks, num_features=self.num_features)
        return MLP(self, dim=shape[0], num_classes=num_classes)


class MLP(nn.Module):
    """Residual multilayer perceptron for vectors.

    `MLPConfig.build` checks the sizes and builds the network.
    """

    def __init__(self, config: MLPConfig, *, dim: int, num_classes: int | None) -> None:
        super().__init__()
        num_features = config.num_features
        self.embedding = Embedding(num_features, num_classes)
        self.linear_in = nn.Linear(dim, num_features)
        self.blocks = nn.ModuleList(Block(num_features) for _ in range(config.num_blocks))
        self.linear_out = nn.Linear(num_features, dim)
        set_zero(self.linear_out)

    def forward(
        self,
        z: Float[Tensor, "b d"],
        logsnr: Float[Tensor, " b"],
        cond: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b d"]:
        embedding = self.embedding(logsnr, cond)
        h = self.linear_in(z)
        for block in self.blocks:
            h = block(h, embedding)
        y: Tensor = self.linear_out(F.silu(h))
        return y.to(z.dtype)


class Block(nn.Module):
    """Residual block of two linear maps.

    The noise-level embedding modulates the output of the first.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(num_features, num_features)
        self.modulation = nn.Linear(num_features, 2 * num_features)
        self.linear_2 = nn.Linear(num_features, num_features)

    def forward(
        self, h: Float[Tensor, "b f"], embedding: Float[Tensor, "b f"]
    ) -> Float[Tensor, "b f"]:
        scale, shift = self.modulation(embedding).chunk(2, dim=1)
        branch = torch.addcmul(shift, self.linear_1(F.silu(h)), 1 + scale)
        out: Tensor = h + self.linear_2(F.silu(branch))
        return out
