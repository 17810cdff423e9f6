"""Six trainers' settings against their losses written out and measured: the weighting."""

import numpy as np
import pytest
import torch
import trainer_losses
from audited import X
from trainer_settings import SETTINGS, trainer_of

from elbos import audit
from elbos.adapters.trainers import Settings
from elbos.audit import LossTable
from elbos.audit.matching import distance
from elbos.audit.measure import measure

# Of whose levels no density is measured well enough: Beta draws, and tables whose steps are not
# equally likely. Their levels are compared in `test_trainers_times`, here what is made of each.
ROUGH = [
    *("simpletuner_beta", "simpletuner_sd2x", "lerobot_pi0", "lerobot_pi0_beta"),
    *("lerobot_pi05_scale", "lerobot_smolvla", "ai_toolkit_content", "ai_toolkit_style_sigmoid"),
    *("ai_toolkit_lognorm_blend", "diffsynth_flux", "diffsynth_wan_low_noise"),
    "diffsynth_qwen_image",
]
FAST = ["torchtitan_flux", "simpletuner_flux", "diffusion_pipe_cosmos"]


def slow_but(names, fast):
    return [pytest.param(n, marks=[] if n in fast else pytest.mark.slow) for n in names]


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
    return distance(log_w, log_v, p / p.sum())


@pytest.mark.parametrize("name", slow_but([n for n in SETTINGS if n not in ROUGH], FAST))
def test_the_weighting_is_the_measured_one(name):
    found = declared(name)
    result = audit.probe(getattr(trainer_losses, name), X, 3000 if name in FAST else 20_000)
    assert agreement(found, result) < 0.02
    assert found.parameterization == result.parameterization
    assert found.parameterization_factor == result.parameterization_factor
    assert abs(found.share_pure_noise - result.share_pure_noise) < 4 * 0.001**0.5 / 3000**0.5


@pytest.mark.parametrize("name", slow_but(SETTINGS, ["ai_toolkit_bell"]))
def test_the_coefficient_is_the_measured_one(name):
    """What multiplies the error of the noise, of every sample."""
    samples = measure(getattr(trainer_losses, name), X, 2000, seed=0)
    loss = trainer_of(name).loss(Settings(SETTINGS[name]))
    is_drawn = samples.logsnr.isfinite() & (samples.eps_coefficient > 0)
    logsnr = samples.logsnr[is_drawn]
    if isinstance(loss, LossTable):
        step = (loss.logsnr[None] - logsnr[:, None]).abs().argmin(1)
        expected = loss.eps_coefficient[step]
    else:
        expected = loss.weighting(logsnr) / loss.schedule.log_density(logsnr).exp()
    ratio = (samples.eps_coefficient[is_drawn] / expected).log()
    assert ratio.std() < 0.02
