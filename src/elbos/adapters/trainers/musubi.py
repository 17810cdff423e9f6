r"""kohya's musubi-tuner: flags of `hv_train_network.py`, `wan_train_network.py` and others.

All of it is flow matching. `timestep_sampling sigma` draws one of 1,000 steps, which are counted
from noise to data and not shifted; the others draw continuous times. A range of steps either
stretches these (the default) or cuts them off (`preserve_distribution_shape`). Weights are of the
step that is nearest to $1000 t + 1$, here of $t + 1/1000$, which is less than a step away.
"""

import math
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers import Training
from elbos.adapters.diffusers.training import step_probability
from elbos.adapters.trainers import flow
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Option, Trainer
from elbos.audit import LossTable
from elbos.audit.diagnostics import Diagnostic, LogitMean
from elbos.theory import schedules
from elbos.theory.parameterizations import Flow
from elbos.theory.schedules import FlowTimes, Mixture, Normal, Schedule

Sampling = Literal[
    "sigma",
    "uniform",
    "sigmoid",
    "shift",
    "logsnr",
    "flux_shift",
    "flux2_shift",
    "qwen_shift",
    "krea2_shift",
    "ideogram4_shift",
    "qinglong_flux",
    "qinglong_qwen",
]
_NUM_STEPS = 1000
_FLUX, _QWEN, _KREA = (4096, 1.15), (8192, 0.9), (6400, 1.15)  # where lines of mu end: (tokens, mu)
_MOST_SHIFTED = {"qwen_shift": _QWEN, "qinglong_qwen": _QWEN, "krea2_shift": _KREA}
_DATA_LESS_NOISE = ("zimage", "ideogram4")  # scripts with the target of the other sign
_UNKNOWN = ("hidream_o1", "kandinsky5", "flux_2_train_network_self_flow")


def read(settings: Settings) -> Loss:
    """The loss that these flags train."""
    script = settings.text("script")
    if script.startswith(_UNKNOWN):
        raise ValueError(f"The loss of {script}.py is not known here.")
    is_ideogram = script.startswith("ideogram4")
    default: Sampling = "ideogram4_shift" if is_ideogram else "sigma"
    sampling: Sampling = settings.one_of("timestep_sampling", default, get_args(Sampling))
    low = settings.integer("min_timestep", 0, high=_NUM_STEPS - 1)
    high = settings.integer("max_timestep", _NUM_STEPS, low=1, high=_NUM_STEPS)
    if not low < high:
        raise ValueError(f"max_timestep is {high}: give more than min_timestep, {low}.")
    if sampling == "sigma":
        scheme = Training() if is_ideogram else flow.read_scheme(settings)
        loss: Loss = _of_steps(scheme, low, high)
    else:
        scheme = Training() if is_ideogram else _weights_only(settings)
        schedule, found = _times(settings, sampling)
        loss = flow.plain(_in_range(settings, schedule, low, high), found)

    def coefficient(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        t = flow.time_of(logsnr)
        step = t if sampling == "sigma" else (t + 1 / _NUM_STEPS).clamp(max=1)
        return flow.scheme_weight(scheme, step)

    sign = -1.0 if script.startswith(_DATA_LESS_NOISE) else 1.0
    return flow.weighted(loss, coefficient, title=f"musubi-tuner, {sampling}", factor=sign)


def _weights_only(settings: Settings) -> Training:
    """The scheme as far as it weighs: continuous times are not drawn by it."""
    scheme = settings.text("weighting_scheme", "none")
    return flow.read_scheme(settings) if scheme not in ("logit_normal", "mode") else Training()


def _of_steps(scheme: Training, low: int, high: int) -> LossTable:
    drawn = torch.arange(low, high, dtype=torch.float64)
    edges = torch.arange(high - low + 1, dtype=torch.float64) / (high - low)
    found = [LogitMean("musubi-tuner")] * (scheme.logit_mean != 0)
    return LossTable(
        title="musubi-tuner",
        logsnr=flow.logsnr_of((_NUM_STEPS - drawn) / _NUM_STEPS),
        probability=step_probability(scheme, edges),
        coefficient=torch.ones_like(drawn),
        parameterization=Flow(),
        diagnostics=tuple(found),
    )


def _times(settings: Settings, sampling: Sampling) -> tuple[Schedule, list[Diagnostic]]:
    """The distribution of continuous times, before a range of steps."""
    if sampling == "uniform":
        return schedules.Flow(), []
    if sampling == "logsnr":
        return _logsnr(settings), []
    mu, found = 0.0, list[Diagnostic]()
    if sampling == "shift":
        mu = math.log(settings.number("discrete_flow_shift", 1, above=0))
    elif sampling != "sigmoid":
        height, width, found = flow.resolution(settings)
        if sampling == "ideogram4_shift":
            mean = math.log(height * width / 512**2) / 2
            ends = {"logsnr_min": -18.0, "logsnr_max": 15.0}
            return Normal.logit_normal(mean=mean, std=1.5, **ends), found
        mu = flow.mu_of(height, width, high=_MOST_SHIFTED.get(sampling, _FLUX))
    main = Normal.logit_normal(mean=mu, std=settings.number("sigmoid_scale", 1, above=0))
    clean = Normal(mean=5.36, std=1)
    if sampling == "qinglong_flux":
        parts = (main, _logsnr(settings), clean)
        return Mixture(schedules=parts, shares=(0.79, 0.11, 0.1)), found
    if sampling == "qinglong_qwen":
        return Mixture(schedules=(main, clean), shares=(0.95, 0.05)), found
    return main, found


def _logsnr(settings: Settings) -> Normal:
    mean, std = settings.number("logit_mean", 0), settings.number("logit_std", 1, above=0)
    return Normal(mean=mean, std=std)


def _in_range(settings: Settings, schedule: Schedule, low: int, high: int) -> Schedule:
    """The times between two steps of 1,000: cut off there, or stretched to there."""
    is_cut = settings.flag("preserve_distribution_shape")
    if (low, high) == (0, _NUM_STEPS):
        return schedule
    if not is_cut:
        return FlowTimes(inner=schedule, time_min=low / _NUM_STEPS, time_max=high / _NUM_STEPS)
    times = torch.tensor([high, low], dtype=torch.float64) / _NUM_STEPS
    noisy, clean = flow.logsnr_of(times).tolist()
    return replace(
        schedule,
        logsnr_min=max(noisy, schedule.logsnr_min),
        logsnr_max=min(clean, schedule.logsnr_max),
    )


_SHIFTED = {
    "discrete_flow_shift": (1.0, 0.05, 50.0),
    "sigmoid_scale": (1.0, 0.1, 5.0),
}

MUSUBI = Trainer(
    name="musubi",
    version="musubi-tuner v0.3.4, 30c658c",
    read=read,
    options=(
        Option(settings={"timestep_sampling": "uniform"}),
        Option(settings={"timestep_sampling": "shift"}, free=_SHIFTED),
        Option(
            settings={"timestep_sampling": "logsnr"},
            free={"logit_mean": (0.0, -12.0, 12.0), "logit_std": (2.0, 0.2, 8.0)},
        ),
        *(
            Option(settings={"timestep_sampling": "uniform", "weighting_scheme": weight})
            for weight in ("cosmap", "sigma_sqrt")
        ),
        Option(
            settings={"timestep_sampling": "sigma", "weighting_scheme": "mode"},
            free={"mode_scale": (0.5, -0.9, 1.7)},
        ),
    ),
)
