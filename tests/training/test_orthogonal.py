"""Orthogonal matrices from products alone, against the singular value decomposition."""

import pytest
import torch

from elbos.training.optimizer import orthogonalized

SHAPES = [(16, 16), (8, 40), (40, 8), (24, 30)]


def with_values(shape, values, generator):
    """A matrix with these singular values, and its singular vectors."""
    u, _, v = torch.linalg.svd(
        torch.randn(shape, generator=generator, dtype=values.dtype), full_matrices=False
    )
    return u @ torch.diag(values) @ v, u, v


@pytest.mark.parametrize("shape", SHAPES)
def test_five_steps_are_a_polynomial_of_each_singular_value(shape, generator):
    """On the matrix or on its Gram matrix, of all matrices of a stack, in float64 to rounding."""
    values = torch.logspace(0, -4, min(shape), dtype=torch.float64)
    matrix, u, v = with_values(shape, values, generator)
    other = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = values / values.norm()
    for _ in range(5):
        x = 3.4445 * x - 4.7750 * x**3 + 2.0315 * x**5
    actual = orthogonalized(torch.stack([3 * matrix, other]), torch.float64)
    torch.testing.assert_close(actual[0], u @ torch.diag(x) @ v, rtol=0, atol=1e-6)
    torch.testing.assert_close(actual[1], orthogonalized(other[None], torch.float64)[0])


@pytest.mark.parametrize("shape", [*SHAPES, (64, 576)])
@pytest.mark.parametrize("num_orders", [0, 2, 5])
def test_half_precision_keeps_what_is_not_too_small(shape, num_orders, generator):
    """Singular values above 0.002 of the norm come out between 0.6 and 1.4, and no direction is
    longer than 1.5; the rest, which is not bfloat16's to tell, is no longer than that.
    """
    values = torch.logspace(0, -num_orders, min(shape))
    matrix, u, v = with_values(shape, values, generator)
    actual = orthogonalized(matrix[None])[0].float()
    remaining = (u.T @ actual @ v.T).diagonal()[values > 2e-3 * values.norm()]
    assert remaining.min() > 0.6
    assert remaining.max() < 1.4
    assert torch.linalg.matrix_norm(actual, 2) < 1.5


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_of_low_rank_or_zero_stays_one(shape, generator):
    """Rounding grows 500-fold in small singular values; it makes no direction out of nothing."""
    factors = [torch.randn(side, 3, generator=generator) for side in shape]
    low = factors[0] @ factors[1].T
    actual = orthogonalized(torch.stack([low, torch.zeros(shape)]), torch.float32)
    u, _, v = torch.linalg.svd(low, full_matrices=True)
    outside = u.T @ actual[0] @ v.T
    outside[:3, :3] = 0
    assert torch.linalg.matrix_norm(outside, 2) < 1e-3
    assert torch.equal(actual[1], torch.zeros(shape))
