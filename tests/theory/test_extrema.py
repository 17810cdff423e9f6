"""Where a function rises: exact on what is known, and silent about noise and plateaus."""

import math
from itertools import pairwise

import pytest
import torch

from elbos.theory.extrema import rising_intervals


def test_a_sum_of_bumps_has_its_known_extrema():
    """Polynomial with derivative -(x + 3)(x + 1)(x - 2)(x - 4), which is > 0 on the two rises."""
    derivative = [1.0]
    for root in (-3.0, -1.0, 2.0, 4.0):
        padded = [0.0, *derivative]
        derivative = [a - root * b for a, b in zip(padded, [*derivative, 0.0], strict=True)]

    def f(x):
        return 500 - sum(c * x ** (k + 1) / (k + 1) for k, c in enumerate(derivative))

    rises = rising_intervals(f, -5.0, 5.0)
    torch.testing.assert_close(rises, [(-3.0, -1.0), (2.0, 4.0)], rtol=0, atol=1e-6)


@pytest.mark.parametrize("phase", [0.0, 0.1234, 1.0])
def test_a_sine_rises_between_its_turns(phase):
    rises = rising_intervals(lambda x: 2 + torch.sin(x + phase), -10.0, 10.0)
    turns = [math.pi * (k + 0.5) - phase for k in range(-6, 7)]
    ends = [-10.0, *[x for x in turns if -10 < x < 10], 10.0]
    pairs = [(a, b) for a, b in pairwise(ends) if math.cos((a + b) / 2 + phase) > 0]
    torch.testing.assert_close(rises, pairs, rtol=0, atol=1e-6)


def test_a_rise_at_either_end_keeps_the_end():
    assert rising_intervals(torch.exp, -3.0, 2.0) == [(-3.0, 2.0)]
    [(start, end)] = rising_intervals(torch.cosh, -3.0, 2.0)
    assert start == pytest.approx(0, abs=1e-6)
    assert end == 2.0


FLAT_OR_FALLING = {
    "constant": torch.ones_like,
    "zero": torch.zeros_like,
    "falling": lambda x: torch.exp(-x),
    "negative and falling": lambda x: -torch.exp(x),
    "plateau": lambda x: torch.exp(-x.clamp(min=1.0)),
    "stairs": lambda x: 5 - torch.floor(x / 5),
    "underflow": lambda x: torch.exp(-50 * (x + 20)),
}


@pytest.mark.parametrize("f", FLAT_OR_FALLING.values(), ids=FLAT_OR_FALLING)
def test_what_never_rises_has_no_rise_even_in_float32(f):
    assert rising_intervals(f, -20.0, 20.0) == []
    assert rising_intervals(lambda x: f(x.float()), -20.0, 20.0) == []


@pytest.mark.parametrize(
    "f", [torch.ones_like, lambda x: torch.exp(-x / 50)], ids=["flat", "slope"]
)
def test_rounding_noise_is_no_rise(f):
    """Noise of three float32 roundings, on a plateau and on a slope it overwhelms locally."""
    noise = torch.rand(8193, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert rising_intervals(lambda x: f(x) * (1 + 3e-7 * noise), -20.0, 20.0) == []


def test_noise_does_not_split_a_rise():
    noise = torch.rand(8193, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def f(x):
        clean = torch.exp(-((x - 1) ** 2) / 50)
        return clean * (1 + 3e-7 * noise) if x.ndim else clean

    [(start, end)] = rising_intervals(f, -20.0, 20.0)
    assert start == pytest.approx(-20, abs=0.02)
    assert end == pytest.approx(1, abs=0.05)


def test_a_rise_between_plateaus_excludes_them():
    [(start, end)] = rising_intervals(lambda x: 3 + x.clamp(-2.0, 3.0), -20.0, 20.0)
    assert start == pytest.approx(-2, abs=0.01)
    assert end == pytest.approx(3, abs=0.01)


def test_jumps_rise_where_they_jump():
    rises = rising_intervals(lambda x: torch.where((x > 1) & (x < 4), 2.0, 1.0), -20.0, 20.0)
    assert len(rises) == 1
    torch.testing.assert_close(rises[0], (1.0, 1.0), rtol=0, atol=0.01)


@pytest.mark.parametrize("sign", [1, -1], ids=["fall", "jump up while falling"])
def test_a_rise_ends_on_its_own_side_of_a_jump(sign, generator):
    """A sigmoid that jumps at a random log-SNR, between points of the grid and on any side."""

    def f(x, jump):
        return sign * (torch.sigmoid(x) - 5 * (x >= jump)) + 10

    for jump in (20 * torch.rand(50, dtype=torch.float64, generator=generator) - 10).tolist():
        rises = rising_intervals(lambda x, j=jump: f(x, j), -15.0, 15.0)
        height = f(torch.tensor(rises, dtype=torch.float64), jump).diff(dim=1).sum().item()
        assert height == pytest.approx(1.0 if sign == 1 else 5.0, abs=2e-3)


def test_a_rise_counts_from_the_relative_tolerance_on():
    def step(height):
        return lambda x: 1 + height * torch.sigmoid(x)

    assert rising_intervals(step(5e-7), -20.0, 20.0) == []
    assert len(rising_intervals(step(5e-6), -20.0, 20.0)) == 1


def test_small_values_count_as_much_as_large_ones():
    """On a floor of 3e-7, nine decades below the maximum: relative to it 1e-5 counts, 1e-7 not."""

    def f(height):
        floor = torch.tensor(3e-7)
        return lambda x: torch.exp(-x) + floor + height * floor * torch.exp(-((x - 30) ** 2))

    assert len(rising_intervals(f(1e-5), -6.0, 40.0)) == 1
    assert rising_intervals(f(1e-7), -6.0, 40.0) == []


def test_an_empty_range_and_an_infinite_value_are_refused():
    for low, high in ((1.0, 1.0), (-math.inf, 1.0), (0.0, math.nan)):
        with pytest.raises(ValueError, match=rf"\[{low}, {high}\]"):
            rising_intervals(torch.exp, low, high)
    with pytest.raises(ValueError, match="log-SNR 0"):
        rising_intervals(lambda x: 1 / x, -1.0, 1.0)
