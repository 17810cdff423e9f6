"""The settings of each loss of `trainer_losses`, as that trainer's users write them."""

import trainer_losses

from elbos.adapters.trainers import TRAINERS

LOSSES = vars(trainer_losses)
FLOWMATCH = {"noise_scheduler": "flowmatch"}


def ai_toolkit(train, **others):
    """The nested keys of a job."""
    return {"job": "extension", "config": {"process": [{"train": train, **others}]}}


SETTINGS = {
    "simpletuner_flux": {"model_family": "flux"},
    "simpletuner_auto_shift": {"model_family": "flux", "flow_schedule_auto_shift": True,
        "flow_sigmoid_scale": 0.7, "resolution": 768},
    "simpletuner_beta": {"model_family": "sd3", "flow_use_beta_schedule": True,
        "flow_beta_schedule_alpha": 2, "flow_beta_schedule_beta": 3, "flow_schedule_shift": 1.5},
    "simpletuner_sdxl_v": {"model_family": "sdxl", "prediction_type": "v_prediction",
        "snr_gamma": 5, "train_batch_size": 4},
    "simpletuner_sd2x": {"model_family": "sd2x", "snr_gamma": 5, "train_batch_size": 1,
        "timestep_bias_strategy": "later", "timestep_bias_multiplier": 3},
    "simpletuner_wan_high_noise": {"model_family": "wan", "model_flavour": "i2v-14b-2.2-high",
        "flow_schedule_shift": 3, "timestep_sampling_offset": 0.4},
    "ai_toolkit_sigmoid": ai_toolkit(FLOWMATCH),
    "ai_toolkit_bell": ai_toolkit(FLOWMATCH | {"linear_timesteps": True}),
    "ai_toolkit_half_bell": ai_toolkit(FLOWMATCH | {"linear_timesteps2": True}),
    "ai_toolkit_flux_shift": ai_toolkit(FLOWMATCH | {"timestep_type": "flux_shift"},
        model={"is_flux": True}, datasets=[{"resolution": [1024]}]),
    "ai_toolkit_lost_shift": ai_toolkit(FLOWMATCH | {"timestep_type": "shift"},
        model={"arch": "lumina2"}),
    "ai_toolkit_content": ai_toolkit(FLOWMATCH | {"content_or_style": "content",
        "timestep_type": "linear"}),
    "ai_toolkit_style_sigmoid": ai_toolkit(FLOWMATCH | {"content_or_style": "style"}),
    "ai_toolkit_lognorm_blend": ai_toolkit(FLOWMATCH | {"timestep_type": "lognorm_blend"}),
    "ai_toolkit_sd": ai_toolkit({"min_snr_gamma": 5}),
    "ai_toolkit_sd_fixed": ai_toolkit({"snr_gamma": 5}),
    "diffusion_pipe_flux": {"model": {"type": "flux", "flux_shift": True, "sigmoid_scale": 1.2},
        "resolutions": [640]},
    "diffusion_pipe_lumina": {"model": {"type": "lumina_2", "shift": 3,
        "timestep_sample_method": "uniform"}},
    "diffusion_pipe_wan": {"model": {"type": "wan", "shift": 3, "min_t": 0.2, "max_t": 0.875}},
    "diffusion_pipe_sdxl_v": {"model": {"type": "sdxl", "v_pred": True, "min_snr_gamma": 5}},
    "diffusion_pipe_sdxl_debiased": {"model": {"type": "sdxl", "debiased_estimation_loss": True}},
    "diffusion_pipe_cosmos": {"model": {"type": "cosmos"}},
}  # fmt: skip


def trainer_of(name):
    """The trainer of a loss."""
    return next(TRAINERS[t] for t in TRAINERS if name.startswith(t.replace("-", "_")))
