r"""Trainer OneTrainer: losses from the keys of a JSON configuration.

Time steps are whole numbers $i < N = 1000$, of the table of betas, or with $t = (i + 1)/N$ in flow
matching. A distribution on $[0, 1]$ is stretched to the range between the noising strengths,
shifted, and rounded down; three others are tables of weights, of which `SIGMOID` undoes its shift
twice.
"""

import math
from dataclasses import replace

import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.diffusers import Training, loss_table
from elbos.adapters.diffusers.training import step_probability
from elbos.adapters.trainers import flow
from elbos.adapters.trainers.flow import NUM_STEPS
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Trainer
from elbos.audit import LossTable
from elbos.audit import diagnostics as kinds

_DISTRIBUTIONS = (
    *("UNIFORM", "SIGMOID", "LOGIT_NORMAL", "HEAVY_TAIL", "COS_MAP", "INVERTED_PARABOLA", "BETA"),
)
_WEIGHTS = ("CONSTANT", "P2", "MIN_SNR_GAMMA", "DEBIASED_ESTIMATION")
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
_MODEL_SHIFT = ("ANIMA", "KREA_2", "ERNIE")  # the model's scheduler file sets the shift
_UNWEIGHTED = ("UNIFORM", "COS_MAP")  # distributions that ignore noising_weight and noising_bias
_FORCE_V, _FORCE_EPS = "force_v_prediction", "force_epsilon_prediction"  # for FINE_TUNE
_NOISE = ("offset_noise_weight", "perturbation_noise_weight")
_FINDINGS = {
    kinds.DeclaredNotSquared: ("mae_strength", "log_cosh_strength", "huber_strength"),
    kinds.DeclaredNoise: _NOISE[:1],
    kinds.DeclaredPerturbed: _NOISE[1:],
    kinds.DeclaredUneven: ("masked_training",),
}


def _read(settings: Settings) -> LossTable:
    models = (*_EPS_MODELS, *_V_MODELS, *_FLOW_MODELS)
    model = settings.one_of("model_type", "STABLE_DIFFUSION_15", models)
    for name in ("huber_delta", "generalized_offset_noise", "mse_strength"):
        settings.has(name)
    for name in (*_FINDINGS[kinds.DeclaredNotSquared], *_NOISE):
        settings.number(name, 0)  # refuses words
    loss = (_flow if model in _FLOW_MODELS else _diffusion)(settings, model)
    prior = "masked_prior_preservation_weight"
    if settings.flag("masked_training") and settings.number(prior, 0):
        settings.diagnostics.append(kinds.DeclaredTerm(setting=prior))
    return loss


def _diffusion(settings: Settings, model: str) -> LossTable:
    is_zero = settings.flag("rescale_noise_scheduler_to_zero_terminal_snr")
    forced = [name for name in (_FORCE_V, _FORCE_EPS) if settings.flag(name)]
    methods = ("FINE_TUNE", "LORA", "EMBEDDING", "FINE_TUNE_VAE")
    if settings.one_of("training_method", "FINE_TUNE", methods) != "FINE_TUNE":
        settings.diagnostics += map(kinds.SettingIgnored, forced)
        forced = []
    is_v = is_zero or _FORCE_V in forced or (not forced and model in _V_MODELS)
    probability = _probability(settings, settings.number("timestep_shift", 1, above=0))
    title = f"OneTrainer, {model}"
    loss = flow.stable_diffusion(title, is_v=is_v, is_zero_terminal=is_zero)
    loss = replace(loss, probability=probability)
    if model.startswith("PIXART"):
        linear = loss_table({"_class_name": "DDPMScheduler"}, Training())
        settings.diagnostics.append(kinds.DeclaredTerm(setting="vb_loss_strength"))
        loss = replace(loss, logsnr=linear.logsnr)
    snr = loss.logsnr.exp()
    kind = settings.one_of("loss_weight_fn", "CONSTANT", _WEIGHTS)
    if kind == "CONSTANT":
        return loss
    if kind == "DEBIASED_ESTIMATION":
        return replace(loss, coefficient=torch.rsqrt(snr.clamp(max=flow.MAX_SNR) + is_v))
    strength = settings.number("loss_weight_strength", 5, above=0)
    if kind == "P2":
        return replace(loss, coefficient=(1 + snr + is_v) ** -strength)
    return replace(loss, coefficient=flow.min_snr(snr, strength, is_v=is_v))


def _flow(settings: Settings, model: str) -> LossTable:
    shift = settings.number("timestep_shift", 1, above=0)
    is_dynamic = settings.flag("dynamic_timestep_shifting")
    if is_dynamic and model not in (*_MOST_SHIFTED, *_MODEL_SHIFT, "IDEOGRAM_4"):
        settings.diagnostics.append(kinds.SettingIgnored("dynamic_timestep_shifting"))
    elif is_dynamic and "," in settings.text("resolution"):
        raise ValueError("resolution holds several values, each with another shift: give one.")
    elif is_dynamic:
        height, width = flow.resolution(settings, default=512)
        if model == "IDEOGRAM_4":
            shift = math.sqrt(height * width) / 512
        elif model in _MOST_SHIFTED:
            shift = math.exp(flow.mu_of(height, width, high=_MOST_SHIFTED[model]))
        else:
            raise ValueError(
                f"dynamic_timestep_shifting of {model} is not known: give timestep_shift."
            )
    t = torch.arange(1, NUM_STEPS + 1, dtype=torch.float64) / NUM_STEPS
    weights = ("CONSTANT",) if model == "SANA" else ("CONSTANT", "SIGMA")
    weight = settings.one_of("loss_weight_fn", "CONSTANT", weights)
    coefficient = t if weight == "SIGMA" else torch.ones_like(t)
    table = flow.flow_table(f"OneTrainer, {model}", t, _probability(settings, shift), coefficient)
    return replace(table, factor=-1.0 if model == "IDEOGRAM_4" else 1.0)


def _probability(settings: Settings, shift: float) -> Float[Tensor, " n"]:
    names = ("min_noising_strength", "max_noising_strength")
    low, high = flow.steps_between(settings, *names, is_share=True)
    kind = settings.one_of("timestep_distribution", "UNIFORM", _DISTRIBUTIONS)
    has_weight, has_bias = kind not in _UNWEIGHTED, kind not in (*_UNWEIGHTED, "HEAVY_TAIL")
    weight = settings.number("noising_weight", 0) if has_weight else 0.0
    bias = settings.number("noising_bias", 0) if has_bias else 0.0

    if kind in ("COS_MAP", "SIGMOID", "INVERTED_PARABOLA"):  # drawn as a table of weights
        line = torch.linspace(0, 1, high - low, dtype=torch.float64)
        p, u = shift / (shift + line - line * shift) ** 2, flow.unshifted(line, shift)
        middle = bias + 0.5
        if kind == "COS_MAP":
            p = p / (1 - 2 * u + 2 * u**2)
        elif kind == "SIGMOID":
            p = p * torch.sigmoid(weight * (flow.unshifted(u, shift) - middle))
        else:
            p = p * (2 - weight * (u - middle) ** 2).clamp(min=0)
        return torch.nn.functional.pad(p / p.sum(), (low, NUM_STEPS - high))

    edges = flow.unshifted(torch.arange(NUM_STEPS + 1).double() / NUM_STEPS, shift)
    u = ((edges * NUM_STEPS - low) / (high - low)).clamp(0, 1)
    if kind == "LOGIT_NORMAL":
        if not weight > -1:
            raise ValueError(f"noising_weight is {weight}: give a number above -1.")
        normal = Training(weighting_scheme="logit_normal", logit_mean=bias, logit_std=weight + 1)
        return step_probability(normal, u)
    if kind == "HEAVY_TAIL":
        scale = settings.number("noising_weight", 0, low=-1, high=1.75)
        return step_probability(Training(weighting_scheme="mode", mode_scale=scale), u)
    if kind == "BETA":
        a, b = max(1e-4, weight), max(1e-4, bias)
        return torch.from_numpy(scipy.stats.beta.cdf(u.numpy(), a, b)).diff()
    return u.diff()


ONETRAINER = Trainer(
    name="onetrainer",
    version="OneTrainer, commit 23df383 of August 2026",
    read=_read,
    findings=_FINDINGS,
)
