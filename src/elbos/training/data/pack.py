"""Images that are decoded once, into one array per split: in the user's cache, or by `pack`.

A configuration (`Folder`, `Tar`, `Hub`) yields encoded images one by one. They are decoded in
threads (Pillow releases Python's lock for nine tenths of the time of a JPEG) into a temporary file
in the order in which they come, then divided into splits by their names, and copied into place.
"""

import abc
import hashlib
import io
import os
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from elbos.base import files
from elbos.base.cache import build_once, cache_dir
from elbos.base.checks import Typed, require_positive
from elbos.base.codec import digest
from elbos.base.errors import warn
from elbos.base.formats import CorruptFile
from elbos.base.progress import progress
from elbos.training.data import packed
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import MAX_CLASSES, SPLITS, Dataset

EXTENSIONS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # some other formats run programs
SPLIT_WORDS = {"train": "train", "training": "train", "test": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
"""Names of splits in tars and datasets."""

_FORMAT = 2  # increment when decoded pixels change, so that old caches are not used
_NUM_AT_ONCE = 256  # decoded images in memory
_HELD_OUT = 0.05
_VALIDATION_SHARE = 0.1  # share of the images in `val` if there is no `test`


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

    def digest(self) -> str:
        """Return a digest that changes if the decoded images change."""
        return digest([_FORMAT, type(self).__name__, self.size, self.skip_bad, self.source()])

    def load(self) -> Dataset:
        """Return the dataset of the images, which the first call decodes into the user's cache.

        The cache is `~/.cache/elbos` (or `$XDG_CACHE_HOME/elbos`), under a digest of the source.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If the images cannot be divided, or some cannot be decoded.
        """

        def read(folder: Path) -> Dataset:
            try:
                return packed.load(folder)
            except (OSError, ValueError) as error:
                raise CorruptFile(f"the cache {folder} is corrupt") from error

        source = self.digest()
        build = partial(_build, self, source, "--data.skip-bad")
        dataset = build_once(cache_dir() / f"images-{source[:20]}", build, read)
        return augmented(dataset, flip=self.flip, crop=self.crop)


_Data = TypeVar("_Data")


def fitted(data: _Data, size: int) -> _Data:
    """Return pictures in the size that a network takes, unless one was given; other data as is."""
    if isinstance(data, Pictures) and data.crop is None and data.size == type(data).size:
        return replace(data, size=size)
    return data


def pack(data: Pictures, out: Path, *, jobs: int | None = None) -> None:
    """Decode images into a folder of arrays, one per split.

    A folder that is complete is not changed. One thread per core decodes by default.

    Raises:
        ValueError: If the images cannot be divided, images are bad, or `out` holds other files, or
            the images of other data or settings, or as they were before a change.
        OSError: If a file cannot be read or written.
    """
    source = data.digest()
    build = partial(_build, data, source, "--skip-bad", jobs=jobs)
    content = f"other data or sizes than {data.place} now: pack into a new folder."
    packed.build_new(out, source, build, content)


def _build(
    data: Pictures, source: str, option: str, folder: Path, *, jobs: int | None = None
) -> None:
    images, class_names = data.images()
    with tempfile.TemporaryFile(dir=folder) as file:

        def write(pixels: bytes) -> None:
            with files.named_errors(folder):
                file.write(pixels)

        listed, bad = _decode_all(images, write, data, jobs)
        if not listed:
            raise ValueError(
                f"there is no picture in {data.place}: looked for files named "
                f"{' '.join(EXTENSIONS)}"
            )
        if bad:
            some = ", ".join(f"{name!r} ({reason})" for name, reason in list(bad.items())[:3])
            what = f"{len(bad)} of {len(listed)} pictures in {data.place} cannot be used: {some}"
            if not data.skip_bad:
                raise ValueError(f"{what}; repair or remove them, or pass {option}")
            warn(f"{what}; they are left out")
        for split in ("val", "test"):  # hidden labels are -1 by convention
            if {image.label for image in listed if image.split == split} == {-1}:
                warn(f"the labels of {split} in {data.place} are hidden: this split is left out")
                listed = [image for image in listed if image.split != split]
        listed, class_names = _numbered(listed, class_names, data.place)
        splits = _splits(listed, class_names or (), data.place)
        file.flush()
        decoded = np.memmap(file, np.uint8, "r").reshape(-1, 3 * data.size**2)

        def blocks(rows: list[Any]) -> Iterator[bytes]:
            for start in range(0, len(rows), _NUM_AT_ONCE):
                yield decoded[rows[start : start + _NUM_AT_ONCE]].tobytes()

        labels = [torch.tensor([image.label for image in split]) for split in splits if class_names]
        packed.write(
            folder,
            [(len(split), blocks([image.row for image in split])) for split in splits],
            labels,
            (3, data.size, data.size),
            name=data.title,
            dtype="uint8",
            num_levels=256,
            class_names=class_names,
            source=source,
        )


def _decode_all(
    images: Iterator[Encoded], write: Callable[[bytes], None], data: Pictures, jobs: int | None
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
                    row = len(listed) - len(bad)
                    write(pixels)
                listed.append(image._replace(content=None, row=row))
            bar.advance(task, len(some))
    return listed, bad


def _numbered(
    listed: list[Encoded], class_names: tuple[str, ...] | None, place: str
) -> tuple[list[Encoded], tuple[str, ...] | None]:
    labels = {image.label for image in listed}
    if labels <= {None}:
        return listed, None
    numbers: dict[Any, int]
    if any(isinstance(label, str) for label in labels):
        class_names = tuple(sorted(map(str, labels - {None})))
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


def _splits(listed: list[Encoded], class_names: tuple[str, ...], place: str) -> list[list[Encoded]]:
    groups: defaultdict[str, list[Encoded]] = defaultdict(list)
    for image in listed:
        groups[image.split].append(image)
    splits = [[image for image in split if image.row is not None] for split in divided(groups)]
    for split, name in zip(splits, SPLITS, strict=True):
        if not split:
            raise ValueError(f"{place} has no usable picture for {name}: add some")
    classes = {image.label for image in splits[0]}
    for image in (*splits[1], *splits[2]):
        if image.label not in classes:
            name = class_names[int(image.label or 0)]
            raise ValueError(f"class {name!r} of {place} has no usable picture for training")
    return splits


# --- decoding ------------------------------------------------------------------------------------


class BadPicture(Exception):
    """Error raised if an image cannot be decoded; its message states the reason."""


def decode(path: Path | bytes, size: int) -> UInt8[np.ndarray, "3 s s"]:
    """Decode an image file to a square RGB array.

    The image is resized to `size` pixels on the short side, and cropped. The image is rotated by
    its EXIF tag; grey, palette and CMYK become RGB; transparency is laid on white; 16-bit grey
    keeps its high byte. The filter is Lanczos, antialiased. The caller must turn Pillow's
    `DecompressionBombWarning` into an error.

    Raises:
        BadPicture: If the file is corrupt, an animation, or of another format.
        OSError: If the file cannot be read.
        MemoryError: If memory is too small now.
    """
    try:
        square = _square(path, size)
    except (BadPicture, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadPicture("not an image") from error
    except Exception as error:  # decoders raise errors of every type on corrupt files
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the system, not the image
        raise BadPicture((str(error) or type(error).__name__).splitlines()[0]) from error
    return np.asarray(square).transpose(2, 0, 1)


def _square(path: Path | bytes, size: int) -> Image.Image:
    if isinstance(path, Path) and not path.is_file():
        raise BadPicture("not a file")
    file = io.BytesIO(path) if isinstance(path, bytes) else path
    with Image.open(file, formats=_FORMATS) as opened:
        # An MPO is a JPEG followed by previews or a second view: its first frame is the photo.
        if getattr(opened, "is_animated", False) and opened.format != "MPO":
            raise BadPicture("several frames")
        opened.draft(None, (4 * size, 4 * size))  # JPEG: decode 4 times faster, at 4 times `size`
        image = ImageOps.exif_transpose(opened)
    if image.mode == "F":
        raise BadPicture("floating-point pixels")
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 65535:
            raise BadPicture("more than 16 bits")
        image = Image.fromarray((levels // 256).astype(np.uint8))
    elif image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    rgb = image.convert("RGB")
    return ImageOps.fit(rgb, (size, size), Image.Resampling.LANCZOS)


# --- division by names ---------------------------------------------------------------------------


def divided(groups: Mapping[str, list[Encoded]]) -> list[list[Encoded]]:
    """Divide images into training, validation and test images.

    Returns three sorted lists. Groups `train`, `test` and perhaps `val` are the splits. With
    `train` and `val` alone, as in ImageNet, a tenth of `val` is for validation and the rest for
    testing. Otherwise, as in the group "", 5 % of all images are for validation and 5 % for
    testing. Images are divided by a hash of their names.

    Raises:
        ValueError: If there are too few images.
    """
    train, val, test = (groups.get(name, []) for name in SPLITS)
    if train and test and not val:
        train, val, _ = by_hash(train, with_test=False)
    elif train and val and not test:
        ranked = sorted(val, key=hashed)
        num_val = sum(hashed(image) < _VALIDATION_SHARE for image in ranked)
        num_val = min(max(1, num_val), len(ranked) - 1)
        val, test = by_path(ranked[:num_val]), by_path(ranked[num_val:])
    elif not (train and val and test):
        return by_hash([image for group in groups.values() for image in group], with_test=True)
    return [train, val, test]


def by_hash(images: list[Encoded], with_test: bool) -> list[list[Encoded]]:
    """Divide images into training, validation and test by a hash of the name.

    Test is empty unless `with_test`; other splits have at least one image each.
    """
    if len(images) < 2 + with_test:
        raise ValueError(
            f"only {len(images)} pictures for training, validation and testing: add some"
        )
    ranked = sorted(images, key=hashed)
    num_val = max(1, sum(hashed(image) < _HELD_OUT for image in ranked))
    num_test = max(1, sum(hashed(image) >= 1 - _HELD_OUT for image in ranked)) if with_test else 0
    stop = len(ranked) - num_test
    return [by_path(part) for part in (ranked[num_val:stop], ranked[:num_val], ranked[stop:])]


def hashed(image: Encoded) -> float:
    """Return a number in [0, 1) from a hash of an image's name, equal on every machine."""
    return int.from_bytes(hashlib.sha256(os.fsencode(image.name)).digest()[:6], "big") / 2**48


def by_path(images: Iterable[Encoded]) -> list[Encoded]:
    return sorted(images, key=lambda image: image.name.split("/"))
