"""The average of the weights, against quadrature."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from torch import Tensor, nn

from elbos.training.ema import EMA


def profile(relative_width: float, num_steps: int) -> Tensor:
    """The share of every step's weights in the average, and last that of the initial weights."""
    network = nn.Linear(num_steps + 1, 1, bias=False, dtype=torch.float64)
    basis = torch.eye(num_steps + 1, dtype=torch.float64)
    network.load_state_dict({"weight": basis[-1:]})
    ema = EMA(network, relative_width)
    for step in range(1, num_steps + 1):
        network.load_state_dict({"weight": basis[step - 1 : step]})
        ema.update(network, step)
    return ema.network.weight[0]


@pytest.mark.parametrize("relative_width", [0.03, 0.063, 0.1, 0.25])
@pytest.mark.parametrize("num_steps", [1, 7, 500])
def test_the_average_has_the_profile_of_a_power_function(
    relative_width: float, num_steps: int
) -> None:
    """The exponent from the width, and the shares of steps, by quadrature."""

    def width(exponent: float) -> float:
        moments = [quad(lambda x, m=m: x ** (exponent + m), 0, 1)[0] for m in range(3)]
        mean, square = moments[1] / moments[0], moments[2] / moments[0]
        return math.sqrt(square - mean**2) - relative_width

    exponent = brentq(width, 0, 100, xtol=1e-12)
    whole, _ = quad(lambda x: x**exponent, 0, num_steps)
    expected = [
        quad(lambda x: x**exponent, step - 1, step)[0] / whole for step in range(1, num_steps + 1)
    ]
    actual = profile(relative_width, num_steps)
    torch.testing.assert_close(actual.tolist(), [*expected, 0.0], rtol=0, atol=1e-7)


def test_buffers_of_the_average_are_those_of_the_network() -> None:
    network = nn.BatchNorm1d(2)
    ema = EMA(network, 0.063)
    network.running_mean.fill_(3.0)
    ema.update(network, 2)
    assert torch.equal(ema.network.running_mean, network.running_mean)
