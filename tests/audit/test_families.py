"""Fits of families of curves."""

import math

import pytest

from elbos.audit.density.families import fit_family


@pytest.mark.parametrize("start", [0.0, 0.5])
def test_a_rough_loss_does_not_hold_a_fit_at_its_start(start):
    """The loss falls by 1 on the way, with steps up and down of 0.001 that are 0.0001 long."""

    def loss(x):
        return abs(x - 1) + 1e-3 * math.sin(3e4 * x)

    assert fit_family(float, [start], loss) == pytest.approx([1], abs=5e-3)
