"""The trainer, audited: its loss, as a step computes it, is the weighting that its config says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import DIGITS
from torch import nn

from elbos import audit
from elbos.base.processes import Processes
from elbos.theory import parameterizations, schedules, weightings
from elbos.training.directory import RunDirectory
from elbos.training.trainer import Trainer

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
def test_the_weighting_of_a_step_is_that_of_the_config(
    weighting, schedule, target, name, tmp_path: Path
):
    ends = replace(schedule, logsnr_min=-10.0, logsnr_max=10.0)
    config = replace(
        DIGITS,
        weighting=weighting,
        schedule=ends,
        parameterization=target,
        precision="fp32",
    )
    trainer = Trainer(config, RunDirectory(tmp_path), config.data.load(), Processes.joined())

    def loss_of_a_step(network, x):
        loss = trainer.loss
        loss._called = Called(network)
        # the audit sees this noise: the trainer's own is computed from a counter
        loss.drawn = lambda x, cond, step, samples: (torch.randn_like(x), cond)
        trainer.state.step = int(torch.randint(10**6, ()))
        levels = trainer.objective.levels(trainer.logsnr()).float()
        return loss(x, levels, None, trainer.number, trainer.samples).mean()

    x = 2 * torch.rand(config.batch_size, *trainer.data.spec.shape) - 1
    result = audit.probe(loss_of_a_step, x, 1500)
    assert (result.parameterization, result.process) == (name, "variance preserving")
    assert result.diagnostics == []
    off = (result.weight / weighting(result.logsnr)).log().numpy()
    assert (np.abs(off - np.median(off)) < 4 * result.weight_error.numpy() + 0.01).all()
    assert np.median(result.weight_error) < 0.02
