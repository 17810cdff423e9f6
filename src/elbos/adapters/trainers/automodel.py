r"""Trainer NeMo AutoModel: the flow-matching pipeline of its diffusion recipes, from a YAML file.

`components/flow_matching/pipeline.py` draws times by `timestep_sampling`: logit-normal, uniform, or
Stable Diffusion 3's mode of scale 1.29, shifted by `flow_shift`, by default 3. Of all but `uniform`
and `beta`, a share `mix_uniform_ratio` of the batches, by default 10 %, is uniform before the
shift. `beta` draws unshifted times; without `use_sigma_noise` they are uniform and unshifted.

The coefficient of $\|\hat u - (\epsilon - x)\|^2$ is, by default, $1 + st$ with the shift $s$, also
where times are not shifted; the bell $e^{-2(t - 1/2)^2} - e^{-1/2}$ (`bsmntw`), at the last of
1,000 steps, here half a step before $t$; or 1 without `use_loss_weighting`.

References:
    https://github.com/NVIDIA-NeMo/Automodel
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.trainers.flow import flow_loss, time_of
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.times import NUM_STEPS
from elbos.adapters.trainers.trainer import Option, Trainer, Values
from elbos.audit import DeclaredLoss
from elbos.theory.recipes.flow import bell
from elbos.theory.schedules import Beta, FlowTimes, Mixture, Mode, Normal, Schedule
from elbos.theory.schedules import Flow as Uniform

_SAMPLINGS = ("logit_normal", "uniform", "mode", "lognorm", "mix", "beta")


def _read(settings: Settings) -> DeclaredLoss:
    shift = settings.number("flow_shift", 3.0, above=0)
    schemes = ("linear", "bsmntw")
    scheme = settings.one_of("loss_weighting_scheme", "linear", schemes)
    is_weighted = settings.flag("use_loss_weighting", True)

    def coefficient(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        t = time_of(logsnr)
        if not is_weighted:
            return torch.ones_like(t)
        step = (t - 0.5 / NUM_STEPS).clamp(min=0.25 / NUM_STEPS)
        return 1 + shift * t if scheme == "linear" else bell(step)

    return flow_loss("NeMo AutoModel", _schedule(settings, shift), coefficient=coefficient)


def _schedule(settings: Settings, shift: float) -> Schedule:
    if not settings.flag("use_sigma_noise", True):
        return Uniform()
    sampling = settings.one_of("timestep_sampling", "logit_normal", _SAMPLINGS)
    if sampling == "beta":
        a, b = (
            settings.number("beta_alpha", 2.5, above=0),
            settings.number("beta_beta", 1.5, above=0),
        )
        return Beta(a=a, b=b)
    uniform = Uniform(shift=shift)
    share = settings.number("mix_uniform_ratio", 0.1, low=0)
    if sampling == "uniform" or share >= 1:
        return uniform
    main: Schedule = Normal.logit_normal(mean=math.log(shift), std=1.0)
    if sampling == "mode":
        main = FlowTimes(inner=Mode(scale=1.29), shift=shift)
    elif sampling == "logit_normal":
        mean, std = settings.number("logit_mean", 0), settings.number("logit_std", 1, above=0)
        main = Normal.logit_normal(mean=mean + math.log(shift), std=std)
    return Mixture(schedules=(main, uniform), shares=(1 - share, share)) if share else main


_SHIFT = {"flow_shift": (3.0, 0.05, 50.0)}
_PLAIN: Values = {"use_loss_weighting": False}
AUTOMODEL = Trainer(
    name="automodel",
    version="NeMo AutoModel after 0.5.0, 36044ad",
    package=("nemo-automodel", "0.5.0"),
    read=_read,
    is_flags=False,
    neutral={"sigma_min": 0, "sigma_max": 1},  # times outside are moved to the ends
    options=(
        Option(settings={"timestep_sampling": "uniform", **_PLAIN}, free=_SHIFT),
        Option(settings={"timestep_sampling": "uniform"}, free=_SHIFT),
        Option(settings={"mix_uniform_ratio": 0.0, **_PLAIN}, free=_SHIFT),
        Option(
            settings={"timestep_sampling": "beta", **_PLAIN},
            free={"beta_alpha": (2.5, 0.2, 10.0), "beta_beta": (1.5, 0.2, 10.0)},
        ),
    ),
)
