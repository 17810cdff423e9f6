"""Quantiles of the studentized range are Student's for two, and SciPy's for more."""

import math

import pytest
from scipy import stats

from elbos.comparison.statistics import range_quantile


@pytest.mark.parametrize("dof", [1, 1.5, 3, 20, 300])
@pytest.mark.parametrize("level", [1e-4, 0.025 / 3, 0.05, 0.5])
def test_of_two_numbers_it_is_students(level, dof):
    expected = math.sqrt(2) * stats.t(dof).isf(level / 2)
    assert range_quantile(level, 2, dof) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize(("num", "dof"), [(3, 1.0), (15, 8.0), (40, 60.0), (300, 30.0)])
def test_it_is_scipys(num, dof):
    expected = stats.studentized_range(num, dof).isf(0.025)
    assert range_quantile(0.025, num, dof) == pytest.approx(expected, rel=1e-7)
