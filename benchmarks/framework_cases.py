"""Trainers that are configured by files: their own functions, as in trainer_cases.py."""

import itertools
from pathlib import Path
from types import SimpleNamespace as Space
from typing import Any

import torch
from diffusers import DDPMScheduler
from foreign import (
    SIDE,
    STABLE_DIFFUSION,
    Cases,
    draws_of,
    draws_of_steps,
    joined,
    lines,
    run,
    some,
)


def diffusion_pipe(folder: Path, num: int) -> Cases:
    common = vars(run(folder / "utils/common.py"))
    sizes = dict.fromkeys(("flux2", "ernie_image", "ideogram4", "hunyuan_video_15"), 16)
    sizes |= dict.fromkeys(("hunyuan_image", "ltx2"), 32)  # pixels of a latent, else 8
    models = (
        *("flux", "chroma", "sd3", "cosmos_predict2", "qwen_image", "auraflow", "krea2"),
        *("lumina_2", "omnigen2", "hidream", "z_image", "hunyuan-video", "ltx-video", "wan"),
        *sizes,
    )
    methods = ({}, {"sigmoid_scale": 0.7}, {"timestep_sample_method": "uniform"})
    for model, method, shift in some(
        120, models, methods, ({}, {"shift": 2.5}, {"flux_shift": True, "lumina_shift": True})
    ):
        config = {**method, **shift}
        name = model.replace("-", "_")
        path = folder / f"models/{'wan/wan' if model == 'wan' else name}.py"
        config |= {"min_t": 0.1, "max_t": 0.875} if model == "wan" and shift else {}
        names = common | vars(run(path, **common)) | {"timestep_quantile": None, "device": "cpu"}
        names |= dict.fromkeys("hw", SIDE // sizes.get(model, 8))
        names |= {"bs": num, "latents": Space(device="cpu")}
        self = Space(model_config=config)
        first, last = "timestep_sample_method = self", "if shift :="
        if model == "wan":
            self.t_dist = common["get_t_distribution"](config)
            first, last = "t = self.t_dist", "t = sample_t"
        elif model == "ltx-video":
            last = "x_1 = latents"
        t = lines(path, "prepare_inputs", first, last, **names | {"self": self}).t
        yield {"model": {"type": model, **config}, "resolutions": [SIDE]}, draws_of(t)
    path = folder / "models/sdxl.py"
    own = vars(run(path))
    for parts in itertools.product(
        ({}, {"v_pred": True}),
        ({}, {"min_snr_gamma": 5.0}),
        ({}, {"debiased_estimation_loss": False}),
    ):
        config = joined(parts)
        scheduler = DDPMScheduler(**STABLE_DIFFUSION)
        names = {"v_pred": False, "min_snr_gamma": None, "debiased_estimation_loss": None}
        self = Space(**names | config, scheduler=scheduler)
        first = "prepare_scheduler_for_custom_training"
        lines(path, "__init__", first, "if self.v_pred", **own | {"self": self})
        names = own | {"self": self, "bs": num, "device": "cpu", "timestep_quantile": None}
        ends = "min_timestep = 0", "if timestep_quantile"
        step = lines(path, "prepare_inputs", *ends, **names).timesteps

        def weigh(step: Any, names: Any = names) -> Any:
            ends = "if self.min_snr_gamma", "if self.debiased_estimation_loss"
            given = names | {"loss": torch.ones(len(step)), "timesteps": step}
            return lines(path, "loss_fn", *ends, **given).loss

        yield {"model": {"type": "sdxl", **config}}, draws_of_steps(scheduler, step, weigh)


SOURCES = {"diffusion-pipe": diffusion_pipe}
