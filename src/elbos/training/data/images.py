"""Decoding of image files to small RGB squares."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

EXTENSIONS = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # some other formats run programs


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
