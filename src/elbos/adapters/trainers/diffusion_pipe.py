r"""Trainer diffusion-pipe: flow matching for flow models, betas for SDXL, EDM's loss for Cosmos.

`models/*.py`, `prepare_inputs`: $t = \mathrm{sigmoid}(a\,n)$ with $n \sim N(0, 1)$ and $a$ =
`sigmoid_scale`, or uniform (`timestep_sample_method`); then `shift` $s$, or else, where it is not
given, by resolution with `flux_shift` (Lumina's is called `lumina_shift`). The loss is the plain
$\|\hat u - (\epsilon - x)\|^2$, for some models of $x - \epsilon$. `models/wan/wan.py` and
`utils/common.py`: Wan's times are 10,000 quantiles between $10^{-4}$ and $1 - 10^{-4}$, of which
those in [`min_t`, `max_t`) are drawn.

`models/sdxl.py`: uniform steps of Stable Diffusion's table; with `v_pred` the noise is rescaled to
zero terminal SNR, but the weights take the SNR $\rho$ from before. They are
$\min(\rho, \gamma)/\rho$ or, with `v_pred`, $\min(\rho, \gamma)/(\rho + 1)$; and
`debiased_estimation_loss`, which is on even where it is false, multiplies with
$1/\sqrt{\min(\rho, 1000)}$ or $1/(\min(\rho, 1000) + 1)$.

`models/cosmos.py`: EDM's loss with $\sigma_d = .5$ and $\ln\tilde\sigma \sim N(0, 1)$.

References:
    https://github.com/tdrussell/diffusion-pipe
"""

import math
from dataclasses import replace

import torch

from elbos.adapters.trainers import flow
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Trainer
from elbos.audit import diagnostics as kinds
from elbos.theory.parameterizations import EDM
from elbos.theory.schedules import Flow as Uniform
from elbos.theory.schedules import Mixture, Normal, Schedule

_REVERSED = ("lumina_2", "omnigen2", "hidream", "z_image")  # predict data minus noise
_UNSHIFTED = ("ltx-video",)
_PIXELS_PER_TOKEN = {  # tokens count 2 x 2 latents, whatever the network's patches
    **dict.fromkeys(("flux2", "ernie_image", "ideogram4", "hunyuan_video_15"), 32),
    **dict.fromkeys(("hunyuan_image", "ltx2"), 64),
}
_NO_FLUX_SHIFT = ("hunyuan-video", *_UNSHIFTED)
_MODELS = (
    *("flux", "chroma", "wan", "sd3", "cosmos_predict2", "anima", "qwen_image", "hunyuan_image"),
    *("auraflow", "hunyuan_video_15", "flux2", "ernie_image", "ltx2", "ideogram4", "krea2"),
    *("sdxl", "cosmos", *_REVERSED, *_NO_FLUX_SHIFT),
)
_FINDINGS = {
    kinds.DeclaredNotSquared: ("huber_delta", "smooth_l1_beta"),
    kinds.SettingIgnored: ("pseudo_huber_c",),  # named in the example's comments, never read
    kinds.DeclaredTerm: ("multiscale_loss_weight",),
    kinds.DeclaredUneven: ("first_frame_conditioning_p", "mask_path", "default_mask_file"),
}


def _read(settings: Settings) -> Loss:
    model = settings.one_of("model.type", "flux", _MODELS)
    title = f"diffusion-pipe, {model}"
    if model == "sdxl":
        is_v, snr = settings.flag("v_pred"), flow.stable_diffusion().logsnr.exp()
        coefficient = torch.ones_like(snr)
        if settings.has("min_snr_gamma"):
            gamma = settings.number("min_snr_gamma", 1, above=0)
            coefficient *= flow.min_snr(snr, gamma, is_v=is_v)
        if settings.has("debiased_estimation_loss"):
            coefficient *= flow.debiased(snr, is_v=is_v)
            if not settings.flag("debiased_estimation_loss"):
                settings.diagnostics.append(kinds.SettingOn(setting="debiased_estimation_loss"))
        if is_v and (coefficient != 1).any():
            settings.diagnostics.append(kinds.DeclaredSnr(setting="v_pred"))
        table = flow.stable_diffusion(title, is_v=is_v, is_zero_terminal=is_v)
        return replace(table, coefficient=coefficient)
    if model == "cosmos":
        edm = flow.flow_loss(title, Normal.edm(p_mean=0.0, p_std=1.0))
        return replace(edm, parameterization=EDM())
    shifts = [1.0]
    if model not in _UNSHIFTED:
        by_resolution = "lumina_shift" if model == "lumina_2" else "flux_shift"
        shift = settings.number("shift", 0.0, low=0)
        shifts = [shift or 1.0]
        if not shift and model not in _NO_FLUX_SHIFT and settings.flag(by_resolution):
            pixels = _PIXELS_PER_TOKEN.get(model, 16)
            shifts = flow.shifts_by_resolution(settings, "resolutions", pixels=pixels)

    methods = ("logit_normal", "uniform")
    is_normal = settings.one_of("timestep_sample_method", "logit_normal", methods) == methods[0]
    scale = settings.number("sigmoid_scale", 1.0, above=0) if is_normal else 1.0
    parts = list[Schedule]()
    for shift in shifts:
        ends = {}
        if model == "wan":
            t = torch.tensor([1 - 1e-4, 1e-4], dtype=torch.float64)
            t = torch.sigmoid(scale * torch.special.ndtri(t)) if is_normal else t
            last, first = flow.shifted(t, shift).tolist()
            first = max(first, settings.number("min_t", 0.0, low=0, high=1))
            last = min(last, settings.number("max_t", 1.0, low=0, high=1))
            if not first < last:
                raise ValueError(f"min_t is {first:g}, max_t {last:g}: there is no time between.")
            low, high = flow.logsnr_of(torch.tensor([last, first], dtype=torch.float64)).tolist()
            ends = {"logsnr_min": low, "logsnr_max": high}
        normal = Normal.logit_normal(mean=math.log(shift), std=scale, **ends)
        parts.append(normal if is_normal else Uniform(shift=shift, **ends))
    schedule = parts[0]
    if len(parts) > 1:
        schedule = Mixture(schedules=tuple(parts), shares=(1.0,) * len(parts))
    factor = -1.0 if model in _REVERSED else 1.0
    return flow.flow_loss(title, schedule, factor=factor)


DIFFUSION_PIPE = Trainer(
    name="diffusion-pipe",
    version="diffusion-pipe, commit 8f83dbf of August 2026",
    read=_read,
    findings=_FINDINGS,
)
