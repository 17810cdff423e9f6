r"""Trainer ai-toolkit: random tables of 1,000 time steps, and loss weights by time step.

`toolkit/samplers/custom_flowmatch_sampler.py`, `set_train_timesteps`, makes the table of times by
`timestep_type`:

- `linear`, `weighted`: $t = 1, .999, \ldots, .001$;
- `sigmoid`, the default: 1,000 sorted draws of $\mathrm{sigmoid}(n)$, $n \sim N(0, 1)$;
- `shift`, `flux_shift`, `lumina2_shift`: the scheduler's table, shifted by resolution, or by a
  constant $s$, which moves the clean end twice; that of SD3 and Lumina 2 is lost when their
  scheduler is made of its configuration;
- `lognorm_blend`: 250 even steps among 750 of $1 - l/\max l$, $\ln l \sim N(0, .333^2)$, rounded.

The step (`jobs/process/BaseSDTrainProcess.py`) is uniform from `min_denoising_steps` to below
`max_denoising_steps` = 999, so that the cleanest is never drawn (here it is, of `sigmoid`);
`content_or_style` draws $1000 u^3$ (content) or $1000(1 - u^3)$, the cleanest included.

The coefficient of $\|\hat u - (\epsilon - x)\|^2$ (`SDTrainer.py` of `sd_trainer`) is
1; with `linear_timesteps` a bell $e^{-2(i/1000 - 1/2)^2} - e^{-1/2}$, flat in the cleaner half with
`linear_timesteps2`; with `weighted` a table of 1,000 measured numbers, here a line through 22 of
them, to .6 %. Without flow matching, steps 2 to 998 of Stable Diffusion's table are drawn, and the
coefficient is $\min(1, \gamma/\mathrm{snr})$ (`min_snr_gamma`) or $\gamma/\mathrm{snr}$
(`snr_gamma`).

References:
    https://github.com/ostris/ai-toolkit
"""

from dataclasses import replace

import numpy as np
import scipy
import torch
from jaxtyping import Float
from torch import Tensor

from elbos.adapters.trainers import flow
from elbos.adapters.trainers.flow import NUM_STEPS
from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Trainer
from elbos.audit import diagnostics as kinds
from elbos.theory.recipes.flow import bell
from elbos.theory.schedules import Normal

_TYPES = ("sigmoid", "linear", "weighted", "shift", "flux_shift", "lumina2_shift", "lognorm_blend")
_STATIC_SHIFT = {"sd3": 1.0, "lumina2": 1.0, "wan21": 3.0, "hidream": 3.0, "zimage": 3.0}
_PIXELS_PER_TOKEN = {"flux": 16, "flex1": 16, "flex2": 16, "chroma": 8}
_WEIGHTED_STEPS = (
    *(0, 8, 25, 50, 75, 100, 150, 200, 300, 400, 500),
    *(600, 700, 750, 800, 850, 875, 900, 925, 950, 975, 999),
)
_WEIGHTED = (  # the weights of `default_weighing_scheme.py` at these steps
    *(0.906, 1.012, 1.22, 1.375, 1.471, 1.507, 1.507, 1.441, 1.264, 1.083, 0.925),
    *(0.805, 0.731, 0.715, 0.716, 0.729, 0.732, 0.716, 0.666, 0.582, 0.493, 0.447),
)
_TAIL = 1e-5  # probability cut off at either end
_FINDINGS = {
    kinds.DeclaredTarget: (
        *("learnable_snr_gos", "do_prior_divergence", "max_loss", "do_guidance_loss"),
        *("do_differential_guidance", "correct_pred_norm", "do_signal_amplification"),
        *("prior_reg", "match_adapter_assist", "unconditional_path"),
    ),
    kinds.DeclaredNoise: (
        *("noise_offset", "random_noise_shift", "dynamic_noise_offset", "random_noise_multiplier"),
        *("blended_blur_noise", "do_signal_correction_noise", "do_batch_noise_correction"),
        "force_consistent_noise",
    ),
    kinds.DeclaredTerm: (
        *("do_fft_loss", "target_norm_std", "inverted_mask_prior", "diff_output_preservation"),
        *("blank_prompt_preservation", "diffusion_feature_extractor_path"),
        "latent_feature_extractor_path",  # its former name
    ),
    kinds.DeclaredNotSquared: ("match_noise_norm",),  # scales the output to the norm of the noise
    kinds.DeclaredUneven: ("mask_path", "alpha_mask"),
    kinds.SettingIgnored: ("content_or_style_reg",),  # content_or_style is read instead
}
_NEUTRAL = {
    **dict.fromkeys(("noise_multiplier", "target_noise_multiplier", "pred_scaler"), 1),
    **dict.fromkeys(("latent_multiplier", "noisy_latent_multiplier", "img_multiplier"), 1),
    **dict.fromkeys(("adaptive_scaling_factor", "standardize_latents", "standardize_images"), 0),
    **dict.fromkeys(("train_turbo", "do_cfg", "do_random_cfg", "refiner_name_or_path"), 0),
    "t0_loss_target": 0,
    "optimal_noise_pairing_samples": 1,
    "num_train_timesteps": NUM_STEPS,
}


def _read(settings: Settings) -> Loss:
    if settings.text("arch").startswith("wan22_14b"):
        raise ValueError("arch is wan22_14b, whose networks have separate times: not supported.")
    settings.one_of("loss_target", "noise", ("noise",))
    if settings.one_of("noise_scheduler", "ddpm", ("ddpm", "flowmatch")) == "flowmatch":
        return _flow(settings)
    if settings.flag("is_v_pred"):
        raise ValueError("is_v_pred fails in this version, with a target of pixels: leave it out.")
    p = _step_probability(settings, edge=1).flip(0)  # steps count from noise to data
    table = replace(flow.stable_diffusion("ai-toolkit, Stable Diffusion"), probability=p / p.sum())
    snr = table.logsnr.exp()
    gamma, least = (settings.number(name, 0, low=0) for name in ("snr_gamma", "min_snr_gamma"))
    if gamma > 1e-6:
        return replace(table, coefficient=gamma / snr)
    return replace(table, coefficient=flow.min_snr(snr, least)) if least > 1e-6 else table


def _step_probability(settings: Settings, *, edge: int) -> Float[Tensor, " n"]:
    low = settings.integer("min_denoising_steps", 0, high=NUM_STEPS - 1)
    high = settings.integer("max_denoising_steps", NUM_STEPS - 1, low=low + 3, high=NUM_STEPS)
    choices = ("balanced", "content", "style")
    choice = settings.one_of("content_or_style", "balanced", choices)
    i = torch.arange(NUM_STEPS, dtype=torch.float64)
    if choice == "balanced":
        return ((i >= low + edge) & (i < min(high, NUM_STEPS - 1) - edge)).double()
    if (low, high) != (0, NUM_STEPS - 1):
        raise ValueError(f"content_or_style is {choice}: leave out min_ and max_denoising_steps.")
    ends = torch.arange(NUM_STEPS + 1, dtype=torch.float64) / NUM_STEPS
    content = ends.pow(1 / 3).diff()
    return content if choice == "content" else content.flip(0)


def _flow(settings: Settings) -> Loss:
    kind = settings.one_of("timestep_type", "sigmoid", _TYPES)
    is_bell, is_half = settings.flag("linear_timesteps"), settings.flag("linear_timesteps2")
    weighting = kind  # linear_timesteps changes nothing if it is "weighted"
    if kind != "weighted" and (is_bell or is_half):
        weighting = "linear_timesteps" + "2" * is_half
    p = _step_probability(settings, edge=0)
    is_whole = bool(p[:-1].min() > 0) and p[-1].item() == 0
    title = f"ai-toolkit, {weighting}"

    if weighting == "sigmoid" and is_whole:
        return flow.flow_loss(title, Normal.logit_normal())
    if weighting == "sigmoid":
        logsnr = torch.linspace(-20, 20, 4001, dtype=torch.float64)
        p = torch.softmax(_sorted_log_density(logsnr, p), 0)
        is_shown = (p.cumsum(0) > _TAIL) & (p.flip(0).cumsum(0).flip(0) > _TAIL)
        table = flow.flow_table(title, flow.time_of(logsnr[is_shown]), p[is_shown])
        return replace(table, logsnr=logsnr[is_shown])
    if weighting == "lognorm_blend":
        if not is_whole:
            raise ValueError("timestep_type is lognorm_blend: leave out restrictions of the steps.")
        t, p = _lognorm_blend()
        return flow.flow_table(title, t, p)

    tables = [flow.even_times()]
    if weighting.endswith("shift"):
        arch = "flux" if settings.flag("is_flux") else settings.text("arch", "sd3")
        if arch in _STATIC_SHIFT:
            shift = _STATIC_SHIFT[arch]
            tables = [flow.even_times(shift, last=flow.even_times(shift)[-1].item())]
        elif arch in _PIXELS_PER_TOKEN:
            pixels = _PIXELS_PER_TOKEN[arch]
            shifts = flow.shifts_by_resolution(settings, "resolution", pixels=pixels)
            tables = [flow.even_times(shift) for shift in shifts]
        else:
            names = ", ".join([*_STATIC_SHIFT, *_PIXELS_PER_TOKEN])
            raise ValueError(f"arch is {arch!r}: the shifts of {names} are known here.")

    i = torch.arange(NUM_STEPS, dtype=torch.float64)
    weight = torch.ones_like(i)
    if weighting == "weighted":
        weight = torch.from_numpy(np.interp(i, _WEIGHTED_STEPS, _WEIGHTED))
    elif weighting.startswith("linear_timesteps"):
        weight = bell(i / NUM_STEPS)
        if is_half:
            weight[NUM_STEPS // 2 :] = weight.max()
    t, num = torch.cat(tables), len(tables)
    return flow.flow_table(title, t, p.repeat(num), weight.repeat(num))


def _sorted_log_density(
    logsnr: Float[Tensor, " n"], p: Float[Tensor, " steps"]
) -> Float[Tensor, " n"]:
    """Return the log-density of a log-SNR chosen, by rank with probabilities `p`, among 1,000 draws
    from $N(0, 2^2)$: that of one draw, times the mean of `p` at the number of noisier draws.
    """
    i, n, special = np.arange(NUM_STEPS), NUM_STEPS - 1, scipy.special
    noisier, cleaner = special.ndtr(logsnr.numpy() / 2), special.ndtr(-logsnr.numpy() / 2)
    log_ways = special.gammaln(NUM_STEPS) - special.gammaln(i + 1) - special.gammaln(n - i + 1)
    log_share = special.xlogy(i, noisier[:, None]) + special.xlogy(n - i, cleaner[:, None])
    mean_p = np.exp(log_ways + log_share) @ p.numpy()
    return torch.from_numpy(np.log(np.maximum(mean_p, 1e-300))) - logsnr**2 / 8


def _lognorm_blend() -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    u = (np.arange(400) + 0.5) / 400  # quantiles of the largest draw, whose own time is 0
    largest = scipy.stats.lognorm.ppf(u ** (1 / 750), 0.333)[:, None]
    share = 1 - np.arange(NUM_STEPS, -1, -1) / NUM_STEPS  # times as fractions of the largest draw
    below, most = (scipy.stats.lognorm.cdf(part, 0.333) for part in (largest * share, largest))
    p = 749 * np.diff((below / most).mean(0))[::-1]  # probability of each integer from 0 to 999
    p = np.append(p, 0.0)
    p[1:] += 0.25  # the share of 250 even steps
    return torch.arange(NUM_STEPS + 1, dtype=torch.float64) / NUM_STEPS, torch.from_numpy(p)


AI_TOOLKIT = Trainer(
    name="ai-toolkit",
    version="ai-toolkit 0.12.26, 27a03a9",
    read=_read,
    loss_types=("mse", "mae", "pseudo_huber", "wavelet", "stepped"),
    findings=_FINDINGS,
    neutral=_NEUTRAL,
)
