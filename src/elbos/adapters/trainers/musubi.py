r"""Trainer musubi-tuner by kohya: losses from flags of `hv_train_network.py`,
`wan_train_network.py` and others.

All models use flow matching. `timestep_sampling sigma` draws one of 1,000 steps, counted from noise
to data and without a shift; other samplings draw continuous times. A range of steps stretches the
distribution of continuous times (the default) or truncates it (`preserve_distribution_shape`). The
weight is taken at the step nearest to $1000 t + 1$, here at $t + 1/1000$, less than one step away.
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers import Training
from elbos.adapters.diffusers.training import scheme_weight, step_probability
from elbos.adapters.trainers import flow
from elbos.adapters.trainers.flow import NUM_STEPS
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Trainer
from elbos.audit import diagnostics as kinds
from elbos.theory import schedules
from elbos.theory.schedules import FlowTimes, Mixture, Normal, Schedule

_SAMPLINGS = (
    *("sigma", "uniform", "sigmoid", "shift", "logsnr", "flux_shift", "flux2_shift", "qwen_shift"),
    *("krea2_shift", "ideogram4_shift", "qinglong_flux", "qinglong_qwen"),
)
_MOST_SHIFTED = {"qwen_shift": flow.QWEN, "qinglong_qwen": flow.QWEN, "krea2_shift": flow.KREA}
_DATA_LESS_NOISE = ("zimage", "ideogram4")  # scripts that predict data minus noise
_UNKNOWN = ("hidream_o1", "kandinsky5", "flux_2_train_network_self_flow")


def _read(settings: Settings) -> Loss:
    script = settings.text("script")
    if script.startswith(_UNKNOWN):
        raise ValueError(f"The loss of {script}.py is not supported.")
    is_ideogram = script.startswith("ideogram4")
    default = "ideogram4_shift" if is_ideogram else "sigma"
    sampling = settings.one_of("timestep_sampling", default, _SAMPLINGS)
    low, high = flow.steps_between(settings, "min_timestep", "max_timestep")
    scheme = Training()
    if is_ideogram:
        settings.one_of("weighting_scheme", "none", ("none",))
    else:
        is_distribution = settings.text("weighting_scheme") in ("logit_normal", "mode")
        if sampling == "sigma" or not is_distribution:
            scheme = flow.read_scheme(settings)
    if sampling == "sigma":
        t = (NUM_STEPS - torch.arange(low, high, dtype=torch.float64)) / NUM_STEPS
        edges = torch.arange(high - low + 1, dtype=torch.float64) / (high - low)
        if scheme.logit_mean:
            settings.diagnostics.append(kinds.LogitMean(scheduler="musubi-tuner"))
        loss: Loss = flow.flow_table("musubi-tuner", t, step_probability(scheme, edges))
    else:
        schedule = _in_range(settings, _times(settings, sampling), low, high)
        loss = flow.flow_loss("musubi-tuner", schedule)

    def coefficient(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        t = flow.time_of(logsnr)
        step = t if sampling == "sigma" else (t + 1 / NUM_STEPS).clamp(max=1)
        return scheme_weight(scheme, step)

    sign = -1.0 if script.startswith(_DATA_LESS_NOISE) else 1.0
    return flow.weighted(loss, coefficient, title=f"musubi-tuner, {sampling}", factor=sign)


def _times(settings: Settings, sampling: str) -> Schedule:
    if sampling == "uniform":
        return schedules.Flow()
    if sampling == "logsnr":
        return _logsnr(settings)
    mu = 0.0
    if sampling == "shift":
        mu = math.log(settings.number("discrete_flow_shift", 1, above=0))
    elif sampling != "sigmoid":
        height, width = flow.resolution(settings)
        if sampling == "ideogram4_shift":
            mean = math.log(height * width / 512**2) / 2
            ends = {"logsnr_min": -18.0, "logsnr_max": 15.0}
            return Normal.logit_normal(mean=mean, std=1.5, **ends)
        mu = flow.mu_of(height, width, high=_MOST_SHIFTED.get(sampling, flow.FLUX))
    main = Normal.logit_normal(mean=mu, std=settings.number("sigmoid_scale", 1, above=0))
    clean = Normal(mean=5.36, std=1)
    if sampling == "qinglong_flux":
        parts = (main, _logsnr(settings), clean)
        return Mixture(schedules=parts, shares=(0.79, 0.11, 0.1))
    if sampling == "qinglong_qwen":
        return Mixture(schedules=(main, clean), shares=(0.95, 0.05))
    return main


def _logsnr(settings: Settings) -> Normal:
    mean, std = settings.number("logit_mean", 0), settings.number("logit_std", 1, above=0)
    return Normal(mean=mean, std=std)


def _in_range(settings: Settings, schedule: Schedule, low: int, high: int) -> Schedule:
    is_cut = settings.flag("preserve_distribution_shape")
    if (low, high) == (0, NUM_STEPS):
        return schedule
    if not is_cut:
        return FlowTimes(inner=schedule, time_min=low / NUM_STEPS, time_max=high / NUM_STEPS)
    times = torch.tensor([high, low], dtype=torch.float64) / NUM_STEPS
    noisy, clean = flow.logsnr_of(times).tolist()
    return replace(
        schedule,
        logsnr_min=max(noisy, schedule.logsnr_min),
        logsnr_max=min(clean, schedule.logsnr_max),
    )


MUSUBI = Trainer(
    name="musubi",
    version="musubi-tuner v0.3.4, 30c658c",
    package=("musubi-tuner", "0.3.4"),
    read=_read,
)
