"""Norms: those for GPUs are torch's, and what goes in comes out in its precision and layout."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elbos.models.networks.norms import GroupNorm, group_norm, layer_norm, upsampled

SHAPE = (2, 6, 4, 6)


def draw(dtype: torch.dtype) -> list[Tensor]:
    """An input far from zero, weights and biases."""
    generator = torch.Generator().manual_seed(0)
    h = 3 + torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    weight, bias = torch.randn(2, SHAPE[1], generator=generator, dtype=torch.float64)
    h = h.to(memory_format=torch.channels_last)
    return [each.to(dtype).requires_grad_() for each in (h, weight, bias)]


def test_group_norm_and_its_gradients_are_torchs() -> None:
    h, weight, bias = inputs = draw(torch.float64)
    expected = F.group_norm(h, 2, weight, bias, 1e-5)
    actual = group_norm(h, 2, weight, bias, 1e-5)
    grad = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(actual, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_group_norm_and_its_gradient_lose_no_digits_far_from_zero(
    dtype: torch.dtype, mean: float
) -> None:
    """Of torch's in float64 at the same input, the error is that of rounding the result and, in
    float32, of three numbers as large as the mean. rms of 12,544 numbers.
    """
    generator = torch.Generator().manual_seed(0)
    h, grad = torch.randn(2, 2, 32, 14, 14, generator=generator).to(dtype)
    weight, bias = 1 + 0.1 * torch.randn(2, 32, generator=generator)
    x = (h + mean).requires_grad_()
    exact_x, exact_weight, exact_bias = (t.detach().double() for t in (x, weight, bias))
    y = group_norm(x, 4, weight, bias, 1e-5)
    exact_y = F.group_norm(exact_x.requires_grad_(), 4, exact_weight, exact_bias, 1e-5)
    (slope,) = torch.autograd.grad(y, x, grad)
    (exact_slope,) = torch.autograd.grad(exact_y, exact_x, grad.double())
    for actual, exact in ((y, exact_y), (slope, exact_slope)):
        error, rounding = (
            (t.double() - exact).square().mean().sqrt() for t in (actual, exact.to(dtype))
        )
        assert actual.dtype == dtype
        assert error < 1.1 * rounding + 3 * 2**-24 * (1 + mean)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_precision_and_layout_stay(dtype: torch.dtype) -> None:
    h, weight, bias = draw(torch.float32)
    h = h.detach().to(dtype).requires_grad_()
    y = group_norm(h, 2, weight, bias, 1e-5)
    (grad,) = torch.autograd.grad(y.float().sum(), h)
    for each in (y, grad, upsampled(h)):
        assert each.dtype == dtype
        assert each.is_contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        assert GroupNorm(2, 6)(h).dtype == layer_norm(h).dtype == dtype


@pytest.mark.filterwarnings("ignore:<class 'torch.autograd:DeprecationWarning")  # of dynamo's own
def test_one_graph() -> None:
    h, weight, bias = draw(torch.float32)
    compiled = torch.compile(group_norm, backend="eager", fullgraph=True)
    torch.testing.assert_close(
        compiled(h, 2, weight, bias, 1e-5), group_norm(h, 2, weight, bias, 1e-5)
    )
