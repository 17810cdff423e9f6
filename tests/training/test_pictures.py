"""Grids of samples."""

import io

import pytest
import torch
from PIL import Image

from elbos.training.pictures import png


@pytest.mark.parametrize(
    ("num_images", "num_columns", "found"),
    [
        (30, 10, (10, 3)),
        (64, None, (8, 8)),
        (4, 10, (2, 2)),
        (64, 1000, (8, 8)),
        (400, 100, (20, 20)),
    ],
)
def test_a_grid_is_no_wider_than_its_images(
    num_images: int, num_columns: int | None, found: tuple[int, int]
) -> None:
    drawn = png(torch.zeros(num_images, 3, 48, 48), num_columns=num_columns)
    with Image.open(io.BytesIO(drawn)) as image:
        assert image.size == tuple(50 * num + 2 for num in found)
