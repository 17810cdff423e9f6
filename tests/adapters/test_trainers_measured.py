"""Three trainers' settings against their losses written out: the levels, and the weighting."""

import numpy as np
import pytest
import torch
from audited import X
from trainer_settings import LOSSES, SETTINGS, trainer_of

from elbos import audit
from elbos.adapters.trainers import Settings
from elbos.audit import DeclaredLoss, LossTable
from elbos.audit.density.distance import spread
from elbos.audit.probing.measure import measuring

FAST = ["simpletuner_flux", "diffusion_pipe_cosmos"]
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


def declared(name):
    return trainer_of(name).audit(Settings(SETTINGS[name]))


def agreement(found, result):
    """The distance of two weightings over the levels that are drawn."""
    low = max(found.logsnr[0].item(), result.logsnr[0].item())
    high = min(found.logsnr[-1].item(), result.logsnr[-1].item())
    grid = torch.linspace(low, high, 2001, dtype=torch.float64)
    log_p = np.interp(grid, found.logsnr, found.density.log())
    p = np.exp(log_p - log_p.max())
    log_w, log_v = found.weighting(grid).log().numpy(), result.weighting(grid).log().numpy()
    return spread(log_w - log_v, p / p.sum())


@pytest.mark.parametrize("name", FAST)
def test_the_weighting_is_the_measured_one(name):
    found = declared(name)
    result = audit.probe(LOSSES[name], X, 3000)
    assert agreement(found, result) < 0.02
    assert {found.verdict, result.verdict} != {"monotone", "not monotone"}
    assert found.parameterization == result.parameterization
    assert found.parameterization_factor == result.parameterization_factor
    assert abs(found.share_pure_noise - result.share_pure_noise) < 4 * 0.001**0.5 / 3000**0.5


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n == "ai_toolkit_bell" else pytest.mark.slow) for n in SETTINGS],
)
def test_every_sample_and_all_together_weigh_as_declared(name):
    """What multiplies the error of the noise, and the share of the coefficients' sum up to each of
    99 noise levels, whose sampling error is up to .4 % of 20,000 samples.
    """
    with measuring(LOSSES[name], X, 20_000, seed=0) as measurement:
        samples = measurement.samples(20_000)
    loss = trainer_of(name).loss(Settings(SETTINGS[name]))
    is_drawn = samples.logsnr.isfinite() & (samples.eps_coefficient > 0)
    logsnr, c = samples.logsnr[is_drawn], samples.coefficient[is_drawn]
    few = logsnr[:2000]
    if isinstance(loss, LossTable):
        expected = loss.eps_coefficient[(loss.logsnr[None] - few[:, None]).abs().argmin(1)]
        at, mass = loss.logsnr, loss.probability * loss.coefficient
    else:
        expected = loss.weighting(few) / loss.schedule.log_density(few).exp()
        at = loss.schedule.logsnr((torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000)
        mass = loss.coefficient(at)
    ratio = samples.eps_coefficient[is_drawn][:2000] / expected
    assert ratio.log().std() < 0.02
    levels = np.quantile(logsnr, np.arange(1, 100) / 100) + 1e-3  # no step is both sides of one
    finite = at.isfinite()
    difference = share(at[finite], mass[finite], levels) - share(logsnr, c, levels)
    assert np.abs(difference).max() < 0.02


def share(at, mass, levels):
    """How much of a mass is at levels up to each of these."""
    order = at.argsort()
    total = np.append(0.0, mass[order].cumsum(0).numpy())
    return total[np.searchsorted(at[order].numpy(), levels, side="right")] / total[-1]
