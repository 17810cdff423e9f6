"""Requirements of a saved diffusers network on the images for its evaluation."""

import warnings
from dataclasses import dataclass
from typing import Any

from elbos.training.data import Dataset

KNOWN = ("UNet2DModel", "DiTTransformer2DModel", "Transformer2DModel")
"""The supported networks, unconditional or class-conditional; datasets here have no texts."""


@dataclass(frozen=True)
class Requirements:
    """The data shape and number of classes for which the network in `folder` is configured.

    `size` is None if any size is accepted, `num_classes` is None for an unconditional network.
    """

    folder: str
    num_channels: int
    size: tuple[int, int] | None
    num_classes: int | None

    @classmethod
    def from_config(cls, folder: str, network: Any) -> "Requirements":
        """Read the requirements from the configuration of a diffusers network."""
        name, config = type(network).__name__, network.config
        if name not in KNOWN:
            raise ValueError(
                f"{folder} has a {name}, which is conditioned on more than a class, as a text: "
                "measure it with elbos.Validator, which takes any condition (docs/evaluation.md)."
            )
        size = config.get("sample_size")
        sizes = [size, size] if isinstance(size, int) else size
        if not (sizes is None or isinstance(sizes, list | tuple)):
            raise ValueError(f"sample_size of {folder} is {size!r}: give one whole number or two.")
        nums = (config.get(key) for key in ("num_class_embeds", "num_embeds_ada_norm"))
        return cls(
            folder=folder,
            num_channels=config["in_channels"],
            size=tuple(sizes) if sizes else None,
            num_classes=next((num for num in nums if num is not None), None),
        )

    def require_shape(self, shape: tuple[int, ...]) -> None:
        """Raise a ValueError if the network is configured for data of another shape."""
        wanted = (self.num_channels, *(self.size or shape[1:]))
        if tuple(shape) != wanted or len(shape) != 3:
            raise ValueError(
                f"the network takes {_sizes(wanted)}, and is given {_sizes(shape)}: choose data of "
                "that shape (data:folder has 3 channels, and --data.size)."
            )

    def require_labels(self, dataset: Dataset) -> None:
        """Raise a ValueError if the data lack classes of the network; warn if they have fewer."""
        known, num = self.num_classes, dataset.num_classes
        if known is None:
            return
        if num is None:
            raise ValueError(
                f"the network of {self.folder} is conditioned on {known} classes, and "
                f"{dataset.name} has no labels: choose data with classes."
            )
        if num > known:
            raise ValueError(
                f"the network of {self.folder} knows {known} classes, and {dataset.name} has "
                f"{num}: choose the data that it was trained on."
            )
        if num < known - 1:  # one may be the null class
            warnings.warn(
                f"The network of {self.folder} knows {known} classes, and {dataset.name} has "
                f"{num}: labels 0 to {num - 1} of the data are passed to the network unchanged.",
                stacklevel=2,
            )


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
