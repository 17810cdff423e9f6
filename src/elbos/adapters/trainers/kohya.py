r"""Trainer sd-scripts by kohya: losses from flags of `train_network.py`, `flux_train_network.py`
etc.

Stable Diffusion and SDXL draw from a table of 1,000 steps; coefficients of the SNR multiply, with
the SNR before `zero_terminal_snr` changes it. SD3 regresses x from $z - \sigma\hat u$, a
coefficient $\sigma^2$ of u. FLUX.1, HunyuanImage, Lumina and Anima have `timestep_sampling`, and
weighting schemes only where the prediction is `sigma_scaled`.

The model follows from the script's name, or else from the flags.
"""

import math
from dataclasses import dataclass, replace
from itertools import chain

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers import Training, loss_table
from elbos.adapters.diffusers.training import scheme_weight, step_probability
from elbos.adapters.trainers import flow
from elbos.adapters.trainers.flow import NUM_STEPS
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Trainer
from elbos.audit import LossTable
from elbos.audit import diagnostics as kinds
from elbos.theory import schedules
from elbos.theory.parameterizations import Flow

_SAMPLINGS = ("sigma", "uniform", "sigmoid", "shift", "flux_shift")
_OUTPUTS = ("raw", "additive", "sigma_scaled")


@dataclass(frozen=True, kw_only=True)
class _FlowModel:
    sampling: str = "sigma"
    shift: float = 3.0
    output: str = "sigma_scaled"
    sign: float = 1.0  # sign of the target
    has_output: bool = True  # a flag for the output; else raw and always weighted


_FLOW_MODELS = {
    "flux": _FlowModel(),
    "hunyuan_image": _FlowModel(shift=5.0, output="raw"),
    "lumina": _FlowModel(sampling="shift", shift=6.0, output="raw", sign=-1.0),
    "anima": _FlowModel(sampling="sigmoid", shift=1.0, output="raw", has_output=False),
}
_OF_FLOW = ("timestep_sampling", "model_prediction_type", "discrete_flow_shift", "sigmoid_scale")
_OF_SD3 = ("training_shift", "weighting_scheme", "logit_mean", "logit_std", "mode_scale")
_FINDINGS = {
    kinds.DeclaredNoise: ("noise_offset", "multires_noise_iterations"),
    kinds.DeclaredPerturbed: ("ip_noise_gamma",),
    kinds.DeclaredUneven: ("masked_loss", "alpha_mask"),
}
_DETAILS = {  # settings that take effect only with another
    "noise_offset": ("noise_offset_random_strength", "adaptive_noise_scale"),
    "multires_noise_iterations": ("multires_noise_discount",),
    "ip_noise_gamma": ("ip_noise_gamma_random_strength",),
}


def _read(settings: Settings) -> Loss:
    details = [details for name, details in _DETAILS.items() if settings.number(name, 0)]
    if settings.text("loss_type", "l2").lower() != "l2":
        details.append(("huber_schedule", "huber_c", "huber_scale"))
    for name in chain(*details):
        settings.has(name)
    for name in _FINDINGS[kinds.DeclaredUneven]:
        settings.flag(name)  # refuses other words than true and false
    script = settings.text("script")
    for model in _FLOW_MODELS:
        if script.startswith(model):
            return _flow(settings, model)
    if script.startswith("sd3"):
        return _sd3(settings)
    if not script and any(map(settings.has, _OF_FLOW)):
        settings.diagnostics.append(kinds.DeclaredModel(model="FLUX.1"))
        return _flow(settings, "flux")
    if not script and any(map(settings.has, _OF_SD3)):
        settings.diagnostics.append(kinds.DeclaredModel(model="Stable Diffusion 3"))
        return _sd3(settings)
    is_v, is_zero = settings.flag("v_parameterization"), settings.flag("zero_terminal_snr")
    snr = flow.stable_diffusion().logsnr.exp()
    c, capped = torch.ones_like(snr), snr.clamp(max=flow.MAX_SNR)
    if gamma := settings.number("min_snr_gamma", 0, low=0):
        c = c * flow.min_snr(snr, gamma, is_v=is_v)
    if settings.flag("scale_v_pred_loss_like_noise_pred"):
        if not is_v:
            raise ValueError("scale_v_pred_loss_like_noise_pred needs v_parameterization: add it.")
        c = c * capped / (capped + 1)
    if like_v := settings.number("v_pred_like_loss", 0):
        if is_v:
            raise ValueError("v_pred_like_loss is not for v_parameterization: leave one out.")
        c = c * (1 + like_v * (capped + 1) / capped)
    if settings.flag("debiased_estimation_loss"):
        c = c * flow.debiased(snr, is_v=is_v)
    low, high = flow.steps_between(settings, "min_timestep", "max_timestep")
    steps = torch.arange(NUM_STEPS)
    if is_zero and (c != 1).any():
        settings.diagnostics.append(kinds.DeclaredSnr(setting="zero_terminal_snr"))
    title, probability = "sd-scripts, Stable Diffusion", (steps >= low) & (steps < high)
    table = flow.stable_diffusion(title, is_v=is_v, is_zero_terminal=is_zero)
    return replace(table, coefficient=c, probability=probability.double() / (high - low))


def _sd3(settings: Settings) -> LossTable:
    scheme, shift = flow.read_scheme(settings), settings.number("training_shift", 1, above=0)
    low, high = flow.steps_between(settings, "min_timestep", "max_timestep")
    t = torch.arange(low, high).double() / NUM_STEPS
    edges = torch.arange(high - low + 1, dtype=torch.float64) / (high - low)
    probability = step_probability(scheme, flow.unshifted(edges, shift))
    if scheme.weighting_scheme == "sigma_sqrt" and t[0] == 0:  # infinity times 0
        settings.diagnostics.append(kinds.NotFinite(share=probability[0].item()))
    coefficient = (t**2 * scheme_weight(scheme, t)).nan_to_num()
    return flow.flow_table("sd-scripts, SD3", t, probability, coefficient)


def _flow(settings: Settings, name: str) -> Loss:
    model = _FLOW_MODELS[name]
    samplings = (*_SAMPLINGS, "nextdit_shift") if name == "lumina" else _SAMPLINGS
    sampling = settings.one_of("timestep_sampling", model.sampling, samplings)
    output = model.output
    if model.has_output:
        output = settings.one_of("model_prediction_type", model.output, _OUTPUTS)
    is_weighted = output == "sigma_scaled" or not model.has_output
    scheme = flow.read_scheme(settings) if is_weighted or sampling == "sigma" else Training()

    mu = 0.0
    if sampling in ("sigma", "shift"):
        mu = math.log(settings.number("discrete_flow_shift", model.shift, above=0))
    elif sampling.endswith("_shift"):
        mu = flow.mu_of(*flow.resolution(settings))
    if sampling == "sigma":
        config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": math.exp(mu)}
        loss: Loss = loss_table(config, scheme)
    elif sampling in ("uniform", "nextdit_shift"):
        loss = flow.flow_loss("sd-scripts", schedules.Flow(shift=math.exp(mu)))
    else:
        scale = settings.number("sigmoid_scale", 1, above=0)
        normal = schedules.Normal.logit_normal(mean=mu, std=scale)
        loss = flow.flow_loss("sd-scripts", normal)

    def coefficient(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        t = flow.time_of(logsnr)
        weight = scheme_weight(scheme, t) if is_weighted else torch.ones_like(t)
        return t**2 * weight if output == "sigma_scaled" else weight

    target = Flow() if output == "raw" else flow.Residual(output == "sigma_scaled", model.sign)
    return flow.weighted(
        loss,
        coefficient,
        title=f"sd-scripts, {name}",
        parameterization=target,
        factor=model.sign if output == "raw" else 1.0,
    )


KOHYA = Trainer(
    name="kohya",
    version="sd-scripts v0.10.1, 48d368f",
    read=_read,
    loss_types=("l2", "l1", "huber", "smooth_l1"),
    findings=_FINDINGS,
)
