r"""OneTrainer: keys of its configuration, a JSON file.

Time steps are whole numbers $i < N = 1000$, of the table of betas or with $t = (i + 1)/N$ on the
path of flow matching. A distribution on $[0, 1]$ is stretched to the range between the noising
strengths, shifted, and cut down to a whole number; three others are drawn as a table of weights, in
which `SIGMOID` has its shift undone twice.
"""

import math
from typing import Literal, get_args

import scipy.stats
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers import Training, loss_table
from elbos.adapters.diffusers.training import step_probability
from elbos.adapters.trainers import flow
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.times import stable_diffusion_logsnr
from elbos.adapters.trainers.trainer import Option, Trainer
from elbos.audit import LossTable
from elbos.audit.diagnostics import (
    DeclaredNoise,
    DeclaredNotSquared,
    DeclaredPerturbed,
    DeclaredTerm,
    DeclaredUneven,
    Diagnostic,
)
from elbos.theory.parameterizations import Eps, Flow, V

Distribution = Literal[
    "UNIFORM", "SIGMOID", "LOGIT_NORMAL", "HEAVY_TAIL", "COS_MAP", "INVERTED_PARABOLA", "BETA"
]
Weight = Literal["CONSTANT", "P2", "MIN_SNR_GAMMA", "DEBIASED_ESTIMATION", "SIGMA"]

_NUM_STEPS = 1000
_MAX_SNR = 1000.0  # of debiased estimation
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
_MOST_SHIFTED = {  # where the line of mu ends: (tokens, mu)
    "FLUX_DEV_1": (4096, 1.15),
    "FLUX_FILL_DEV_1": (4096, 1.15),
    "FLUX_2": (4096, 1.15),
    "Z_IMAGE": (4096, 1.15),
    "QWEN": (8192, 0.9),
}


def read(settings: Settings) -> LossTable:
    """The loss that this configuration trains."""
    models = (*_EPS_MODELS, *_V_MODELS, *_FLOW_MODELS)
    model = settings.one_of("model_type", "STABLE_DIFFUSION_15", models)
    found = _findings(settings)
    if model in _FLOW_MODELS:
        return _of_flow(settings, model, found)
    return _of_table(settings, model, found)


def _findings(settings: Settings) -> list[Diagnostic]:
    """Return remarks on settings that no weighting shows."""
    kinds = {
        "mae_strength": DeclaredNotSquared,
        "log_cosh_strength": DeclaredNotSquared,
        "huber_strength": DeclaredNotSquared,
        "offset_noise_weight": DeclaredNoise,
        "perturbation_noise_weight": DeclaredPerturbed,
    }
    found: list[Diagnostic] = [kind(n) for n, kind in kinds.items() if settings.number(n, 0)]
    for name in ("huber_delta", "generalized_offset_noise", "mse_strength"):
        settings.has(name)
    if settings.flag("masked_training"):
        found.append(DeclaredUneven("masked_training"))
        if settings.number("masked_prior_preservation_weight", 0):
            setting = "masked_prior_preservation_weight"
            found.append(DeclaredTerm(setting))
    return found


def _of_table(settings: Settings, model: str, found: list[Diagnostic]) -> LossTable:
    is_zero = settings.flag("rescale_noise_scheduler_to_zero_terminal_snr")
    is_v = is_zero or settings.flag("force_v_prediction")
    if not is_v and not settings.flag("force_epsilon_prediction"):
        is_v = model in _V_MODELS
    logsnr = stable_diffusion_logsnr(is_zero_terminal=is_zero)
    if model.startswith("PIXART"):
        found = [*found, DeclaredTerm("vb_loss_strength")]
        logsnr = loss_table({"_class_name": "DDPMScheduler"}, Training()).logsnr
    return LossTable(
        title=f"OneTrainer, {model}",
        logsnr=logsnr,
        probability=_probability(settings, settings.number("timestep_shift", 1, above=0)),
        coefficient=_of_snr(settings, logsnr.exp(), is_v=is_v),
        parameterization=V() if is_v else Eps(),
        diagnostics=tuple(found),
    )


def _of_snr(settings: Settings, snr: Float[Tensor, " n"], *, is_v: bool) -> Float[Tensor, " n"]:
    kind: Weight = settings.one_of("loss_weight_fn", "CONSTANT", get_args(Weight)[:-1])
    if kind == "CONSTANT":
        return torch.ones_like(snr)
    if kind == "DEBIASED_ESTIMATION":
        return torch.rsqrt(snr.clamp(max=_MAX_SNR) + is_v)
    strength = settings.number("loss_weight_strength", 5, above=0)
    if kind == "P2":
        return (1 + snr + is_v) ** -strength
    return snr.clamp(max=strength) / (snr + is_v)


def _of_flow(settings: Settings, model: str, found: list[Diagnostic]) -> LossTable:
    t = torch.arange(1, _NUM_STEPS + 1, dtype=torch.float64) / _NUM_STEPS
    weight: Weight = settings.one_of("loss_weight_fn", "CONSTANT", ("CONSTANT", "SIGMA"))
    return LossTable(
        title=f"OneTrainer, {model}",
        logsnr=flow.logsnr_of(t),
        probability=_probability(settings, _shift(settings, model)),
        coefficient=t if weight == "SIGMA" else torch.ones_like(t),
        parameterization=Flow(),
        factor=-1.0 if model == "IDEOGRAM_4" else 1.0,
        diagnostics=tuple(found),
    )


def _shift(settings: Settings, model: str) -> float:
    if not settings.flag("dynamic_timestep_shifting"):
        return settings.number("timestep_shift", 1, above=0)
    if "," in settings.text("resolution"):
        raise ValueError("resolution holds several, each with a shift of its own: give one.")
    height, width, _ = flow.resolution(settings, default=512)
    if model == "IDEOGRAM_4":
        return math.sqrt(height * width) / 512
    if model not in _MOST_SHIFTED:
        raise ValueError(f"dynamic_timestep_shifting of {model} is not known: give timestep_shift.")
    return math.exp(flow.mu_of(height, width, high=_MOST_SHIFTED[model]))


def _probability(settings: Settings, shift: float) -> Float[Tensor, " n"]:
    """How often each of the time steps is drawn."""
    low = int(_NUM_STEPS * settings.number("min_noising_strength", 0, low=0, high=1))
    high = int(_NUM_STEPS * settings.number("max_noising_strength", 1, low=0, high=1))
    if not low < high:
        raise ValueError("max_noising_strength is not above min_noising_strength: raise it.")
    kinds = get_args(Distribution)
    kind: Distribution = settings.one_of("timestep_distribution", "UNIFORM", kinds)
    if kind in ("COS_MAP", "SIGMOID", "INVERTED_PARABOLA"):
        p = torch.zeros(_NUM_STEPS, dtype=torch.float64)
        p[low:high] = _weights(settings, kind, high - low, shift)
        return p / p.sum()
    edges = flow.unshifted(torch.arange(_NUM_STEPS + 1).double() / _NUM_STEPS, shift)
    u = ((edges * _NUM_STEPS - low) / (high - low)).clamp(0, 1)
    return _between(settings, kind, u)


def _between(settings: Settings, kind: Distribution, u: Float[Tensor, " m"]) -> Tensor:
    """The probabilities between neighbours of a distribution on [0, 1]."""
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


_SDXL: dict[str, str | float | bool] = {"model_type": "STABLE_DIFFUSION_XL_10_BASE"}
_FLUX: dict[str, str | float | bool] = {"model_type": "FLUX_DEV_1"}
_V = {**_SDXL, "force_v_prediction": True}
_ZERO: dict[str, str | float | bool] = {
    **_SDXL,
    "rescale_noise_scheduler_to_zero_terminal_snr": True,
}
_GAMMA = {"loss_weight_strength": (5.0, 0.05, 500.0)}
_SHIFT = {"timestep_shift": (1.0, 0.05, 50.0)}

ONETRAINER = Trainer(
    name="onetrainer",
    version="OneTrainer, commit 23df383 of August 2026",
    read=read,
    is_flags=False,
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
            Option(settings={**_FLUX, "loss_weight_fn": w}, free=_SHIFT)
            for w in ("CONSTANT", "SIGMA")
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
