r"""OneTrainer: losses from the keys of its JSON configuration.

Time steps are whole numbers $i < N = 1000$, of the table of betas or with $t = (i + 1)/N$ on the
path of flow matching. A distribution on $[0, 1]$ is stretched to the range between the noising
strengths, shifted, and cut down to a whole number; three others are drawn as a table of weights, in
which `SIGMOID` has its shift undone twice.
"""

import math
from dataclasses import replace
from typing import Literal, get_args

import scipy.stats
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers import Training, loss_table
from elbos.adapters.diffusers.training import step_probability
from elbos.adapters.trainers import flow
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.times import (
    MAX_SNR,
    NUM_STEPS,
    min_snr,
    stable_diffusion,
    steps_between,
)
from elbos.adapters.trainers.trainer import Option, Trainer, Values
from elbos.audit import LossTable
from elbos.audit import diagnostics as kinds
from elbos.theory.parameterizations import Flow

Distribution = Literal[
    "UNIFORM", "SIGMOID", "LOGIT_NORMAL", "HEAVY_TAIL", "COS_MAP", "INVERTED_PARABOLA", "BETA"
]
Weight = Literal["CONSTANT", "P2", "MIN_SNR_GAMMA", "DEBIASED_ESTIMATION", "SIGMA"]

_V_MODELS = ("STABLE_DIFFUSION_20", "STABLE_DIFFUSION_21")
_EPS_MODELS = (
    *("STABLE_DIFFUSION_15", "STABLE_DIFFUSION_15_INPAINTING", "STABLE_DIFFUSION_20_BASE"),
    *("STABLE_DIFFUSION_20_INPAINTING", "STABLE_DIFFUSION_20_DEPTH", "STABLE_DIFFUSION_21_BASE"),
    *("STABLE_DIFFUSION_XL_10_BASE", "STABLE_DIFFUSION_XL_10_BASE_INPAINTING"),
    *("PIXART_ALPHA", "PIXART_SIGMA"),
)
_FLOW_MODELS = (
    *("STABLE_DIFFUSION_3", "STABLE_DIFFUSION_35", "FLUX_DEV_1", "FLUX_FILL_DEV_1", "FLUX_2"),
    *("SANA", "HUNYUAN_VIDEO", "HI_DREAM_FULL", "CHROMA_1", "QWEN", "ANIMA", "KREA_2", "Z_IMAGE"),
    *("ERNIE", "IDEOGRAM_4"),
)
_MOST_SHIFTED = {
    **dict.fromkeys(("FLUX_DEV_1", "FLUX_FILL_DEV_1", "FLUX_2", "Z_IMAGE"), flow.FLUX),
    "QWEN": flow.QWEN,
}
_NOISE = ("offset_noise_weight", "perturbation_noise_weight")
_FINDINGS = {
    kinds.DeclaredNotSquared: ("mae_strength", "log_cosh_strength", "huber_strength"),
    kinds.DeclaredNoise: _NOISE[:1],
    kinds.DeclaredPerturbed: _NOISE[1:],
    kinds.DeclaredUneven: ("masked_training",),
}


def read(settings: Settings) -> LossTable:
    """Return the training loss that a OneTrainer configuration defines."""
    models = (*_EPS_MODELS, *_V_MODELS, *_FLOW_MODELS)
    model = settings.one_of("model_type", "STABLE_DIFFUSION_15", models)
    for name in ("huber_delta", "generalized_offset_noise", "mse_strength"):
        settings.has(name)
    for name in (*_FINDINGS[kinds.DeclaredNotSquared], *_NOISE):
        settings.number(name, 0)  # refuses words
    loss = (_of_flow if model in _FLOW_MODELS else _of_table)(settings, model)
    prior = "masked_prior_preservation_weight"
    if settings.flag("masked_training") and settings.number(prior, 0):
        term = kinds.DeclaredTerm(setting=prior)
        return replace(loss, diagnostics=(*loss.diagnostics, term))
    return loss


def _of_table(settings: Settings, model: str) -> LossTable:
    is_zero = settings.flag("rescale_noise_scheduler_to_zero_terminal_snr")
    is_v = is_zero or settings.flag("force_v_prediction")
    if not is_v and not settings.flag("force_epsilon_prediction"):
        is_v = model in _V_MODELS
    probability = _probability(settings, settings.number("timestep_shift", 1, above=0))
    title = f"OneTrainer, {model}"
    loss = stable_diffusion(title, None, probability, is_v=is_v, is_zero_terminal=is_zero)
    if model.startswith("PIXART"):
        linear = loss_table({"_class_name": "DDPMScheduler"}, Training())
        term = kinds.DeclaredTerm(setting="vb_loss_strength")
        loss = replace(loss, logsnr=linear.logsnr, diagnostics=(term,))
    return replace(loss, coefficient=_of_snr(settings, loss.logsnr.exp(), is_v=is_v))


def _of_snr(settings: Settings, snr: Float[Tensor, " n"], *, is_v: bool) -> Float[Tensor, " n"]:
    kind: Weight = settings.one_of("loss_weight_fn", "CONSTANT", get_args(Weight)[:-1])
    if kind == "CONSTANT":
        return torch.ones_like(snr)
    if kind == "DEBIASED_ESTIMATION":
        return torch.rsqrt(snr.clamp(max=MAX_SNR) + is_v)
    strength = settings.number("loss_weight_strength", 5, above=0)
    if kind == "P2":
        return (1 + snr + is_v) ** -strength
    return min_snr(snr, strength, is_v=is_v)


def _of_flow(settings: Settings, model: str) -> LossTable:
    t = torch.arange(1, NUM_STEPS + 1, dtype=torch.float64) / NUM_STEPS
    weight: Weight = settings.one_of("loss_weight_fn", "CONSTANT", ("CONSTANT", "SIGMA"))
    return LossTable(
        title=f"OneTrainer, {model}",
        logsnr=flow.logsnr_of(t),
        probability=_probability(settings, _shift(settings, model)),
        coefficient=t if weight == "SIGMA" else torch.ones_like(t),
        parameterization=Flow(),
        factor=-1.0 if model == "IDEOGRAM_4" else 1.0,
    )


def _shift(settings: Settings, model: str) -> float:
    if not settings.flag("dynamic_timestep_shifting"):
        return settings.number("timestep_shift", 1, above=0)
    if "," in settings.text("resolution"):
        raise ValueError("resolution holds several values, each with another shift: give one.")
    height, width, _ = flow.resolution(settings, default=512)
    if model == "IDEOGRAM_4":
        return math.sqrt(height * width) / 512
    if model not in _MOST_SHIFTED:
        raise ValueError(f"dynamic_timestep_shifting of {model} is not known: give timestep_shift.")
    return math.exp(flow.mu_of(height, width, high=_MOST_SHIFTED[model]))


def _probability(settings: Settings, shift: float) -> Float[Tensor, " n"]:
    """Return the probability of drawing each time step."""
    names = ("min_noising_strength", "max_noising_strength")
    low, high = steps_between(settings, *names, is_share=True)
    kinds = get_args(Distribution)
    kind: Distribution = settings.one_of("timestep_distribution", "UNIFORM", kinds)
    if kind in ("COS_MAP", "SIGMOID", "INVERTED_PARABOLA"):
        p = torch.zeros(NUM_STEPS, dtype=torch.float64)
        p[low:high] = _weights(settings, kind, high - low, shift)
        return p / p.sum()
    edges = flow.unshifted(torch.arange(NUM_STEPS + 1).double() / NUM_STEPS, shift)
    u = ((edges * NUM_STEPS - low) / (high - low)).clamp(0, 1)
    return _between(settings, kind, u)


def _between(settings: Settings, kind: Distribution, u: Float[Tensor, " m"]) -> Tensor:
    """Return the probability mass of a distribution on [0, 1] between successive entries of `u`."""
    if kind == "LOGIT_NORMAL":
        mean, std = settings.number("noising_bias", 0), settings.number("noising_weight", 0) + 1
        if not std > 0:
            raise ValueError(f"noising_weight is {std - 1}: give a number above -1.")
        normal = Training(weighting_scheme="logit_normal", logit_mean=mean, logit_std=std)
        return step_probability(normal, u)
    if kind == "HEAVY_TAIL":
        scale = settings.number("noising_weight", 0, low=-1, high=1.75)
        return step_probability(Training(weighting_scheme="mode", mode_scale=scale), u)
    if kind == "BETA":
        a, b = (max(1e-4, settings.number(f"noising_{name}", 0)) for name in ("weight", "bias"))
        return torch.from_numpy(scipy.stats.beta.cdf(u.numpy(), a, b)).diff()
    return u.diff()


def _weights(settings: Settings, kind: Distribution, num: int, shift: float) -> Float[Tensor, " n"]:
    line = torch.linspace(0, 1, num, dtype=torch.float64)
    slope, u = shift / (shift + line - line * shift) ** 2, flow.unshifted(line, shift)
    if kind == "COS_MAP":
        return slope / (1 - 2 * u + 2 * u**2)
    middle, weight = settings.number("noising_bias", 0) + 0.5, settings.number("noising_weight", 0)
    if kind == "SIGMOID":
        return slope * torch.sigmoid(weight * (flow.unshifted(u, shift) - middle))
    return slope * (2 - weight * (u - middle) ** 2).clamp(min=0)


_SDXL: Values = {"model_type": "STABLE_DIFFUSION_XL_10_BASE"}
_FLUX: Values = {"model_type": "FLUX_DEV_1"}
_V: Values = {**_SDXL, "force_v_prediction": True}
_ZERO: Values = {**_SDXL, "rescale_noise_scheduler_to_zero_terminal_snr": True}
_GAMMA = {"loss_weight_strength": (5.0, 0.05, 500.0)}
_SHIFT = {"timestep_shift": (1.0, 0.05, 50.0)}

ONETRAINER = Trainer(
    name="onetrainer",
    version="OneTrainer, commit 23df383 of August 2026",
    read=read,
    is_flags=False,
    findings=_FINDINGS,
    options=(
        *(Option(settings=model) for model in (_SDXL, _V, _ZERO)),
        *(
            Option(settings={**model, "loss_weight_fn": weight}, free=free)
            for model in (_SDXL, _V, _ZERO)
            for weight, free in (("MIN_SNR_GAMMA", _GAMMA), ("DEBIASED_ESTIMATION", {}))
        ),
        Option(
            settings={**_SDXL, "loss_weight_fn": "P2"},
            free={"loss_weight_strength": (1.0, 0.05, 4.0)},
        ),
        *(
            Option(settings={**_FLUX, "loss_weight_fn": weight}, free=_SHIFT)
            for weight in ("CONSTANT", "SIGMA")
        ),
        Option(
            settings={**_FLUX, "timestep_distribution": "LOGIT_NORMAL"},
            free={"noising_bias": (0.0, -5.0, 5.0), "noising_weight": (0.0, -0.8, 4.0)},
        ),
        Option(
            settings={**_FLUX, "timestep_distribution": "BETA"},
            free={"noising_weight": (1.5, 0.2, 8.0), "noising_bias": (1.0, 0.2, 8.0)},
        ),
        Option(
            settings={**_FLUX, "timestep_distribution": "HEAVY_TAIL"},
            free={"noising_weight": (1.0, -0.9, 1.7), **_SHIFT},
        ),
    ),
)
