"""The average of the weights, against quadrature."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import brentq
from torch import Tensor, nn

from elbos.training.config import Averaging
from elbos.training.ema import EMA


def profile(relative_width: float, num_steps: int) -> Tensor:
    """The share of every step's weights in the average, and last that of the initial weights."""
    network = nn.Linear(num_steps + 1, 1, bias=False, dtype=torch.float64)
    basis = torch.eye(num_steps + 1, dtype=torch.float64)
    network.load_state_dict({"weight": basis[-1:]})
    ema = EMA(network, Averaging(relative_width=relative_width))
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
    found = profile(relative_width, num_steps)
    torch.testing.assert_close(found.tolist(), [*expected, 0.0], rtol=0, atol=1e-7)


def test_averages_of_several_widths_are_those_of_each_alone(generator: torch.Generator) -> None:
    """Of weights, buffers as the network has them; and the group that each has in a checkpoint."""
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    widths = {"ema": 0.063, "ema_0_05": 0.05, "ema_0_1": 0.1}
    several = EMA(network, Averaging(snapshot_widths=(0.05, 0.1)))
    alone = {g: EMA(network, Averaging(relative_width=w)) for g, w in widths.items()}
    for step in range(1, 6):
        for tensor in [*network.parameters(), *network.buffers()]:
            tensor.data = torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
        for ema in (several, *alone.values()):
            ema.update(network, step)
    assert several.widths == widths
    for group, ema in alone.items():
        expected, found = ema.network.state_dict(), several.networks[group].state_dict()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert not torch.equal(several.network[0].weight, several.networks["ema_0_1"][0].weight)
    assert torch.equal(several.networks["ema_0_1"][1].running_mean, network[1].running_mean)
