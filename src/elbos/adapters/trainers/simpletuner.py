r"""SimpleTuner: continuous times for flow models, segments of a table for Stable Diffusion.

`simpletuner/helpers/models/common.py`, `sample_flow_sigmas`: $t = \mathrm{sigmoid}(a n)$ with
$n \sim N(0, 1)$ and $a$ = `flow_sigmoid_scale`; or uniform; or
$\mathrm{Beta}(\alpha, \beta)$; or a density through the knots `flow_cubic_schedule_weights`, which
counts more than the others. Then (`custom_schedule.py`) the shift `flow_schedule_shift`, 3 if it is
left out and none if 0, or one by resolution with `flow_schedule_auto_shift`. The two networks of
Wan 2.2 have a shift of 5, whatever is given. The loss is the plain
$\|\hat u - (\epsilon - x)\|^2$.

Stable Diffusion's steps: one from each of `train_batch_size` segments of the table, noise first,
which share their ends, or from all of it, with one or `disable_segmented_timestep_sampling`;
`timestep_bias_*` multiplies weights, within a segment only. SDXL's refiner has the cleanest
`refiner_training_strength` of the table, if there are segments. Stable Diffusion 2's table ends at
zero SNR, whatever `rescale_betas_zero_snr` says. The coefficient is
$\min(\rho, \gamma)/\rho$ with $\rho$ the SNR; the divisor is $\rho + 1$ only where the model's own
scheduler file says v_prediction, whatever `prediction_type` does.

References:
    https://github.com/bghira/SimpleTuner
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import PchipInterpolator
from torch import Tensor

from elbos.adapters.trainers.flow import plain, time_of
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.times import (
    findings,
    fine_table,
    shifts_by_resolution,
    stable_diffusion_logsnr,
)
from elbos.adapters.trainers.trainer import Loss, Option, Trainer
from elbos.audit import LossTable
from elbos.audit.diagnostics import (
    DeclaredDivisor,
    DeclaredNoise,
    DeclaredNotSquared,
    DeclaredOverride,
    DeclaredPerturbed,
    DeclaredTarget,
    DeclaredTerm,
    Diagnostic,
    SettingIgnored,
)
from elbos.theory.parameterizations import Eps, V
from elbos.theory.schedules import Beta, FlowTimes, Normal, Schedule
from elbos.theory.schedules import Flow as Uniform

_N = 1000
_IS_V = {"sdxl": False, "sd1x": False, "sd2x": True}  # the prediction of the scheduler's file
_FLOW_MODELS = (
    *("flux", "flux2", "sd3", "auraflow", "chroma", "hidream", "hunyuanvideo", "krea2", "lumina2"),
    *("ltxvideo", "qwen_image", "wan", "z_image", "kandinsky5_image", "kandinsky5_video", "ernie"),
)
_MOST_SHIFTED = {"qwen_image": (8192, 0.9)}  # where the line of mu ends: (tokens, mu)
_WAN_SHIFTS = {"2.2": 5.0, "animegen": 3.0}  # by a part of `model_flavour`
_FINDINGS = {
    "input_perturbation": DeclaredPerturbed,
    "use_soft_min_snr": SettingIgnored,  # no loss reads it
    "mixflow_enabled": DeclaredTarget,
    "twinflow_enabled": DeclaredTarget,
    "distillation_method": DeclaredTarget,
    "scheduled_sampling_max_step_offset": DeclaredTarget,
    **dict.fromkeys(("crepa_self_flow", "xm_enabled"), DeclaredTarget),
    "scheduled_sampling_reflexflow": DeclaredTerm,
    "irepa_enabled": DeclaredTerm,
    **dict.fromkeys(("crepa_enabled", "urepa_enabled", "layersync_enabled"), DeclaredTerm),
    **dict.fromkeys(("internal_guidance_enabled", "nextlat_enabled"), DeclaredTerm),
}


def _read(settings: Settings) -> Loss:
    family = settings.one_of("model_family", "flux", (*_FLOW_MODELS, *_IS_V))
    found = findings(settings, _FINDINGS)
    settings.require_default({"diffusion_blocks_config": 0})
    if settings.one_of("loss_type", "l2", ("l2", "huber", "smooth_l1")) != "l2":
        found += (DeclaredNotSquared("loss_type"),)
    if family in _IS_V:
        noise = {"offset_noise": DeclaredNoise, "diff2flow_loss": DeclaredTarget}
        return _diffusion(settings, family, found + findings(settings, noise))
    return _flow(settings, family, found)


def _flow(settings: Settings, family: str, found: tuple[Diagnostic, ...]) -> Loss:
    shift, assumed = _shift(settings, family)
    found = (*found, *assumed)
    for name in ("flow_custom_timesteps", "flux_fast_schedule"):
        if settings.text(name, "false").lower() not in ("false", "0", "", "[]"):
            raise ValueError(f"{name} draws a few fixed times, of which no curve is known here.")
    is_normal = not any(map(settings.flag, ("flow_use_uniform_schedule", "flow_use_beta_schedule")))
    if family == "chroma" and is_normal:
        raise ValueError(
            "model_family chroma moves logit-normal times towards both ends, which is not computed "
            "here: the loss with flow_use_uniform_schedule or flow_use_beta_schedule is."
        )
    knots = settings.numbers("flow_cubic_schedule_weights")
    if len(knots) > 1:
        density = _through_knots(knots, shift)
        return fine_table("SimpleTuner, cubic schedule", density, diagnostics=found)
    if knots or settings.flag("flow_use_uniform_schedule"):
        schedule: Schedule = Uniform(shift=shift)
    elif settings.flag("flow_use_beta_schedule"):
        alpha = settings.number("flow_beta_schedule_alpha", 2.0, above=0)
        beta = settings.number("flow_beta_schedule_beta", 2.0, above=0)
        schedule = FlowTimes(inner=Beta(a=alpha, b=beta), shift=shift)
    else:
        scale = settings.number("flow_sigmoid_scale", 1.0, above=0)
        mean = scale * settings.number("timestep_sampling_offset", 0.0)
        schedule = Normal.logit_normal(mean=mean + math.log(shift), std=scale)
    return plain(schedule, found)


def _shift(settings: Settings, family: str) -> tuple[float, tuple[Diagnostic, ...]]:
    static = settings.number("flow_schedule_shift", 3.0, low=0)
    flavour = settings.text("model_flavour")
    own = next((s for part, s in _WAN_SHIFTS.items() if family == "wan" and part in flavour), None)
    if own is not None:
        return own, (DeclaredOverride("flow_schedule_shift", f"{own:g}"),)
    if not settings.flag("flow_schedule_auto_shift"):
        return static or 1.0, ()
    high = _MOST_SHIFTED.get(family, (4096, 1.15))
    shifts, assumed = shifts_by_resolution(settings, "resolution", high=high)
    return shifts[0], assumed


def _through_knots(
    knots: list[float], shift: float
) -> Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]:
    r"""The log-density of log-SNR: $\pi(t)\,t(1 - t)$ with the monotone cubic $\pi$ through the
    knots, before the shift.
    """
    if min(knots) < 0 or max(knots) == 0:
        raise ValueError("flow_cubic_schedule_weights has no mass: give weights of 0 or more.")
    spline = PchipInterpolator(np.linspace(0, 1, len(knots)), knots)

    def log_density(logsnr: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        t = time_of(logsnr + 2 * math.log(shift))
        return torch.from_numpy(spline(t)).clamp(min=1e-300).log() + torch.log(t * (1 - t))

    return log_density


def _diffusion(settings: Settings, family: str, found: tuple[Diagnostic, ...]) -> LossTable:
    words = ("epsilon", "v_prediction")
    is_v = settings.one_of("prediction_type", words[_IS_V[family]], words) == "v_prediction"
    is_zero = settings.flag("rescale_betas_zero_snr")
    if family == "sd2x" and not is_zero:
        is_zero = True
        found += (DeclaredOverride("rescale_betas_zero_snr", "true"),)
    is_refiner = family == "sdxl" and "refiner" in settings.text("model_flavour")
    logsnr = stable_diffusion_logsnr(is_zero_terminal=is_zero)
    coefficient = torch.ones_like(logsnr)
    if gamma := settings.number("snr_gamma", 0, low=0):
        snr = logsnr.exp()
        coefficient = snr.clamp(max=gamma) / (snr + _IS_V[family])
        coefficient = coefficient.nan_to_num(nan=1.0)  # 0/0 in the trainer
        if is_v != _IS_V[family]:
            found += (DeclaredDivisor("prediction_type"),)
    return LossTable(
        title=f"SimpleTuner, {family}",
        logsnr=logsnr,
        probability=_steps(settings, settings.flag("refiner_training") or is_refiner),
        coefficient=coefficient,
        parameterization=V() if is_v else Eps(),
        diagnostics=found,
    )


def _bias(settings: Settings) -> Float[Tensor, " n"]:
    weights, num = torch.ones(_N, dtype=torch.float64), _N
    strategy = settings.one_of(
        "timestep_bias_strategy", "none", ("none", "earlier", "later", "range")
    )
    if strategy == "none":
        return weights
    factor = settings.number("timestep_bias_multiplier", 1.0, above=0)
    if strategy == "range":
        first = settings.integer("timestep_bias_begin", 0, high=_N)
        num = settings.integer("timestep_bias_end", _N, high=_N)
        if not first < num:
            raise ValueError(f"timestep_bias_end is {num}: give more than the begin, {first}.")
        weights[first:num] *= factor
        return weights
    num = int(settings.number("timestep_bias_portion", 0.25, low=0, high=1) * _N)
    weights[slice(0, num) if strategy == "earlier" else slice(-num, None)] *= factor
    return weights


def _steps(settings: Settings, is_refiner: bool) -> Float[Tensor, " n"]:
    """How often each step is drawn; segments are normalized in place, one after the other."""
    weights = _bias(settings)
    strength = settings.number("refiner_training_strength", 0.2, above=0, high=1)
    is_inverted = settings.flag("refiner_training_invert_schedule")
    num = settings.integer("train_batch_size", 4, low=1, high=_N)
    if num == 1 or settings.flag("disable_segmented_timestep_sampling"):
        return weights / weights.sum()
    least, last = 0, _N - 1
    if is_refiner:
        least, last = (int(strength * _N), last) if is_inverted else (0, int(strength * _N) - 1)
    size = max((last - least + 1) // num, 1)
    p = torch.zeros_like(weights)
    for i in range(num):
        first = least if i == num - 1 else max(last - size, least)
        inside = slice(first, last + 1)
        weights[inside] /= weights[inside].sum()
        p[inside] += weights[inside] / num
        last -= size
    return p


_SHIFT, _GAMMA = (3.0, 0.02, 50.0), (5.0, 0.05, 500.0)
SIMPLETUNER = Trainer(
    name="simpletuner",
    version="SimpleTuner 4.8.0, bc8e6ab",
    read=_read,
    options=(
        Option(
            settings={"model_family": "flux"},
            free={"flow_sigmoid_scale": (1.0, 0.1, 5.0), "flow_schedule_shift": _SHIFT},
        ),
        Option(
            settings={"model_family": "flux", "flow_use_uniform_schedule": True},
            free={"flow_schedule_shift": _SHIFT},
        ),
        Option(
            settings={
                "model_family": "flux",
                "flow_use_beta_schedule": True,
                "flow_schedule_shift": 1.0,
            },
            free={
                "flow_beta_schedule_alpha": (2.0, 0.1, 10.0),
                "flow_beta_schedule_beta": (2.0, 0.1, 10.0),
            },
        ),
        *(
            Option(settings={"model_family": family, "train_batch_size": 1})
            for family in ("sdxl", "sd2x")
        ),
        *(
            Option(
                settings={"model_family": family, "train_batch_size": 1},
                free={"snr_gamma": _GAMMA},
            )
            for family in ("sdxl", "sd2x")
        ),
    ),
)
