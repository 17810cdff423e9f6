"""Other people's networks for images of 28x28, at about the FLOPs an image of `fashion`.

Each has two resolutions or three with attention in the middle, as their authors configure small
images, and a width that brings forward and backward near the 2.1 GFLOPs an image of `fashion`; and
once 128 channels, at which convolutions use a machine better. lucidrains' `Unet` is installed with
`pip install denoising-diffusion-pytorch`; EDM's and EDM2's are read from clones of their
repositories, which are not free for commercial use, so that nothing of them is here.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

WIDTHS = (32, 128)


class Other(NamedTuple):
    """A network of somebody else's, and how it is called on a noisy image."""

    name: str
    network: nn.Module
    forward: Callable[[Tensor], Tensor]


def lucidrains() -> Iterator[Other]:
    """denoising-diffusion-pytorch's `Unet`, with three resolutions and with two."""
    package = importlib.import_module("denoising_diffusion_pytorch")
    for width, multiples in ((32, (1, 2, 4)), (128, (1, 2))):
        network = package.Unet(dim=width, dim_mults=multiples, channels=1)
        yield Other(f"lucidrains {width}", network, lambda z, call=network: call(z, _times(z)))


def edm(folder: Path) -> Iterator[Other]:
    """EDM's two networks: DDPM++, of its CIFAR-10 runs, and ADM, of ImageNet-64."""
    networks = _module(folder, "training.networks")
    for width in WIDTHS:
        for name, kind in (("DDPM++", networks.SongUNet), ("ADM", networks.DhariwalUNet)):
            network = kind(**_settings(width), in_channels=1, out_channels=1)
            yield Other(f"EDM {name} {width}", network, _conditional(network))


def edm2(folder: Path) -> Iterator[Other]:
    """EDM2's network with weights of constant magnitude."""
    networks = _module(folder, "training.networks_edm2")
    for width in WIDTHS:
        network = networks.UNet(**_settings(width), img_channels=1)
        yield Other(f"EDM2 {width}", network, _conditional(network))


def _settings(width: int) -> dict[str, Any]:
    return {
        "img_resolution": 28,
        "label_dim": 10,
        "num_blocks": 2,
        "attn_resolutions": [14],
        "model_channels": width,
        "channel_mult": [1, 2],
    }


def _conditional(network: nn.Module) -> Callable[[Tensor], Tensor]:
    labels = torch.eye(10)
    return lambda z: network(z, _times(z), labels[torch.arange(len(z)) % 10])


def _times(z: Tensor) -> Tensor:
    return torch.linspace(0.1, 1.0, len(z))


def _module(folder: Path, name: str) -> Any:
    """Import a module of a clone; each clone has a package `training` of its own."""
    for loaded in [one for one in sys.modules if one.partition(".")[0] in _PACKAGES]:
        del sys.modules[loaded]
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


_PACKAGES = ("training", "torch_utils", "dnnlib")
