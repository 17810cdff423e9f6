"""What numbers of others weigh, beside the bound."""

import pytest
import torch

from elbos import Validator
from elbos.theory import oracles
from elbos.validation.page import protocols_table
from elbos.validation.protocols import equispaced_times, fixed_steps


def test_each_number_has_its_error_its_levels_and_their_weights():
    one = torch.ones(1)
    denoiser = oracles.GaussianMixture(one, torch.zeros(1, 2), one)
    validator = Validator(denoiser.sample(60)[0])
    protocols = [equispaced_times(3), fixed_steps(100, 900)]
    table = protocols_table(validator(denoiser), {p: p(validator, denoiser) for p in protocols})
    values, levels, weights = (
        [row[column].text if hasattr(row[column], "text") else row[column] for row in table.rows]
        for column in (1, 2, 3)
    )
    assert all("±" in value for value in values)
    for protocol, at, weight in zip(protocols, levels[1:], weights[1:], strict=True):
        numbers = [float(word.replace("−", "-")) for word in weight.split(", ")]
        assert numbers == pytest.approx(protocol.weights, rel=0.05)
        assert len(at.split(", ")) == len(numbers)
    # ε's mean squared error weighs all levels alike: 2 / m of ½‖ε̂ − ε‖²
    assert protocols[1].weights == pytest.approx([1.0, 1.0])
