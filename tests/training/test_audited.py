"""The training loop, audited: its loss has the weighting that its configuration says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import DIGITS
from torch import nn

from elbos import audit
from elbos.theory import parameterizations, schedules, weightings
from elbos.training.loop import Loss, times

CASES = [
    (weightings.Sigmoid(k=2.0), schedules.Cosine(), parameterizations.V(), "v"),
    (weightings.EDM(), schedules.Normal(), parameterizations.EDM(), "edm"),
]


class Called(nn.Module):
    """A function in place of a network."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, z, logsnr, cond):
        return self.network(z, logsnr)


@pytest.mark.parametrize(("weighting", "schedule", "target", "name"), CASES, ids=repr)
def test_the_weighting_of_a_step_is_that_of_the_config(weighting, schedule, target, name):
    ends = replace(schedule, logsnr_min=-10.0, logsnr_max=10.0)
    config = replace(
        DIGITS,
        weighting=weighting,
        schedule=ends,
        parameterization=target,
        precision="fp32",
    )
    data = config.data.load()
    loss = Loss(
        config.build_network(data.spec),
        config.objective,
        data.null_cond,
        seed=config.seed,
        label_dropout=config.label_dropout,
    )
    # the audit sees this noise: the loop's own is computed from a counter
    loss.drawn = lambda x, cond, step, samples: (torch.randn_like(x), cond)
    step, samples = torch.tensor(0), torch.arange(config.batch_size)

    def loss_of_a_step(network, x):
        loss._called = Called(network)
        drawn = times(config.seed, int(torch.randint(10**6, ())), config.batch_size)
        levels = torch.stack(config.objective.levels(config.schedule.logsnr(drawn))).float()
        return loss(x, levels, None, step, samples).mean()

    x = 2 * torch.rand(config.batch_size, *data.shape) - 1
    result = audit.probe(loss_of_a_step, x, 1500)
    assert (result.parameterization, result.process) == (name, "variance preserving")
    assert result.diagnostics == []
    off = (result.weight / weighting(result.logsnr)).log().numpy()
    assert (np.abs(off - np.median(off)) < 4 * result.weight_error.numpy() + 0.01).all()
    assert np.median(result.weight_error) < 0.02
