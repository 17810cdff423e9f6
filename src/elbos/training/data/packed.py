"""Images that `elbos data pack` made."""

from dataclasses import dataclass
from pathlib import Path

from elbos.base import files
from elbos.base.checks import Typed
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import Dataset
from elbos.training.data.shards import Index, load_shards


@dataclass(frozen=True, kw_only=True)
class Packed(Typed):
    """Images that `elbos data pack` made, mapped into memory: any number, opened at once.

    Which are for training, validation and testing was decided when they were packed.
    """

    path: Path
    """Folder that `elbos data pack` wrote; kept as an absolute path."""

    flip: bool = False
    """Mirror half of the training images left to right, another half in each epoch."""

    crop: int | None = None
    """Height and width of the part of an image that a training sees, at another place in each
    epoch; validation and test see the centre. Default: all of it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", files.expanded(self.path))

    def load(self) -> Dataset:
        """Open the dataset, without a look at any image.

        Raises:
            FileNotFoundError: If there are no packed images, or not all.
            ValueError: If they are damaged, or something else.
        """
        index = Index.read(self.path)
        if index.num_levels is None:
            raise ValueError(f"{self.path} holds latents: train with data:latents.")
        return augmented(load_shards(self.path, index), flip=self.flip, crop=self.crop)
