r"""Trainer NVIDIA PhysicsNeMo: the diffusion models of its examples, from their Hydra files.

Three examples train with EDM's loss, $(\sigma_w^{-2} + e^\lambda)\|\hat x - x\|^2$, of a network
in EDM's preconditioning of $\sigma_d$: for the network's own output the coefficient is
$(\sigma_w^{-2} + e^\lambda)/(\sigma_d^{-2} + e^\lambda)$. Numbers are constants of the code.

| example | $\ln\tilde\sigma$ | $\sigma_w$ | $\sigma_d$ |
|---|---|---|---|
| StormCast | normal or uniform, `training.loss` | `training.loss.sigma_data` | 0.5 |
| CorrDiff, of residuals | normal, `training.hp` | 0.5 | `model_args.sigma_data` |
| `diffusion_fwi` | normal, `noise_schedule` | `noise_schedule.sigma_data` | the same |

`precond` of `flow_reconstruction_diffusion` selects one of four losses that nothing else changes:
EDM's, that of the VP or the VE process, or DDPM's of 1,000 steps (`dfsr`).

References:
    https://github.com/NVIDIA/physicsnemo
"""

import math
from dataclasses import replace

from torch import Tensor

from elbos.adapters import diffusers
from elbos.adapters.trainers.flow import flow_loss
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Option, Trainer
from elbos.audit import diagnostics as kinds
from elbos.theory.parameterizations import EDM, Eps
from elbos.theory.schedules import DDPM, Linear, Normal, Schedule

_REGRESSIONS = ("regression", "lt_aware_regression", "lt_aware_ce_regression")
_CORRDIFF = ("diffusion", "patched_diffusion", "lt_aware_patched_diffusion", *_REGRESSIONS)
_DRAWN = {"lognormal": ("P_mean", "P_std"), "loguniform": ("sigma_min", "sigma_max")}


def _read(settings: Settings) -> Loss:
    if settings.has("precond"):
        names = ("edm", "vp", "ve", "dfsr", "dfsr_cond")
        return _of_precond(settings.one_of("precond", "edm", names))
    if settings.has("noise_schedule.P_mean"):
        sigma_data = settings.number("noise_schedule.sigma_data", 0.5, above=0)
        return _edm("diffusion_fwi", _normal(settings, "noise_schedule"), sigma_data, sigma_data)
    is_corrdiff = settings.has("hr_mean_conditioning") or settings.text("model") in _CORRDIFF
    name = "loss.type"
    if is_corrdiff:
        name = "model" if settings.has("model") else "model.name"  # a choice of `defaults`
    kind = settings.one_of(name, "", _CORRDIFF if is_corrdiff else ("edm", "regression"))
    if not kind:
        raise ValueError(f"{name} is not in this file: give .hydra/config.yaml of a run.")
    if kind in _REGRESSIONS:
        raise ValueError(f"{name} is {kind}: a regression has no noise levels and no weighting.")
    if is_corrdiff:
        network = settings.number("model_args.sigma_data", 0.5, above=0)
        return _edm("CorrDiff", _normal(settings, "hp", mean=0.0), network=network)
    drawn = settings.one_of("sigma_distribution", "lognormal", tuple(_DRAWN))
    for key in _DRAWN["loguniform"]:
        settings.has(f"sampler.args.{key}")  # the same name, of sampling
    ignored = [f"loss.{key}" for one, keys in _DRAWN.items() if one != drawn for key in keys]
    settings.diagnostics += map(kinds.SettingIgnored, filter(settings.has, ignored))
    low = settings.number("loss.sigma_min", 0.002, above=0)
    high = settings.number("loss.sigma_max", 80.0, above=low)
    uniform = Linear(logsnr_min=-2 * math.log(high), logsnr_max=-2 * math.log(low))
    schedule = _normal(settings, "loss") if drawn == "lognormal" else uniform
    return _edm("StormCast", schedule, settings.number("loss.sigma_data", 0.5, above=0))


def _of_precond(name: str) -> Loss:
    if name == "edm":
        return _edm(name, Normal.edm())
    if name.startswith("dfsr"):
        table = diffusers.loss_table({"_class_name": "DDPMScheduler"}, diffusers.Training())
        return replace(table, title=f"PhysicsNeMo, {name}", diagnostics=())
    vp = DDPM(logsnr_max=-math.log(math.expm1(0.1e-5 + 19.9e-10 / 2)))  # from t = 1e-5
    ve = Linear(logsnr_min=-2 * math.log(100), logsnr_max=-2 * math.log(0.02))
    schedule, factor = (vp, 1.0) if name == "vp" else (ve, -1.0)
    loss = flow_loss(f"PhysicsNeMo, {name}", schedule, factor=factor)
    return replace(loss, parameterization=Eps())


def _edm(title: str, schedule: Schedule, weight: float = 0.5, network: float = 0.5) -> Loss:
    def coefficient(logsnr: Tensor) -> Tensor:
        return (weight**-2 + logsnr.exp()) / (network**-2 + logsnr.exp())

    loss = flow_loss(f"PhysicsNeMo, {title}", schedule, coefficient=coefficient)
    return replace(loss, parameterization=EDM(sigma_data=network))


def _normal(settings: Settings, where: str, mean: float = -1.2) -> Schedule:
    mean = settings.number(f"{where}.P_mean", mean)
    return Normal.edm(p_mean=mean, p_std=settings.number(f"{where}.P_std", 1.2, above=0))


_FREE = {"training.loss.P_mean": (-1.2, -6.0, 6.0), "training.loss.P_std": (1.2, 0.2, 4.0)}
PHYSICSNEMO = Trainer(
    name="physicsnemo",
    version="PhysicsNeMo before 2.2.0, 94b3551",
    package=("nvidia-physicsnemo", "2.2.0a0"),
    read=_read,
    is_flags=False,
    findings={
        kinds.DeclaredElsewhere: ("defaults",),
        kinds.DeclaredNoise: ("student_t_nu",),
        kinds.DeclaredUneven: ("channel_loss_weights", "use_nan_mask_tokens"),
    },
    options=(Option(settings={"training.loss.type": "edm"}, free=_FREE),),
)
