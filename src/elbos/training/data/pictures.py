"""Encoded pictures by name, divided into splits: what packing decodes."""

import abc
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from elbos.training.data.dataset import Dataset, Split
from elbos.training.data.decoded import Decoded
from elbos.training.data.listing import Picture, class_names, split_pictures


class Pictures(abc.ABC):
    """Encoded pictures by name.

    Attributes:
        name: Their name in reports.
        place: Where they are, for messages.
        source: Their identifier.
    """

    name: str
    place: str
    source: dict[str, str]

    @abc.abstractmethod
    def splits(self) -> list[list[Picture]]:
        """Those for training, validation and testing."""

    @abc.abstractmethod
    def classes(self, train: Sequence[Picture]) -> tuple[str, ...] | None:
        """The names of the classes, of which these are all pictures for training."""

    @abc.abstractmethod
    def content(self, name: str) -> Path | bytes:
        """The file of a picture, or its content."""

    def state(self, name: str) -> list[int]:
        """What tells that a picture has changed, beyond `source`."""
        del name
        return []


class Packable(Protocol):
    """A configuration of pictures that can be packed."""

    @property
    def size(self) -> int: ...

    @property
    def skip_bad(self) -> bool: ...

    def pictures(self) -> Pictures:
        """The pictures; quick, as every process that packs calls it."""


class FolderPictures(Pictures):
    """The pictures of a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.name, self.place = root, root.name, str(root)
        self.source = {"pictures": str(root)}

    def splits(self) -> list[list[Picture]]:
        """As `data:folder` divides them."""
        return split_pictures(self.root)

    def classes(self, train: Sequence[Picture]) -> tuple[str, ...] | None:
        """The sub-folders."""
        return class_names(train)

    def content(self, name: str) -> Path | bytes:
        """The file of a picture."""
        return self.root / name

    def state(self, name: str) -> list[int]:
        """Size and time of change of its file."""
        try:
            found = (self.root / name).stat()
        except OSError:  # decoding says why
            return []
        return [found.st_size, found.st_mtime_ns]


class ArchivePictures(Pictures):
    """The pictures of a dataset that is decoded when it is read. A name begins with the picture's
    number in the archive.
    """

    def __init__(self, dataset: Dataset, place: str) -> None:
        self.dataset, self.name, self.place = dataset, dataset.name, place
        self.source = {"pictures": place, "sha256": dataset.fingerprint()["sha256"]}

    def splits(self) -> list[list[Picture]]:
        """As the dataset is divided."""
        return [
            self._pictures(split)
            for split in (self.dataset.train, self.dataset.val, self.dataset.test)
        ]

    def _pictures(self, split: Split) -> list[Picture]:
        assert isinstance(split.x, Decoded)
        numbers, classes = split.x.numbers.tolist(), self.classes(())
        labels = None if split.labels is None else split.labels.tolist()
        return [
            Picture(
                f"{number}: {split.x.archive.name(number)}",
                None if labels is None or classes is None else classes[labels[i]],
            )
            for i, number in enumerate(numbers)
        ]

    def classes(self, train: Sequence[Picture]) -> tuple[str, ...] | None:
        """The dataset's, in its order; numbers where they have no names."""
        del train
        if self.dataset.num_classes is None:
            return None
        return self.dataset.class_names or tuple(map(str, range(self.dataset.num_classes)))

    def content(self, name: str) -> Path | bytes:
        """The content of a picture's file."""
        assert isinstance(self.dataset.train.x, Decoded)
        return self.dataset.train.x.archive.content(int(name.partition(":")[0]))
