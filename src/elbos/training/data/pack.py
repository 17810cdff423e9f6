"""Images that are decoded once, into one array per split: in the user's cache, or by `pack`.

A configuration (`Folder`, `Tar`, `Hub`) yields encoded images one by one. They are decoded in
threads (Pillow releases Python's lock for nine tenths of the time of a JPEG) into a temporary file
in the order in which they come, then divided into splits by their names, and copied into place.
"""

import abc
import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from elbos.base.cache import DamagedFolder, build_once
from elbos.base.checks import Typed, require_positive
from elbos.base.codec import digest
from elbos.base.progress import progress
from elbos.training.data import arrays
from elbos.training.data.arrays import INDEX, Index
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import MAX_CLASSES, SPLITS, Dataset
from elbos.training.data.images import EXTENSIONS, BadPicture, decode
from elbos.training.data.splits import divided
from elbos.training.directory import locked

_OPTION = "--data.skip-bad"
_FORMAT = 1  # increment when decoded pixels change, so that old caches are not used
_NUM_AT_ONCE = 256  # decoded images in memory


class Encoded(NamedTuple):
    """Encoded image of a dataset.

    Attributes:
        name: Name by which the image is sorted and divided.
        content: Path or bytes of the image file; None if it is missing.
        split: "train", "val" or "test"; "" for images that are to be divided.
        label: Number or name of the class; None without classes.
        row: Number of the decoded image in the temporary file; None for an image that is bad.
    """

    name: str
    content: Path | bytes | None
    split: str = ""
    label: int | str | None = None
    row: int | None = None


@dataclass(frozen=True, kw_only=True)
class Pictures(Typed, abc.ABC):
    """Images of a folder, of tars or of the Hub, as 8-bit RGB of size x size pixels."""

    size: int = 64
    """Height and width after resizing and cropping, in pixels."""

    flip: bool = False
    """Mirror half of the training pictures left to right, another half in each epoch."""

    crop: int | None = None
    """Height and width of the part of a picture that is trained on, at another place in each epoch;
    validation and test use the centre. Default: the entire picture."""

    skip_bad: bool = False
    """Leave out pictures that cannot be decoded, with a warning, instead of stopping."""

    def __post_init__(self) -> None:
        require_positive(size=self.size)

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """Path or name of the data, for messages."""

    @abc.abstractmethod
    def source(self) -> Any:
        """Return JSON values that change if the images change."""

    @abc.abstractmethod
    def images(self) -> tuple[Iterator[Encoded], tuple[str, ...] | None]:
        """Return the encoded images, and the names of the classes if they are numbered."""

    @property
    def title(self) -> str:
        """Name of the data in reports."""
        return Path(self.place).name

    def load(self) -> Dataset:
        """Return the dataset of the images, which the first call decodes into the user's cache.

        The cache is `~/.cache/elbos` (or `$XDG_CACHE_HOME/elbos`), under a digest of the source.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If the images cannot be divided, or some cannot be decoded.
        """

        def read(folder: Path) -> tuple[Dataset, Index]:
            try:
                return arrays.load(folder)
            except (OSError, ValueError) as error:
                raise DamagedFolder(f"the cache {folder} is corrupt") from error

        source = _digest(self)
        build = partial(_build, self, source)
        dataset, index = build_once(f"images-{source[:20]}", build, read)
        num = sum(map(len, dataset.splits))
        _require_good(self, index.bad, num, _OPTION)
        return augmented(dataset, flip=self.flip, crop=self.crop)


def pack(data: Pictures, out: Path, *, jobs: int | None = None) -> None:
    """Decode images into a folder of arrays, one per split.

    A folder that is complete is not changed. One thread per core decodes by default.

    Raises:
        ValueError: If the images cannot be divided, images are bad, or `out` holds other files, or
            the images of other data or settings, or as they were before a change.
        OSError: If a file cannot be read or written.
    """
    source = _digest(data)
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a folder.")
    if (out / INDEX).exists():
        if Index.read(out).source != source:
            raise ValueError(
                f"{out} holds other data or sizes than {data.place} now: pack into a new folder."
            )
        return
    if strange := [path.name for path in out.glob("[!.]*") if path.suffix != ".npy"]:
        raise ValueError(f"{out} holds {strange[0]}: name a new folder.")
    with locked(out, f"Another process writes {out}: wait for it."):
        _build(data, source, out, jobs=jobs, is_packing=True)


def _digest(data: Pictures) -> str:
    return digest([_FORMAT, type(data).__name__, data.size, data.source()])


def _build(
    data: Pictures, source: str, folder: Path, *, jobs: int | None = None, is_packing: bool = False
) -> None:
    images, class_names = data.images()
    with tempfile.TemporaryFile(dir=folder) as file:
        listed, bad = _decode_all(images, file, data, jobs)
        if not listed:
            raise ValueError(
                f"there is no picture in {data.place}: looked for files named "
                f"{' '.join(EXTENSIONS)}"
            )
        if is_packing:
            _require_good(data, bad, len(listed) - len(bad), "--skip-bad")
        for split in ("val", "test"):  # by convention, hidden labels are -1
            if {image.label for image in listed if image.split == split} == {-1}:
                warnings.warn(
                    f"the labels of {split} in {data.place} are hidden: this split is left out",
                    stacklevel=2,
                )
                listed = [image for image in listed if image.split != split]
        listed, class_names = _numbered(listed, class_names, data.place)
        splits = _splits(listed, data.place)
        try:
            _require_usable(splits, class_names or (), data.place)
        except ValueError:
            _require_good(data, bad, len(listed) - len(bad), _OPTION)
            raise
        file.flush()
        decoded = np.memmap(file, np.uint8, "r").reshape(-1, 3 * data.size**2)

        def blocks(rows: list[Any]) -> Iterator[bytes]:
            for start in range(0, len(rows), _NUM_AT_ONCE):
                yield decoded[rows[start : start + _NUM_AT_ONCE]].tobytes()

        arrays.write(
            folder,
            [(len(split), blocks([image.row for image in split])) for split in splits],
            [torch.tensor([image.label for image in split]) for split in splits]
            if class_names
            else [],
            (3, data.size, data.size),
            name=data.title,
            dtype="uint8",
            num_levels=256,
            class_names=class_names,
            source=source,
            bad=bad,
        )


def _decode_all(
    images: Iterator[Encoded], file: Any, data: Pictures, jobs: int | None
) -> tuple[list[Encoded], dict[str, str]]:
    def decoded(image: Encoded) -> bytes | str:
        try:
            if image.content is None:
                return "missing"
            return decode(image.content, data.size).tobytes()
        except BadPicture as error:
            return str(error)

    listed: list[Encoded] = []
    bad: dict[str, str] = {}
    num = 0
    with (
        progress() as bar,
        ThreadPoolExecutor(jobs or os.cpu_count()) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        task = bar.add_task(f"decoding {data.title}", total=None, unit="pictures", note="")
        while some := list(islice(images, _NUM_AT_ONCE)):
            for image, pixels in zip(some, pool.map(decoded, some), strict=True):
                row = None
                if isinstance(pixels, str):
                    bad[image.name] = pixels
                else:
                    file.write(pixels)
                    row, num = num, num + 1
                listed.append(image._replace(content=None, row=row))
            bar.advance(task, len(some))
    return listed, bad


def _require_good(data: Pictures, bad: dict[str, str], num_good: int, option: str) -> None:
    if not bad:
        return
    some = ", ".join(f"{name!r} ({reason})" for name, reason in list(bad.items())[:3])
    more = ", ..." if len(bad) > 3 else ""
    what = f"{len(bad)} of {num_good + len(bad)} pictures in {data.place} cannot be used: {some}"
    if not data.skip_bad:
        raise ValueError(f"{what}{more}; repair or remove them, or pass {option}")
    warnings.warn(f"{what}{more}; they are left out", stacklevel=3)


def _numbered(
    listed: list[Encoded], class_names: tuple[str, ...] | None, place: str
) -> tuple[list[Encoded], tuple[str, ...] | None]:
    labels = {image.label for image in listed}
    if labels <= {None}:
        return listed, None
    if None in labels:
        first = next(image.name for image in listed if image.label is None)
        raise ValueError(f"{first} in {place} has no class, unlike others: add it")
    numbers: dict[Any, int]
    if any(isinstance(label, str) for label in labels):
        class_names = tuple(sorted(map(str, labels)))
        numbers = {name: number for number, name in enumerate(class_names)}
    else:
        highest = max(int(label or 0) for label in labels)
        class_names = class_names or tuple(map(str, range(min(highest, MAX_CLASSES - 1) + 1)))
        numbers = {number: number for number in range(len(class_names))}
    for image in listed:
        if image.label not in numbers:
            raise ValueError(
                f"{image.name} in {place} has the label {image.label!r}, none of the "
                f"{len(class_names)} classes"
            )
    return [image._replace(label=numbers[image.label]) for image in listed], class_names


def _splits(listed: list[Encoded], place: str) -> list[list[Encoded]]:
    by_name = defaultdict(list)  # several from tars of one name
    for image in listed:
        by_name[image.name].append(image)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name, same in by_name.items():
        groups[same[0].split].append(name)
    return [
        [image for name in names for image in by_name[name] if image.row is not None]
        for names in divided(groups, place)
    ]


def _require_usable(splits: list[list[Encoded]], class_names: tuple[str, ...], place: str) -> None:
    for split, name in zip(splits, SPLITS, strict=True):
        if not split:
            raise ValueError(f"{place} has no usable picture for {name}: add some")
    classes = {image.label for image in splits[0]}
    for image in (*splits[1], *splits[2]):
        if image.label not in classes:
            name = class_names[int(image.label or 0)]
            raise ValueError(
                f"class {name!r} of {place} has no usable picture for training, only {image.name} "
                "and others for validation or testing: add some"
            )
