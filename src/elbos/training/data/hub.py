"""Data sets of Hugging Face's library `datasets`: on the Hub, in a folder, or saved to disk."""

import importlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from elbos.base import files
from elbos.base.checks import Typed
from elbos.base.codec import digest
from elbos.base.errors import flat, optional, suggestion
from elbos.training.data import downloads
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import Dataset
from elbos.training.data.decode import BadPicture
from elbos.training.data.decoded import Archive, decoded_dataset
from elbos.training.data.listing import SPLITS, Picture, divided
from elbos.training.data.pictures import ArchivePictures

_OFFLINE = "HF_HUB_OFFLINE"
_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation"), "val")


@dataclass(frozen=True, kw_only=True)
class Hub(Typed):
    """Pictures of a data set of Hugging Face's `datasets`, decoded when they are read: 3xSIZExSIZE,
    256 pixel values. Needs `pip install 'elbos[datasets]'`.

    Its splits train, validation and test are taken; without test, a tenth of validation is for
    validation and the rest for testing; without both, 5 % of the pictures each. Others are ignored.
    """

    path: str
    """A name on the Hub, a folder that `save_to_disk` wrote, or one of parquet files."""

    name: str | None = None
    """The configuration, where a data set has several."""

    image: str = "image"
    """The column of pictures."""

    label: str | None = "label"
    """The column of classes, if they are used."""

    size: int = 64
    """Height and width after resizing and cropping, in pixels."""

    flip: bool = False
    """Mirror half of the training pictures left to right, another half in each epoch."""

    crop: int | None = None
    """Height and width of the part of a picture that a training sees, at another place in each
    epoch; validation and test see the centre. Default: all of it."""

    skip_bad: bool = False
    """Take the next picture for one that cannot be decoded, with a warning, instead of stopping."""

    def __post_init__(self) -> None:
        if Path(self.path).expanduser().is_dir():  # the run is resumed from other places
            object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))

    def load(self) -> Dataset:
        """Open the dataset; the first time this may download it.

        Raises:
            ValueError: If the library is not installed, or there is no such data set or column.
        """
        if self.size < 1:
            raise ValueError(f"size is {self.size}: give at least one pixel")
        groups = self._groups()
        archive = HubArchive.joined([groups[name] for name in groups], self.image)
        labels, class_names, num_classes = self._labels(groups)
        numbers = self._divided({name: len(group) for name, group in groups.items()})
        dataset = decoded_dataset(
            archive,
            [
                (some, None if labels is None else labels[torch.from_numpy(some)])
                for some in numbers
            ],
            name=Path(self.path).name,
            size=self.size,
            num_classes=num_classes,
            class_names=class_names,
            skip_bad=self.skip_bad,
        )
        return augmented(dataset, flip=self.flip, crop=self.crop)

    def pictures(self) -> ArchivePictures:
        """The pictures, encoded."""
        return ArchivePictures(replace(self, flip=False, crop=None).load(), self.path)

    def _groups(self) -> dict[str, Any]:
        """The data set's parts by the names of our splits, pictures encoded."""
        datasets = imported()
        try:
            found = self._loaded(datasets)
        except Exception as error:  # of the library or the network, of any type
            if not downloads.are_allowed():
                raise ValueError(
                    f"{self.path} is not on this machine, and nothing that a run names is "
                    f"downloaded: data:hub --data.path {self.path} does so"
                ) from error
            raise ValueError(f"{self.path} cannot be loaded: {flat(error)[:300]}") from error
        parts = found if isinstance(found, dict) else {"": found}
        known = {_SPLITS[name]: part for name, part in parts.items() if name in _SPLITS}
        groups = known if "train" in known else {"": next(iter(parts.values()))}
        for column in filter(None, (self.image, self.label)):
            for part in groups.values():
                if column not in part.column_names:
                    raise ValueError(
                        f"{self.path} has no column {column}: "
                        f"{suggestion(column, part.column_names)}"
                    )
        kind = datasets.Image(decode=False)
        try:
            return {name: part.cast_column(self.image, kind) for name, part in groups.items()}
        except Exception as error:  # of the library, of any type
            raise ValueError(
                f"the column {self.image} of {self.path} holds no pictures: {flat(error)[:200]}"
            ) from error

    def _loaded(self, datasets: Any) -> Any:
        folder = Path(self.path)
        files.require_plain(folder, may_link=True)
        is_saved = any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))
        if is_saved:
            return datasets.load_from_disk(self.path)
        if downloads.are_allowed():
            return datasets.load_dataset(self.path, self.name)
        constants = importlib.import_module("huggingface_hub.constants")
        both = (datasets.config, constants)  # one for names, the other for requests
        with mock.patch.object(both[0], _OFFLINE, True), mock.patch.object(both[1], _OFFLINE, True):
            return datasets.load_dataset(self.path, self.name)

    def _labels(
        self, groups: dict[str, Any]
    ) -> tuple[Int64[Tensor, " n"] | None, tuple[str, ...] | None, int | None]:
        """The labels of all pictures, the names of classes if they have some, and their number."""
        if self.label is None:
            return None, None, None
        column = [value for part in groups.values() for value in part[self.label]]
        names = getattr(next(iter(groups.values())).features[self.label], "names", None)
        if names is not None and all(
            isinstance(value, int) and 0 <= value < len(names) for value in column
        ):
            return torch.tensor(column), tuple(names), len(names)
        if not all(isinstance(value, int | str) for value in column):
            raise ValueError(
                f"the column {self.label} of {self.path} holds no classes: name another"
            )
        known = sorted(set(column))
        number = {value: i for i, value in enumerate(known)}
        labels = torch.tensor([number[value] for value in column])
        return labels, tuple(map(str, known)), len(known)

    def _divided(self, sizes: dict[str, int]) -> list[Int64[np.ndarray, "_"]]:
        """The numbers of the pictures of our three splits, counted through all parts."""
        groups, start = {}, 0
        for name, num in sizes.items():
            groups[name] = [Picture(f"{i:09d}", None) for i in range(start, start + num)]
            start += num
        splits = divided(groups, self.path)
        assert len(splits) == len(SPLITS)
        return [np.array([int(picture.name) for picture in split], np.int64) for split in splits]


@dataclass(frozen=True)
class HubArchive(Archive):
    """The encoded pictures of a column.

    Attributes:
        dataset: Of the library.
        column: Its name.
    """

    dataset: Any
    column: str

    @classmethod
    def joined(cls, parts: list[Any], column: str) -> "HubArchive":
        """The pictures of several parts, one after the other."""
        joined = imported().concatenate_datasets([part.select_columns(column) for part in parts])
        return cls(joined, column)

    def fingerprint(self) -> str:
        """How many there are."""
        return digest(len(self.dataset))

    def name(self, number: int) -> str:
        """Its number: a look at its file's name would read the picture."""
        return f"row {number}"

    def content(self, number: int) -> bytes:
        """The content of a picture's file."""
        found = self.dataset[number][self.column] or {}
        content: bytes | None = found.get("bytes")
        if content is None and not found.get("path"):
            raise BadPicture("there is none")
        return files.read(Path(found["path"])) if content is None else content


def imported() -> Any:
    """The package datasets.

    Raises:
        ValueError: If it is not installed, or a version that runs code of data sets.
    """
    datasets = optional(
        "datasets",
        "data:hub needs datasets, which is not installed: pip install 'elbos[datasets]'.",
    )
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise ValueError(
            f"datasets {datasets.__version__} may run code of a data set: install 4 or newer."
        )
    return datasets
