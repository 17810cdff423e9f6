"""Networks that map noisy data, log-SNR and condition to an output, and configurations that build
them.

The interface of a network, for these and for user-defined networks:

| argument | shape | what it is |
|---|---|---|
| `z` | `[b, ...]` | noisy data of the variance-preserving process, so of variance about one |
| `logsnr` | `[b]` | its log-SNR, one per sample |
| `cond` | `[b]` or None | what it understands, here class labels; negative or None: "no label" |
| returns `y` | `[b, ...]` | the regression target's estimate, in the shape and dtype of `z` |

A network does not depend on schedules, weightings or the prediction type, and the output for a
sample depends on no other sample. A configuration is a frozen dataclass with `build(shape,
num_classes)`, where `shape` is one sample's and `num_classes` is None for data without labels.
"""

from typing import Protocol

from torch import nn

from elbos.models.networks.adm import ADM, ADMConfig
from elbos.models.networks.mlp import MLP, MLPConfig
from elbos.models.networks.unet import UNet, UNetConfig
from elbos.models.networks.uvit import UViT, UViTConfig
from elbos.models.networks.vit import ViT, ViTConfig

__all__ = [
    "ADM",
    "MLP",
    "NETWORKS",
    "ADMConfig",
    "MLPConfig",
    "NetworkConfig",
    "UNet",
    "UNetConfig",
    "UViT",
    "UViTConfig",
    "ViT",
    "ViTConfig",
]


class NetworkConfig(Protocol):
    """Interface of configurations that build networks."""

    def build(self, shape: tuple[int, ...], num_classes: int | None) -> nn.Module:
        """Return the network for samples of a given shape.

        A ValueError is raised if the configuration does not fit the shape.
        """


NETWORKS: tuple[type[NetworkConfig], ...] = (
    UNetConfig,
    ADMConfig,
    UViTConfig,
    ViTConfig,
    MLPConfig,
)
"""Every architecture. A new one joins the command line and the run files by a line here."""
