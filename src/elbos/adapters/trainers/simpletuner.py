r"""Trainer SimpleTuner: continuous times for flow models, stratified time steps for Stable
Diffusion.

Flow models (`simpletuner/helpers/models/common.py`, `sample_flow_sigmas`) draw times
$t = \mathrm{sigmoid}(a n)$ with $n \sim N(0, 1)$ and $a$ = `flow_sigmoid_scale`; or uniform ones;
or $\mathrm{Beta}(\alpha, \beta)$. The shift (`custom_schedule.py`) is `flow_schedule_shift`, by
default 3, no shift if 0; or depends on the resolution (`flow_schedule_auto_shift`); or is fixed, 5
for the two networks of Wan 2.2, 6.93 for FLUX.3. MOSS-Image draws from a table of its own times,
without a shift (`models/moss_image/model.py`). The loss is $\|\hat u - (\epsilon - x)\|^2$ without
a weight.

Stable Diffusion draws one step from each of `train_batch_size` segments of its table, noise first,
which share their ends; or from the whole table, with one segment or
`disable_segmented_timestep_sampling`. `timestep_bias_*` multiplies probabilities within a segment.
Stable Diffusion 2's table ends at zero SNR, whatever `rescale_betas_zero_snr` says. The coefficient
is $\min(\rho, \gamma)/\rho$ with the SNR $\rho$; the divisor is $\rho + 1$ if the model's scheduler
file says v_prediction, whatever `prediction_type` says.

References:
    https://github.com/bghira/SimpleTuner
"""

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.trainers import flow
from elbos.adapters.trainers.flow import NUM_STEPS
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Trainer
from elbos.audit import diagnostics as kinds
from elbos.theory.schedules import Beta, FlowTimes, Normal, Schedule
from elbos.theory.schedules import Flow as Uniform

_IS_V = {"sdxl": False, "sd1x": False, "sd2x": True}  # prediction type in the scheduler file
_FLOW_MODELS = (
    *("flux", "flux2", "sd3", "auraflow", "chroma", "hidream", "hunyuanvideo", "krea2", "lumina2"),
    *("ltxvideo", "qwen_image", "wan", "z_image", "kandinsky5_image", "kandinsky5_video", "ernie"),
    *("flux3_image", "moss_image"),
)
# Fixed shifts, keyed by the model and a part of `model_flavour`.
_SHIFTS = {("wan", "2.2"): 5.0, ("wan", "animegen"): 3.0, ("flux3_image", ""): 6.93}
_FINDINGS = {
    kinds.DeclaredPerturbed: ("input_perturbation",),
    kinds.SettingIgnored: ("use_soft_min_snr",),  # no loss reads it
    kinds.DeclaredTarget: (
        *("mixflow_enabled", "twinflow_enabled", "crepa_self_flow", "xm_enabled"),
        *("distillation_method", "scheduled_sampling_max_step_offset"),
    ),
    kinds.DeclaredTerm: (
        *("scheduled_sampling_reflexflow", "irepa_enabled", "crepa_enabled", "urepa_enabled"),
        *("layersync_enabled", "internal_guidance_enabled", "nextlat_enabled"),
    ),
}
_NOISE = {kinds.DeclaredNoise: ("offset_noise",), kinds.DeclaredTarget: ("diff2flow_loss",)}


def _read(settings: Settings) -> Loss:
    family = settings.one_of("model_family", "flux", (*_FLOW_MODELS, *_IS_V))
    if settings.has("min_snr_gamma"):
        raise ValueError("There is no setting min_snr_gamma: SimpleTuner's is called snr_gamma.")
    if family not in _IS_V:
        return _flow(settings, family)
    if "refiner" in settings.text("model_flavour"):
        raise ValueError("model_flavour is of SDXL's refiner, which is not supported.")
    settings.diagnostics += settings.findings(_NOISE)
    words = ("epsilon", "v_prediction")
    is_v = settings.one_of("prediction_type", words[_IS_V[family]], words) == "v_prediction"
    is_zero = settings.flag("rescale_betas_zero_snr")
    if family == "sd2x" and not is_zero:
        is_zero = True
        settings.diagnostics.append(kinds.DeclaredOverride("rescale_betas_zero_snr", "true"))
    table = flow.stable_diffusion(f"SimpleTuner, {family}", is_v=is_v, is_zero_terminal=is_zero)
    coefficient = table.coefficient
    if gamma := settings.number("snr_gamma", 0, low=0):
        coefficient = flow.min_snr(table.logsnr.exp(), gamma, is_v=_IS_V[family])
        coefficient = coefficient.nan_to_num(nan=1.0)  # 0/0 in the trainer
        if is_v != _IS_V[family]:
            settings.diagnostics.append(kinds.DeclaredDivisor(setting="prediction_type"))
    return replace(table, coefficient=coefficient, probability=_step_probability(settings))


def _flow(settings: Settings, family: str) -> Loss:
    shift = settings.number("flow_schedule_shift", 3.0, low=0) or 1.0
    flavour = settings.text("model_flavour")
    fixed = next(
        (s for (model, part), s in _SHIFTS.items() if model == family and part in flavour), None
    )
    if family == "flux3_image" and flavour == "klein":
        raise ValueError("model_flavour klein learns a flow map, which is not supported.")
    if fixed is not None:
        shift = fixed
        settings.diagnostics.append(kinds.DeclaredOverride("flow_schedule_shift", f"{fixed:g}"))
    elif settings.flag("flow_schedule_auto_shift"):
        high = flow.QWEN if family == "qwen_image" else flow.FLUX
        shift = flow.shifts_by_resolution(settings, "resolution", high=high)[0]
    for name in ("flow_custom_timesteps", "flux_fast_schedule"):
        if settings.text(name, "false").lower() not in ("false", "0", "", "[]"):
            raise ValueError(f"{name} draws fixed times, which have no density: not supported.")
    is_uniform = settings.flag("flow_use_uniform_schedule")
    is_beta = not is_uniform and settings.flag("flow_use_beta_schedule")
    if family == "chroma" and not (is_uniform or is_beta):
        raise ValueError(
            "model_family chroma moves logit-normal times towards both ends, which is not computed "
            "here: the loss with flow_use_uniform_schedule or flow_use_beta_schedule is."
        )
    if is_uniform:
        schedule: Schedule = Uniform(shift=shift)
    elif is_beta:
        alpha = settings.number("flow_beta_schedule_alpha", 2.0, above=0)
        beta = settings.number("flow_beta_schedule_beta", 2.0, above=0)
        schedule = FlowTimes(inner=Beta(a=alpha, b=beta), shift=shift)
    else:
        scale = settings.number("flow_sigmoid_scale", 1.0, above=0)
        mean = scale * settings.number("timestep_sampling_offset", 0.0)
        if family == "moss_image":  # logit-normal up to 0.95, stretched to 1, and 1 % uniform
            edges = torch.linspace(0, 0.95, NUM_STEPS + 1, dtype=torch.float64)
            cdf = torch.special.ndtr((edges.logit() - 1.09 - 0.95 * mean) / (0.95 * scale))
            probability = 0.99 * cdf.diff() / cdf[-1] + 0.01 / NUM_STEPS
            return flow.flow_table("flow matching", flow.even_times(), probability.flip(0))
        schedule = Normal.logit_normal(mean=mean + math.log(shift), std=scale)
    return flow.flow_loss("flow matching", schedule)


def _step_probability(settings: Settings) -> Float[Tensor, " n"]:
    weights = torch.ones(NUM_STEPS, dtype=torch.float64)
    choices = ("none", "earlier", "later", "range")
    strategy = settings.one_of("timestep_bias_strategy", "none", choices)
    if strategy != "none":
        factor = settings.number("timestep_bias_multiplier", 1.0, above=0)
        if strategy == "range":
            biased = slice(
                *flow.steps_between(settings, "timestep_bias_begin", "timestep_bias_end")
            )
        else:
            share = settings.number("timestep_bias_portion", 0.25, low=0, high=1)
            num = int(share * NUM_STEPS)
            biased = slice(0, num) if strategy == "earlier" else slice(-num, None)
        weights[biased] *= factor
        weights /= weights.sum()  # so that the step that segments share is likelier, not rarer
    num = settings.integer("train_batch_size", 4, low=1, high=NUM_STEPS)
    if num == 1 or settings.flag("disable_segmented_timestep_sampling"):
        return weights / weights.sum()
    last, size = NUM_STEPS - 1, NUM_STEPS // num
    p = torch.zeros_like(weights)
    for i in range(num):  # the trainer normalizes the weights in place, segment after segment
        first = 0 if i == num - 1 else max(last - size, 0)
        inside = slice(first, last + 1)
        weights[inside] /= weights[inside].sum()
        p[inside] += weights[inside] / num
        last -= size
    return p


SIMPLETUNER = Trainer(
    name="simpletuner",
    version="SimpleTuner 4.10.1",
    package=("simpletuner", "4.10.1"),
    read=_read,
    loss_types=("l2", "huber", "smooth_l1"),
    findings=_FINDINGS,
    neutral=dict.fromkeys(
        ("diffusion_blocks_config", "flow_cubic_schedule_weights", "refiner_training"), 0
    ),
)
