"""Hugging Face datasets: downloaded from the Hub, in a folder, or saved by `save_to_disk`."""

import importlib
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from elbos.base import files
from elbos.base.codec import digest
from elbos.base.errors import flat, suggestion
from elbos.base.extras import needs
from elbos.base.progress import at_level
from elbos.training.data.dataset import are_downloads_allowed
from elbos.training.data.images import Archive, BadPicture, Pictures
from elbos.training.data.splits import SPLIT_WORDS, divided

_OFFLINE = "HF_HUB_OFFLINE"


@dataclass(frozen=True, kw_only=True)
class Hub(Pictures):
    """Images of a Hugging Face dataset, decoded on reading to 8-bit RGB of size x size pixels.

    Needs `pip install 'elbos[datasets]'`.

    The splits train, validation and test are used, and other splits ignored. Without test, a tenth
    of validation is for validation and the rest for testing; without both, 5 % of the pictures are
    for each. A validation or test split whose labels are hidden (all are -1) counts as missing.
    """

    path: str
    """A name on the Hub, a folder that `save_to_disk` wrote, or a folder of parquet files."""

    name: str | None = None
    """Name of the dataset's configuration, if the dataset has several."""

    image: str = "image"
    """The column of pictures."""

    label: str | None = "label"
    """The column of class labels; None ignores labels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if Path(self.path).expanduser().is_dir():  # runs resume from other folders
            object.__setattr__(self, "path", str(Path(self.path).expanduser().absolute()))

    def archive(self) -> "HubArchive":
        """Return the rows of the dataset, which the first call may download.

        Raises:
            ValueError: If the dataset cannot be loaded or divided, a column is missing, or a label
                is not a class.
        """
        groups, labels, class_names = self._labelled(self._groups())
        parts = [part.select_columns(self.image) for part in groups.values()]
        names, start = {}, 0  # rows are numbered consecutively over all splits
        for name, group in groups.items():
            names[name] = [f"{i:09d}" for i in range(start, start + len(group))]
            start += len(group)
        train, val, test = (
            np.array([*map(int, split)], np.int64) for split in divided(names, self.path)
        )
        return HubArchive(
            name=Path(self.path).name,
            place=self.path,
            splits=(train, val, test),
            labels=labels,
            class_names=class_names,
            rows=imported().concatenate_datasets(parts),
            column=self.image,
        )

    def _groups(self) -> dict[str, Any]:
        # without a train split, the first split is loaded, under the key ""
        datasets = imported()
        try:
            found = self._loaded(datasets)
        except Exception as error:  # any error of the library or the network
            if not are_downloads_allowed():
                raise ValueError(
                    f"{self.path} is not on this machine, and data named by a run are not "
                    f"downloaded: train with data:hub --data.path {self.path} to download it"
                ) from error
            raise ValueError(f"{self.path} cannot be loaded: {flat(error)[:300]}") from error
        parts = found if isinstance(found, dict) else {"": found}
        known = {SPLIT_WORDS[name]: part for name, part in parts.items() if name in SPLIT_WORDS}
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
        except Exception as error:  # any error of the library
            raise ValueError(
                f"the column {self.image} of {self.path} has no pictures: {flat(error)[:200]}"
            ) from error

    def _loaded(self, datasets: Any) -> Any:
        folder = Path(self.path)
        files.require_plain(folder, may_link=True)
        is_saved = any((folder / name).exists() for name in ("dataset_dict.json", "state.json"))
        if is_saved:
            return datasets.load_from_disk(self.path)
        if are_downloads_allowed():
            # Without a network, each retry is a warning.
            with at_level(logging.getLogger("huggingface_hub"), logging.ERROR):
                return datasets.load_dataset(self.path, self.name)
        constants = importlib.import_module("huggingface_hub.constants")
        both = (datasets.config, constants)  # config is for names, constants for requests
        with mock.patch.object(both[0], _OFFLINE, True), mock.patch.object(both[1], _OFFLINE, True):
            return datasets.load_dataset(self.path, self.name)

    def _labelled(
        self, groups: dict[str, Any]
    ) -> tuple[dict[str, Any], Int64[Tensor, " n"] | None, tuple[str, ...] | None]:
        # Returns the splits that are used, the labels of their rows, and the names of the classes:
        # where the dataset has none, the sorted values of the training split.
        if self.label is None:
            return groups, None, None
        columns = {name: list(part[self.label]) for name, part in groups.items()}
        train = "train" if "train" in groups else ""
        names = getattr(groups[train].features[self.label], "names", None)
        if names is None and not all(isinstance(value, int | str) for value in columns[train]):
            raise ValueError(
                f"the column {self.label} of {self.path} does not hold classes: name another"
            )
        classes = range(len(names)) if names is not None else sorted(set(columns[train]))
        number = {value: i for i, value in enumerate(classes)}
        for name in groups.keys() - {train}:
            if not any(value in number for value in columns[name]):  # by convention, all are -1
                warnings.warn(
                    f"the labels of {name} in {self.path} are hidden: this split is left out",
                    stacklevel=2,
                )
                del columns[name]
        column = [value for some in columns.values() for value in some]
        if unknown := [value for value in column if value not in number]:
            raise ValueError(
                f"the column {self.label} of {self.path} holds {unknown[0]!r}, none of its "
                f"{len(number)} classes: name another, or None"
            )
        labels = torch.tensor([number[value] for value in column])
        return {name: groups[name] for name in columns}, labels, tuple(names or map(str, classes))


@dataclass(frozen=True, kw_only=True)
class HubArchive(Archive):
    rows: Any  # a `datasets.Dataset`
    column: str

    def fingerprint(self) -> str:
        return digest(len(self.rows))

    def describe(self, number: int) -> str:
        return f"row {number}"  # reading the names of files would read the images

    def content(self, number: int) -> Path | bytes:
        found = self.rows[number][self.column] or {}
        content: bytes | None = found.get("bytes")
        if content is None and not found.get("path"):
            raise BadPicture("missing")
        return files.read(Path(found["path"])) if content is None else content


def imported() -> Any:
    with needs("datasets"):
        datasets = importlib.import_module("datasets")
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise ValueError(
            f"datasets {datasets.__version__} may run code of a data set: install 4 or newer."
        )
    return datasets
