"""Three trainers' settings against their losses written out: the noise levels that are drawn."""

import numpy as np
import pytest
import torch
from trainer_settings import LOSSES, SETTINGS, trainer_of

from elbos.adapters.trainers import Settings
from elbos.audit import DeclaredLoss

LEVELS = np.array([-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10.0])


def drawn(name, num_calls, seed):
    r"""The log-SNRs of what a loss gives its network: $\sigma\epsilon$ with data 0, and with data
    1 and the same draws $\alpha$ more.
    """
    zeros, inputs = torch.zeros(256, 2, 12, 12), []

    def network(*args, **kwargs):
        inputs.append([*args, *kwargs.values()][0].double().flatten(1))
        return torch.zeros_like(args[0] if args else kwargs["img"])

    levels = []
    for call in range(num_calls):
        for x in (zeros, zeros + 1):
            torch.manual_seed(1000 * seed + call)
            LOSSES[name](network, x)
        noise, signal = inputs[-2], inputs[-1] - inputs[-2]
        levels.append(torch.log(signal.square().mean(1) / noise.square().mean(1)))
    return torch.stack(levels).numpy()


@pytest.mark.parametrize("name", SETTINGS)
def test_levels_are_drawn_as_declared(name):
    levels = drawn(name, num_calls=12, seed=0)
    loss = trainer_of(name).loss(Settings(SETTINGS[name]))
    if isinstance(loss, DeclaredLoss):
        share = 1 - loss.schedule.time(torch.from_numpy(LEVELS)).numpy()
    else:
        is_below = loss.logsnr.numpy()[:, None] <= LEVELS
        share = (loss.probability.numpy()[:, None] * is_below).sum(0)
    is_below = (levels[..., None] <= LEVELS).mean(1)  # of each call, whose levels may be dependent
    variance = np.maximum(is_below.var(0, ddof=1), share * (1 - share) / levels.shape[1])
    z = np.abs(is_below.mean(0) - share) / np.sqrt(variance / len(levels) + 1e-6)
    assert z.max() < 4.5  # levels have errors of 8 %, by the norm of the noise
