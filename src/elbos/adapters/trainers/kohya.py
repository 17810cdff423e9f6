r"""kohya's sd-scripts: flags of `train_network.py`, `sdxl_train.py`, `flux_train_network.py`, ...

Stable Diffusion and SDXL have its table of 1,000 steps, and coefficients of the SNR one after the
other. The SNR is that of the table before `zero_terminal_snr` changes it. SD3 regresses x from
$z - \sigma\hat u$, a coefficient $\sigma^2$ of u. FLUX.1, HunyuanImage, Lumina and Anima have
`timestep_sampling`; weighting schemes count there where the prediction is `sigma_scaled`.

Which model it is follows from the script's name, or else from the flags.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers import Training, loss_table
from elbos.adapters.diffusers.training import step_probability
from elbos.adapters.trainers import flow
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.times import stable_diffusion_logsnr
from elbos.adapters.trainers.trainer import Loss, Option, Trainer
from elbos.audit import LossTable
from elbos.audit.diagnostics import (
    DeclaredModel,
    DeclaredNoise,
    DeclaredNotSquared,
    DeclaredPerturbed,
    DeclaredSnr,
    DeclaredUneven,
    Diagnostic,
    NotFinite,
)
from elbos.theory import schedules
from elbos.theory.parameterizations import Eps, Flow, V
from elbos.theory.schedules import Schedule

_MAX_SNR = 1000.0  # of all coefficients but Min-SNR's
_NUM_STEPS = 1000

Sampling = Literal["sigma", "uniform", "sigmoid", "shift", "flux_shift", "nextdit_shift"]
Output = Literal["raw", "additive", "sigma_scaled"]


@dataclass(frozen=True, kw_only=True)
class _FlowModel:
    """Defaults of the flags of one model's scripts."""

    sampling: Sampling = "sigma"
    shift: float = 3.0
    output: Output = "sigma_scaled"
    sign: float = 1.0  # of the target
    has_output: bool = True  # a flag for it; else raw, and weights always count


_FLOW_MODELS = {
    "flux": _FlowModel(),
    "hunyuan_image": _FlowModel(shift=5.0, output="raw"),
    "lumina": _FlowModel(sampling="shift", shift=6.0, output="raw", sign=-1.0),
    "anima": _FlowModel(sampling="sigmoid", shift=1.0, output="raw", has_output=False),
}
_OF_FLOW = ("timestep_sampling", "model_prediction_type", "discrete_flow_shift", "sigmoid_scale")
_OF_SD3 = ("training_shift", "weighting_scheme", "logit_mean", "logit_std", "mode_scale")


def read(settings: Settings) -> Loss:
    """The loss that these flags train."""
    script = settings.text("script")
    found = _findings(settings)
    for model, defaults in _FLOW_MODELS.items():
        if script.startswith(model):
            return _of_flow(settings, defaults, model, found)
    if script.startswith("sd3"):
        return _of_sd3(settings, found)
    if not script and any(map(settings.has, _OF_FLOW)):
        found.append(DeclaredModel("FLUX.1"))
        return _of_flow(settings, _FLOW_MODELS["flux"], "flux", found)
    if not script and any(map(settings.has, _OF_SD3)):
        found.append(DeclaredModel("Stable Diffusion 3"))
        return _of_sd3(settings, found)
    return _of_sd(settings, found)


def _findings(settings: Settings) -> list[Diagnostic]:
    """Return remarks on settings that no weighting shows."""
    found = list[Diagnostic]()
    kind = settings.one_of("loss_type", "l2", ("l2", "l1", "huber", "smooth_l1"))
    if kind != "l2":
        for name in ("huber_schedule", "huber_c", "huber_scale"):
            settings.has(name)
        found.append(DeclaredNotSquared(f"loss_type {kind}"))
    if settings.number("noise_offset", 0):
        for name in ("noise_offset_random_strength", "adaptive_noise_scale"):
            settings.has(name)
        found.append(DeclaredNoise("noise_offset"))
    if settings.number("multires_noise_iterations", 0):
        settings.has("multires_noise_discount")
        found.append(DeclaredNoise("multires_noise_iterations"))
    if settings.number("ip_noise_gamma", 0):
        settings.has("ip_noise_gamma_random_strength")
        found.append(DeclaredPerturbed("ip_noise_gamma"))
    masks = [name for name in ("masked_loss", "alpha_mask") if settings.flag(name)]
    return [*found, *(DeclaredUneven(name) for name in masks)]


def _of_sd(settings: Settings, found: list[Diagnostic]) -> LossTable:
    is_v, is_zero = settings.flag("v_parameterization"), settings.flag("zero_terminal_snr")
    snr = stable_diffusion_logsnr().exp()
    coefficient = _of_snr(settings, snr, is_v=is_v)
    if is_zero and (coefficient != 1).any():
        found = [*found, DeclaredSnr("zero_terminal_snr")]
    return LossTable(
        title="sd-scripts, Stable Diffusion",
        logsnr=stable_diffusion_logsnr(is_zero_terminal=is_zero),
        probability=_uniform(settings),
        coefficient=coefficient,
        parameterization=V() if is_v else Eps(),
        diagnostics=tuple(found),
    )


def _of_snr(settings: Settings, snr: Float[Tensor, " n"], *, is_v: bool) -> Float[Tensor, " n"]:
    c, capped = torch.ones_like(snr), snr.clamp(max=_MAX_SNR)
    if gamma := settings.number("min_snr_gamma", 0, low=0):
        c = c * snr.clamp(max=gamma) / (snr + 1 if is_v else snr)
    if settings.flag("scale_v_pred_loss_like_noise_pred"):
        if not is_v:
            raise ValueError("scale_v_pred_loss_like_noise_pred needs v_parameterization: add it.")
        c = c * capped / (capped + 1)
    if like_v := settings.number("v_pred_like_loss", 0):
        if is_v:
            raise ValueError("v_pred_like_loss is not for v_parameterization: leave one out.")
        c = c * (1 + like_v * (capped + 1) / capped)
    if settings.flag("debiased_estimation_loss"):
        c = c / (capped + 1 if is_v else capped.sqrt())
    return c


def _uniform(settings: Settings) -> Float[Tensor, " n"]:
    """Steps from `min_timestep` up to, and without, `max_timestep`."""
    low = settings.integer("min_timestep", 0, high=_NUM_STEPS - 1)
    high = settings.integer("max_timestep", _NUM_STEPS, low=1, high=_NUM_STEPS)
    if not low < high:
        raise ValueError(f"max_timestep is {high}: give more than min_timestep, {low}.")
    steps = torch.arange(_NUM_STEPS)
    return ((steps >= low) & (steps < high)).double() / (high - low)


def _of_sd3(settings: Settings, found: list[Diagnostic]) -> LossTable:
    scheme, shift = flow.read_scheme(settings), settings.number("training_shift", 1, above=0)
    drawn = _uniform(settings).nonzero()[:, 0]
    t = drawn.double() / _NUM_STEPS
    edges = torch.arange(len(drawn) + 1, dtype=torch.float64) / len(drawn)
    probability = step_probability(scheme, flow.unshifted(edges, shift))
    if scheme.weighting_scheme == "sigma_sqrt" and t[0] == 0:  # infinity times 0
        found = [*found, NotFinite(probability[0].item())]
    return LossTable(
        title="sd-scripts, SD3",
        logsnr=flow.logsnr_of(t),
        probability=probability,
        coefficient=(t**2 * flow.scheme_weight(scheme, t)).nan_to_num(),
        parameterization=Flow(),
        diagnostics=tuple(found),
    )


def _of_flow(settings: Settings, model: _FlowModel, name: str, found: list[Diagnostic]) -> Loss:
    samplings = [*get_args(Sampling)][: None if name == "lumina" else -1]
    sampling: Sampling = settings.one_of("timestep_sampling", model.sampling, samplings)
    output = model.output
    if model.has_output:
        output = settings.one_of("model_prediction_type", model.output, get_args(Output))
    is_weighted = output == "sigma_scaled" or not model.has_output
    scheme = flow.read_scheme(settings) if is_weighted or sampling == "sigma" else Training()

    def coefficient(logsnr: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        t = flow.time_of(logsnr)
        weight = flow.scheme_weight(scheme, t) if is_weighted else torch.ones_like(t)
        return t**2 * weight if output == "sigma_scaled" else weight

    target = Flow() if output == "raw" else flow.Residual(output == "sigma_scaled", model.sign)
    loss = _on_levels(settings, sampling, model, scheme)
    return flow.weighted(
        loss,
        coefficient,
        title=f"sd-scripts, {name}",
        parameterization=target,
        factor=model.sign if output == "raw" else 1.0,
        diagnostics=(*found, *loss.diagnostics),
    )


def _on_levels(settings: Settings, sampling: Sampling, model: _FlowModel, scheme: Training) -> Loss:
    """The plain loss of the flow on the noise levels that are drawn: of a table, or continuous."""
    if sampling == "sigma":
        shift = settings.number("discrete_flow_shift", model.shift, above=0)
        return loss_table(
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": shift}, scheme
        )
    mu, found = 0.0, list[Diagnostic]()
    if sampling == "shift":
        mu = math.log(settings.number("discrete_flow_shift", model.shift, above=0))
    if sampling.endswith("_shift"):
        height, width, found = flow.resolution(settings)
        mu = flow.mu_of(height, width)
    if sampling in ("uniform", "nextdit_shift"):
        schedule: Schedule = schedules.Flow(shift=math.exp(mu))
    else:
        scale = settings.number("sigmoid_scale", 1, above=0)
        schedule = schedules.Normal.logit_normal(mean=mu, std=scale)
    return flow.plain(schedule, found)


_EPS: dict[str, bool] = {}
_V = {"v_parameterization": True}
_ZERO = {**_V, "zero_terminal_snr": True}
_MIN_SNR = {"min_snr_gamma": (5.0, 0.1, 100.0)}
_FLUX = {"script": "flux_train_network", "model_prediction_type": "raw"}
_SIGMOID = {**_FLUX, "timestep_sampling": "shift"}
_SHIFT = {"discrete_flow_shift": (1.0, 0.05, 50.0)}

KOHYA = Trainer(
    name="kohya",
    version="sd-scripts v0.10.1, 48d368f",
    read=read,
    options=(
        *(Option(settings=model) for model in (_EPS, _V, _ZERO)),
        *(Option(settings=model, free=_MIN_SNR) for model in (_EPS, _V, _ZERO)),
        *(Option(settings={**model, "debiased_estimation_loss": True}) for model in (_EPS, _V)),
        Option(settings={**_FLUX, "timestep_sampling": "uniform"}),
        Option(settings=_SIGMOID, free={**_SHIFT, "sigmoid_scale": (1.0, 0.1, 5.0)}),
        Option(settings={**_FLUX, "timestep_sampling": "sigma"}, free=_SHIFT),
    ),
)
