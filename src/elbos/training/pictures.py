"""PNG images of samples: grids of images, and scatter plots of points in the plane."""

import io
import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

_MARGIN = 2  # pixels between images
_MAX_COLUMNS = 32  # asked for


def is_drawable(shape: tuple[int, ...]) -> bool:
    return shape == (2,) or (len(shape) == 3 and shape[0] in (1, 3))


def png(x: Float[Tensor, "n *d"], *, num_columns: int | None = None) -> bytes:
    """Draw images or points in the plane as a PNG.

    Images `[n, c, h, w]` form a grid, points `[n, 2]` a scatter plot. Images are in [-1, 1], points
    in [-2, 2]. Small images are enlarged by a whole factor to about 48 pixels, without
    interpolation. The grid is nearly square by default, and also where `num_columns` is more than
    32 or than there are images.
    """
    pixels = _scatter(x) if x.ndim == 2 else _grid(x, num_columns)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="png")
    return buffer.getvalue()


def _grid(x: Float[Tensor, "n c h w"], num_columns: int | None) -> UInt8[np.ndarray, "H W 3"]:
    scale = max(1, round(48 / x.shape[-1]))
    images = ((x.clamp(-1, 1) + 1) * 127.5).round().byte()
    images = images.repeat_interleave(scale, dim=2).repeat_interleave(scale, dim=3)
    tiles = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
    if num_columns is None or num_columns > min(len(tiles), _MAX_COLUMNS):
        num_columns = math.ceil(math.sqrt(len(tiles)))
    num_rows = math.ceil(len(tiles) / num_columns)
    height, width = tiles.shape[1] + _MARGIN, tiles.shape[2] + _MARGIN
    canvas = np.full((num_rows * height + _MARGIN, num_columns * width + _MARGIN, 3), 255, np.uint8)
    for i, tile in enumerate(tiles):
        top = _MARGIN + i // num_columns * height
        left = _MARGIN + i % num_columns * width
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


def _scatter(x: Float[Tensor, "n 2"], size: int = 512) -> UInt8[np.ndarray, "H W 3"]:
    canvas = np.full((size, size, 3), 255, np.uint8)
    column, row = (((x.clamp(-2, 2) / 2 + 1) * (size - 3) / 2).round().long() + 1).T.numpy()
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            canvas[size - 1 - row + dy, column + dx] = (31, 78, 160)
    return canvas
