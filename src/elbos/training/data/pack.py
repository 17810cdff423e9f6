"""Encoded images become one array per split, in a folder that is complete or not there.

Images come one by one from any source. Threads decode them (Pillow releases Python's lock for nine
tenths of the time of a JPEG) into a temporary file in the order in which they come. Then they are
divided by their keys and copied into place, so that memory holds few of them at any time.
"""

import hashlib
import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from elbos.base import files
from elbos.base.errors import warn
from elbos.base.progress import progress
from elbos.training.data import packed
from elbos.training.data.dataset import SPLITS

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # some other formats run programs
_NUM_AT_ONCE = 256  # decoded images in memory
_MAX_CLASSES = 1_000_000  # a network has weights for each
_HELD_OUT = 0.05
_VALIDATION_SHARE = 0.1  # share of the images in `val` if there is no `test`


class Sample(NamedTuple):
    """Encoded image of a dataset."""

    key: str  # by which the image is sorted and divided
    picture: Path | bytes | None  # the image file or its content
    label: int | str | None = None
    split: str = "train"
    row: int = 0  # of the decoded image in the temporary file


def pack(
    samples: Iterable[Sample],
    folder: Path,
    *,
    name: str,
    size: int,
    source: str,
    class_names: tuple[str, ...] | None = None,
    skip_bad: bool = False,
    jobs: int | None = None,
) -> None:
    """Decode images into arrays in an existing folder, one per split.

    `source` is a digest of what the images were made from; `class_names` are for labels that are
    numbers, by default those numbers.
    """
    decoded: list[Sample] = []
    bad: list[str] = []
    absent: list[str] = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for sample, pixels in _decoded(iter(samples), name, size, jobs):
            if isinstance(pixels, bytes):
                with files.named_errors(folder):
                    file.write(pixels)
                decoded.append(sample._replace(picture=None, row=len(decoded)))
            elif isinstance(pixels, str):
                bad.append(f"{sample.key!r} ({pixels})")
            else:
                absent.append(sample.key)
        report_left_out(name, "sample(s) without a picture", absent)
        if bad and not skip_bad:
            raise ValueError(
                f"{len(bad):,} of {len(bad) + len(decoded):,} pictures in {name} cannot be "
                f"decoded: {first_of(bad)}; repair them, or pass --skip-bad (--data.skip-bad)"
            )
        report_left_out(name, "picture(s) that cannot be decoded", bad)
        decoded, class_names = _numbered(decoded, class_names, name)
        splits = divided(decoded)
        for split, split_name in zip(splits, SPLITS, strict=True):
            if not split:
                raise ValueError(
                    f"{name} has no picture for {split_name}, with {len(decoded)} in all: add some"
                )
        file.flush()
        packed.write(
            folder,
            np.memmap(file, np.uint8, "r").reshape(-1, 3, size, size),
            [[sample.row for sample in split] for split in splits],
            [torch.tensor([sample.label for sample in split]) for split in splits if class_names],
            name=name,
            num_levels=256,
            class_names=class_names,
            source=source,
        )


def report_left_out(name: str, what: str, names: Sequence[str]) -> None:
    """Warn in one line how many parts of a dataset are left out, if any, and of the first names."""
    if names:
        warn(f"Left out of {name}: {len(names):,} {what}: {first_of(names)}")


def first_of(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + ", ..." * (len(names) > 3)


def _decoded(
    samples: Iterator[Sample], name: str, size: int, jobs: int | None
) -> Iterator[tuple[Sample, bytes | str | None]]:
    """Yield each sample with its pixels, or why they cannot be decoded, or None without any."""

    def pixels(sample: Sample) -> bytes | str | None:
        try:
            return decode(sample.picture, size).tobytes() if sample.picture else None
        except BadPicture as error:
            return str(error)

    with (
        progress() as bar,
        ThreadPoolExecutor(jobs or os.cpu_count()) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        task = bar.add_task(f"decoding {name}", total=None, unit="pictures", note="")
        while some := list(islice(samples, _NUM_AT_ONCE)):
            yield from zip(some, pool.map(pixels, some), strict=True)
            bar.advance(task, len(some))


def _numbered(
    samples: list[Sample], class_names: tuple[str, ...] | None, name: str
) -> tuple[list[Sample], tuple[str, ...] | None]:
    """Return the samples with the numbers of their classes, and the names of the classes."""
    labels = {sample.label for sample in samples}
    if labels <= {None}:
        return samples, None
    numbers: dict[Any, int]
    if any(isinstance(label, str) for label in labels):
        class_names = tuple(sorted(map(str, labels - {None})))
        numbers = {label: number for number, label in enumerate(class_names)}
    else:
        highest = max(int(label or 0) for label in labels)
        class_names = class_names or tuple(map(str, range(min(highest, _MAX_CLASSES - 1) + 1)))
        numbers = {number: number for number in range(len(class_names))}
    for sample in samples:
        if sample.label not in numbers:
            raise ValueError(
                f"{sample.key} in {name} has the label {sample.label!r}, none of the "
                f"{len(class_names)} classes: repair it, or ignore classes by --label None "
                "(--data.label None)"
            )
    return [sample._replace(label=numbers[sample.label]) for sample in samples], class_names


# --- division by keys ----------------------------------------------------------------------------


def divided(samples: Iterable[Sample]) -> list[list[Sample]]:
    """Divide images into sorted training, validation and test images.

    A dataset's splits are used where it has all three. Without `val`, 5 % of `train` are for
    validation. With `train` and `val` alone, as in ImageNet, a tenth of `val` is for validation and
    the rest for testing. Otherwise 5 % of all images are for each. Which ones is decided by a hash
    of their keys, so that images that are added do not move others.
    """
    groups: dict[str, list[Sample]] = {split: [] for split in SPLITS}
    for sample in samples:
        groups[sample.split].append(sample)
    train, val, test = groups.values()
    if train and test and not val:
        val, train = _held_out(train, _HELD_OUT)
    elif train and val and not test:
        val, test = _held_out(val, _VALIDATION_SHARE)
    elif not (train and val and test):
        val, rest = _held_out(train + val + test, _HELD_OUT)
        test, train = _held_out(rest, _HELD_OUT, lambda sample: 1 - hashed(sample))
    return [sorted(split, key=lambda sample: sample.key.split("/")) for split in (train, val, test)]


def hashed(sample: Sample) -> float:
    """Return a number in [0, 1) from a hash of an image's key, equal on every machine."""
    return int.from_bytes(hashlib.sha256(os.fsencode(sample.key)).digest()[:6], "big") / 2**48


def _held_out(
    samples: list[Sample], share: float, rank: Callable[[Sample], float] = hashed
) -> tuple[list[Sample], list[Sample]]:
    """Split off a share of the images by rank, at least one image."""
    ranked = sorted(samples, key=rank)
    num = max(1, sum(rank(sample) < share for sample in ranked))
    return ranked[:num], ranked[num:]


# --- decoding ------------------------------------------------------------------------------------


class BadPicture(Exception):
    """Error: an image cannot be decoded, for the reason that its message states."""


def decode(path: Path | bytes, size: int) -> UInt8[np.ndarray, "3 s s"]:
    """Decode an image file to a square RGB array, of `size` pixels after a crop at the centre.

    It is rotated by its EXIF tag; grey, palette and CMYK become RGB; transparency is laid on white;
    16-bit grey keeps its high byte. Callers turn Pillow's `DecompressionBombWarning` into an error.
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
