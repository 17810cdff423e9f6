"""Hugging Face datasets: streamed from the Hub, in a folder, or saved by `save_to_disk`."""

import itertools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elbos.base import files
from elbos.base.errors import flat, suggestion
from elbos.base.extras import imported
from elbos.base.progress import at_level
from elbos.training.data.dataset import SPLITS, are_downloads_allowed
from elbos.training.data.pack import SPLIT_WORDS, Encoded, Pictures


@dataclass(frozen=True, kw_only=True)
class Hub(Pictures):
    """Images of a Hugging Face dataset, decoded to 8-bit RGB of size x size pixels.

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
            object.__setattr__(self, "path", str(files.expanded(self.path)))

    @property
    def place(self) -> str:
        return self.path

    def source(self) -> Any:
        """Return the settings, and names, sizes and times of the files of a local dataset.

        A dataset on the Hub is identified by its name: the copy in the cache stays as it is.
        """
        files.require_plain(Path(self.path), may_link=True)
        paths = sorted(path for path in Path(self.path).rglob("*") if path.is_file())
        stats = [(str(path), path.stat()) for path in paths]
        local = [[path, stat.st_size, stat.st_mtime_ns] for path, stat in stats]
        return [self.path, self.name, self.image, self.label, local]

    def images(self) -> tuple[Iterator[Encoded], tuple[str, ...] | None]:
        """Return the rows of the dataset.

        Raises:
            ValueError: If the dataset cannot be loaded, a column is missing, or it does not hold
                pictures or classes.
        """
        datasets = imported("datasets")
        path = Path(self.path)
        is_saved = any((path / name).exists() for name in ("dataset_dict.json", "state.json"))
        if not (path.exists() or are_downloads_allowed()):
            raise ValueError(
                f"{self.path} is not on this machine, and data named by a run are not downloaded: "
                f"train with data:hub --data.path {self.path} to download it"
            )
        try:
            # Without a network, each retry is a warning.
            with at_level(logging.getLogger("huggingface_hub"), logging.ERROR):
                loaded = (
                    datasets.load_from_disk(self.path)
                    if is_saved
                    else datasets.load_dataset(self.path, self.name, streaming=True)
                )
        except Exception as error:  # any error of the library or the network
            raise ValueError(f"{self.path} cannot be loaded: {flat(error)[:300]}") from error
        parts = loaded if isinstance(loaded, dict) else {"": loaded}
        groups = {SPLIT_WORDS[name]: part for name, part in parts.items() if name in SPLIT_WORDS}
        if "train" not in groups:
            groups = {"": next(iter(parts.values()))}
        groups = {name: groups[name] for name in ("", *SPLITS) if name in groups}
        columns = [column for column in (self.image, self.label) if column is not None]
        for name, part in groups.items():
            present = part.column_names or [*next(iter(part))]
            if absent := [column for column in columns if column not in present]:
                raise ValueError(
                    f"{self.path} has no column {absent[0]}: {suggestion(absent[0], present)}"
                )
            groups[name] = part.select_columns(columns)
        features = next(iter(groups.values())).features or {}
        names = getattr(features.get(self.label), "names", None)
        return self._images(datasets, groups), names and tuple(names)

    def _images(self, datasets: Any, groups: dict[str, Any]) -> Iterator[Encoded]:
        numbers, folder = itertools.count(), Path(self.path).resolve()
        try:
            for split, part in groups.items():
                for row in part.cast_column(self.image, datasets.Image(decode=False)):
                    image = row[self.image] or {}
                    content = image.get("bytes") or image.get("path")
                    number = next(numbers)
                    if isinstance(content, str):
                        content = Path(os.path.abspath(folder / content))  # noqa: PTH100, keeps links
                        if not content.is_relative_to(folder):
                            raise ValueError(f"row {number} names {content}, outside of it")  # noqa: TRY301
                    label = None if self.label is None else row[self.label]
                    yield Encoded(f"{number:09d}", content, split, label)
        except Exception as error:  # any error of the library or the network
            raise ValueError(
                f"{self.path} cannot be read, with pictures in {self.image}: {flat(error)[:200]}"
            ) from error
