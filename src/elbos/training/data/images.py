"""Encoded images in folders, tar files or datasets, and their decoding into small RGB squares.

A configuration (`Pictures`) opens an archive, which numbers the images; they are decoded when they
are read (`Decoded`), or in advance (`pack`).
"""

import abc
import hashlib
import io
import warnings
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from elbos.base.checks import Typed, require_positive
from elbos.base.codec import digest
from elbos.training.data.augment import augmented
from elbos.training.data.dataset import SPLITS, Dataset, Source, Split

EXTENSIONS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # some other formats run programs
_NUM_IN_IDENTIFIER = 64
Numbers = Int64[np.ndarray, "_"]


class BadPicture(Exception):
    """Error raised if an image cannot be decoded.

    The message states the reason.
    """


@dataclass(frozen=True, kw_only=True)
class Archive(abc.ABC):
    """Collection of encoded images, numbered from 0.

    The images are files of a folder, entries of tar files, or a column of a dataset. Reading is
    safe in several threads, and in other processes, to which the archive is pickled.

    Attributes:
        name: Name of the data in reports.
        place: Where the images are, for messages.
        splits: Numbers of the images for training, validation and testing.
        labels: Class of every image by its number, or None.
    """

    name: str
    place: str
    splits: tuple[Numbers, Numbers, Numbers]
    labels: Int64[Tensor, "_"] | None = None
    class_names: tuple[str, ...] | None = None

    @abc.abstractmethod
    def content(self, number: int) -> Path | bytes:
        """Return the path or the bytes of an encoded image.

        A BadPicture is raised if the image is missing.
        """

    @abc.abstractmethod
    def describe(self, number: int) -> str:
        """Return a short description of an image for error messages."""

    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Return a digest that identifies a collection of images.

        No image file is read.
        """

    def identity(self, size: int) -> dict[str, str]:
        return {"sha256": self.dataset(size).fingerprint()["sha256"]}

    def state(self, number: int) -> list[int]:
        """Return file properties that reveal a later change of an image.

        These are, for example, size and time of change; the default is an empty list.
        """
        del number
        return []

    def labels_of(self, numbers: Numbers) -> Int64[Tensor, "_"] | None:
        # indexed by NumPy: torch warns of numbers in a read-only file
        return None if self.labels is None else torch.from_numpy(self.labels.numpy()[numbers])

    def dataset(self, size: int) -> Dataset:
        """Return a dataset of the images, decoded to `size` by `size` pixels on reading."""
        sources = [Decoded(self, numbers, size) for numbers in self.splits]
        train, val, test = (Split(one, self.labels_of(one.numbers)) for one in sources)
        known = digest([source.fingerprint() for source in sources])
        num_classes = None if self.class_names is None else len(self.class_names)
        return Dataset(self.name, train, val, test, 256, num_classes, self.class_names, known)

    def good(self, bad: Collection[str]) -> tuple[Numbers, Numbers, Numbers]:
        """Return the indices of the decodable images in each split.

        `bad` holds the descriptions of the undecodable images.
        """
        if not bad:
            return self.splits
        train, val, test = (
            np.array([i for i in split.tolist() if self.describe(i) not in bad], np.int64)
            for split in self.splits
        )
        return train, val, test

    def require_good(self, bad: dict[str, str], option: str, skip_bad: bool) -> None:
        """Raise a ValueError if images cannot be decoded.

        If `skip_bad` is set, only warn. `bad` holds the error of each bad image by the image's
        description; `option` names the command-line option that sets `skip_bad`.
        """
        if bad:
            some = ", ".join(f"{name!r} ({reason})" for name, reason in list(bad.items())[:3])
            more, num = ", ..." if len(bad) > 3 else "", sum(map(len, self.splits))
            found = f"{len(bad)} of {num} pictures in {self.place} cannot be used: {some}{more}"
            if not skip_bad:
                raise ValueError(f"{found}; repair or remove them, or pass {option}")
            warnings.warn(f"{found}; they are left out", stacklevel=2)
        self.require_usable(self.good(bad))

    def require_usable(self, splits: Sequence[Numbers]) -> None:
        for numbers, name in zip(splits, SPLITS, strict=True):
            if not len(numbers):
                raise ValueError(f"{self.place} has no usable picture for {name}: add some")
        if self.labels is None:
            return
        classes = self.labels.numpy()
        for numbers in splits[1:]:
            unknown = numbers[~np.isin(classes[numbers], classes[splits[0]])]
            if len(unknown):
                name = (self.class_names or ())[int(classes[unknown[0]])]
                raise ValueError(
                    f"class {name!r} of {self.place} has no usable picture for training, only "
                    f"{self.describe(int(unknown[0]))} and others for validation or testing: add "
                    "some"
                )


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
    """Leave out pictures that cannot be decoded, with a warning, instead of stopping. Those of tars
    and of the Hub have to be packed for that."""

    def __post_init__(self) -> None:
        require_positive(size=self.size)

    @abc.abstractmethod
    def archive(self) -> Archive:
        """Return the encoded images, their labels and splits."""

    def load(self) -> Dataset:
        """Return the dataset of the images, which are decoded when they are read.

        Raises:
            OSError: If a file cannot be read.
            ValueError: If the images cannot be divided, or `skip_bad` is set.
        """
        if self.skip_bad:
            raise ValueError(
                "pictures of tars and of the Hub are decoded when read: leave bad ones out "
                "with `elbos data pack --skip-bad`."
            )
        return augmented(self.archive().dataset(self.size), flip=self.flip, crop=self.crop)


@dataclass(frozen=True)
class Decoded(Source):
    """Images of a dataset split, decoded and cropped on reading.

    Images are resized, and cropped at the centre.
    """

    archive: Archive
    numbers: Numbers
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.numbers), 3, self.size, self.size

    def read(self, rows: Int64[Tensor, " b"]) -> UInt8[Tensor, "b 3 s s"]:
        out = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, number in enumerate(self.numbers[rows.numpy()].tolist()):
            try:
                out[place] = decode(self.archive.content(number), self.size)
            except BadPicture as error:
                raise ValueError(
                    f"the picture {self.archive.describe(number)} cannot be used ({error}): remove "
                    "it, or leave it out with `elbos data pack --skip-bad`."
                ) from error
        return torch.from_numpy(out)

    def fingerprint(self) -> str:
        hashed = hashlib.sha256(np.ascontiguousarray(self.numbers).data)
        rows = np.linspace(0, len(self) - 1, min(len(self), _NUM_IN_IDENTIFIER)).astype(int)
        for number in self.numbers[rows].tolist():
            with suppress(BadPicture):  # a missing image
                content = self.archive.content(number)
                hashed.update(content if isinstance(content, bytes) else content.read_bytes())
        return digest([self.archive.fingerprint(), self.size, hashed.hexdigest()])


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
    except (BadPicture, MemoryError):  # memory may suffice the next time
        raise
    except UnidentifiedImageError as error:
        raise BadPicture("not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPicture("too many pixels") from error
    except Exception as error:  # decoders raise errors of every type on corrupt files
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the system, not the image
        if str(error).startswith("out of memory"):  # Pillow's message
            raise MemoryError from error
        raise BadPicture((str(error) or type(error).__name__).splitlines()[0]) from error
    return np.asarray(square).transpose(2, 0, 1)


def _square(path: Path | bytes, size: int) -> Image.Image:
    if isinstance(path, Path) and not path.is_file():
        raise BadPicture("not a file")
    if (path.stat().st_size if isinstance(path, Path) else len(path)) == 0:
        raise BadPicture("empty")
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
