"""One picture of any kind to a small RGB square, or the reason why it cannot be."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no others: some run programs


class BadPicture(Exception):
    """A picture that cannot be used; the message says why in a few words."""


def decode(path: Path | bytes, size: int) -> UInt8[np.ndarray, "3 s s"]:
    """Decode, resize the short side to `size`, crop the centre.

    Turned as its EXIF tag says; grey, palette and CMYK become RGB; transparency is laid on white;
    16-bit grey keeps its high byte. The filter is Lanczos, antialiased. The caller must turn
    Pillow's `DecompressionBombWarning` into an error.

    Args:
        path: A file, or its content.
        size: Height and width of the result.

    Returns:
        Levels of an RGB square.

    Raises:
        BadPicture: If the file is damaged, or no still picture of a known kind.
        OSError: If the file cannot be read.
        MemoryError: If memory is too small now.
    """
    try:
        square = _square(path, size)
    except (BadPicture, MemoryError):  # memory may be there the next time
        raise
    except UnidentifiedImageError as error:
        raise BadPicture("not an image") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadPicture("too many pixels") from error
    except Exception as error:  # decoders raise errors of every type on damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system: says nothing about the picture
        if str(error).startswith("out of memory"):  # so says Pillow
            raise MemoryError from error
        raise BadPicture((str(error) or type(error).__name__).splitlines()[0]) from error
    return np.asarray(square).transpose(2, 0, 1)


def _square(path: Path | bytes, size: int) -> Image.Image:
    if isinstance(path, Path) and not path.is_file():
        raise BadPicture("not a file")
    if (path.stat().st_size if isinstance(path, Path) else len(path)) == 0:
        raise BadPicture("empty")
    with Image.open(
        io.BytesIO(path) if isinstance(path, bytes) else path, formats=_FORMATS
    ) as image:
        # An MPO is a JPEG followed by previews or a second view: its first frame is the photo.
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise BadPicture("several frames")
        image.draft(None, (4 * size, 4 * size))  # JPEG: decode 4 times faster, at 4 times `size`
        rgb = _rgb(ImageOps.exif_transpose(image))
    return ImageOps.fit(rgb, (size, size), Image.Resampling.LANCZOS)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise BadPicture("floating-point pixels")
    if image.mode.startswith("I"):
        return _grey16(image).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _grey16(image: Image.Image) -> Image.Image:
    levels = np.asarray(image)
    if levels.min() < 0 or levels.max() > 65535:
        raise BadPicture("more than 16 bits")
    return Image.fromarray((levels // 256).astype(np.uint8))
