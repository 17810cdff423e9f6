"""Samples that no training can use are named before it sees them."""

import math

import pytest
import torch

from elbos.base.items import Items

ROWS = torch.tensor([4, 7, 1, 7])


@pytest.mark.parametrize("is_bounded", [True, False])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [torch.Tensor, list])
def test_numbers_that_are_not_finite_are_refused_by_their_sample(kind, value, is_bounded):
    x = torch.zeros(9, 2, 3)
    x[7, 1, 2] = value
    items = Items(x if kind is torch.Tensor else list(x), is_bounded)
    with pytest.raises(ValueError, match=r"\b7\b[^\n]*NaN"):
        items.batch(ROWS)
    assert torch.equal(items.batch(ROWS[[0, 2]])[0], x[[4, 1]])


@pytest.mark.parametrize("value", [1.1, -1.1])
def test_numbers_beyond_the_bounds_are_refused_unless_they_are_latents(value):
    x = torch.zeros(9, 2, 3)
    x[7, 1, 2] = value
    with pytest.raises(ValueError, match=f"{value}.*is_bounded"):
        Items(x).batch(ROWS)
    assert torch.equal(Items(x, is_bounded=False).batch(ROWS)[0], x[ROWS])


@pytest.mark.parametrize("kind", [torch.Tensor, list])
def test_to_item_makes_the_items_of_a_tensor_as_of_a_list(kind):
    x = torch.linspace(0, 1, 54).view(9, 2, 3)
    items = Items(x if kind is torch.Tensor else list(x), to_item=lambda item: (-item, item[0]))
    batch, cond = items.batch(ROWS)
    assert torch.equal(batch, -x[ROWS]) and torch.equal(cond, x[ROWS, 0])
