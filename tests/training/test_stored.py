"""Rows of tensors that are in one file or in several are those of the whole."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from elbos.training.checkpoint import Stored


def stored(folder: Path, *parts: Tensor) -> Stored:
    """A tensor that was written in parts."""
    slices = []
    for i, part in enumerate(parts):
        save_file({"x": part}, folder / f"{i}.safetensors")
        slices.append(safe_open(folder / f"{i}.safetensors", "pt").get_slice("x"))
    return Stored(slices)


@pytest.mark.parametrize("sizes", [(7,), (3, 3, 1), (4, 3, 0)], ids=str)
def test_rows_are_those_of_the_whole(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    x = torch.arange(14, dtype=torch.bfloat16).reshape(7, 2)
    found = stored(tmp_path, *x.split(sizes))
    assert (found.shape, found.ndim, found.dtype) == (x.shape, x.ndim, x.dtype)
    assert torch.equal(found[...], x)
    for start in range(8):
        for stop in range(start, 9):
            assert torch.equal(found[start:stop], x[start:stop])


def test_what_was_read_outlives_its_file(tmp_path: Path) -> None:
    rows, number = stored(tmp_path, torch.ones(4, 3))[1:3], stored(tmp_path, torch.tensor(2.0))[...]
    assert number.shape == ()
    for file in tmp_path.iterdir():
        file.write_bytes(bytes(file.stat().st_size))
    assert torch.equal(rows, torch.ones(2, 3))
    assert number == 2


def test_parts_of_two_tensors_are_none_of_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\].*\[2, 4\]"):
        stored(tmp_path, torch.ones(2, 3), torch.ones(2, 4))
