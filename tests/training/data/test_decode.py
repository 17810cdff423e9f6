"""Pictures of any kind become small RGB squares."""

import numpy as np
import pytest
import torch
from PIL import Image

from elbos.training import data


def one(tmp_path, image, size, **kwargs):
    """The picture `image` as the data set gives it."""
    root = tmp_path / "one"
    name = kwargs.pop("name", "picture.png")
    for split in ("train", "val", "test"):
        (root / split).mkdir(parents=True, exist_ok=True)
        image.save(root / split / name, **kwargs)
    dataset = data.Images(path=str(root), size=size).load()
    assert torch.equal(dataset.train.x[:], dataset.test.x[:])
    return dataset.train.x[0]


def halves(width, height):
    """Left half red, right half blue."""
    image = Image.new("RGB", (width, height), (255, 0, 0))
    image.paste((0, 0, 255), (width // 2, 0, width, height))
    return image


RED, BLUE = torch.tensor([255, 0, 0]), torch.tensor([0, 0, 255])


@pytest.mark.parametrize("shape", [(64, 64), (128, 64), (64, 160), (512, 300)])
def test_the_centre_is_kept(tmp_path, shape):
    x = one(tmp_path, halves(*shape), size=16)
    assert torch.equal(x[:, :, :5].long(), RED[:, None, None].expand(3, 16, 5))
    assert torch.equal(x[:, :, 11:].long(), BLUE[:, None, None].expand(3, 16, 5))
    assert torch.equal(x[0], 255 - x[2])


def test_resizing_is_antialiased(tmp_path):
    checkers = Image.fromarray(np.indices((64, 64)).sum(0).astype(np.uint8) % 2 * 255)
    x = one(tmp_path, checkers, size=8).float()
    assert (x - 127.5).abs().max() < 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_respected(tmp_path, orientation):
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored turned left: shown turned right
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = Image.fromarray(np.arange(5 * 5 * 3, dtype=np.uint8).reshape(5, 5, 3))
    stored = upright.transpose(turn[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    x = one(tmp_path, stored, size=5, exif=exif)
    assert np.array_equal(x.permute(1, 2, 0), np.asarray(upright))


def palette():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return image


def palette_with_hole():
    image = palette()
    image.info["transparency"] = 1
    return image


def grey16(level, dtype=np.uint16):
    return Image.fromarray(np.full((4, 4), level, dtype))


MODES = {
    "grey": (Image.new("L", (4, 4), 77), (77, 77, 77)),
    "black and white": (Image.new("1", (4, 4), 1), (255, 255, 255)),
    "opaque": (Image.new("RGBA", (4, 4), (10, 20, 30, 255)), (10, 20, 30)),
    "transparent": (Image.new("RGBA", (4, 4), (10, 20, 30, 0)), (255, 255, 255)),
    "half": (Image.new("RGBA", (4, 4), (0, 0, 0, 51)), (204, 204, 204)),
    "grey with alpha": (Image.new("LA", (4, 4), (0, 51)), (204, 204, 204)),
    "palette": (palette(), (10, 20, 30)),
    "palette with hole": (palette_with_hole(), (255, 255, 255)),
    "CMYK": (Image.new("CMYK", (4, 4), (0, 255, 255, 0)), (255, 0, 0)),
    "16-bit": (grey16(0xAB00), (0xAB, 0xAB, 0xAB)),
    "16-bit white": (grey16(65535), (255, 255, 255)),
    "16-bit black": (grey16(255), (0, 0, 0)),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_becomes_rgb(tmp_path, mode):
    image, color = MODES[mode]
    x = one(tmp_path, image, size=3, name="x.jpg" if image.mode == "CMYK" else "x.png")
    assert x.unique_consecutive(dim=1).unique_consecutive(dim=2).flatten().tolist() == list(color)
