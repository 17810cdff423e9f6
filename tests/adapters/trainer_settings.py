"""The settings of each loss of `trainer_losses`, as that trainer's users write them."""

import trainer_losses
import trainer_losses_physics
import trainer_losses_video

from elbos.adapters.trainers import TRAINERS

LOSSES = vars(trainer_losses) | vars(trainer_losses_video) | vars(trainer_losses_physics)
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
    "simpletuner_uniform": {"flow_use_uniform_schedule": True, "flow_schedule_shift": 0},
    "simpletuner_cubic": {"flow_cubic_schedule_weights": [1, 2]},
    "simpletuner_sdxl_v": {"model_family": "sdxl", "prediction_type": "v_prediction",
        "snr_gamma": 5, "train_batch_size": 4},
    "simpletuner_sd2x": {"model_family": "sd2x", "snr_gamma": 5, "train_batch_size": 1,
        "timestep_bias_strategy": "later", "timestep_bias_multiplier": 3},
    "simpletuner_refiner": {"model_family": "sdxl", "model_flavour": "1.0-refiner",
        "train_batch_size": 2},
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
    "ai_toolkit_t0": ai_toolkit(FLOWMATCH | {"timestep_type": "linear", "t0_loss_target": True,
        "t0_velocity_equiv_weight": True}),
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
    "diffsynth_flux": {"model_id_with_origin_paths": "black-forest-labs/FLUX.1-dev:ae.safetensors"},
    "diffsynth_wan_low_noise": {"model_id_with_origin_paths":
        "Wan-AI/Wan2.2-T2V-A14B:low_noise_model/*.safetensors", "max_timestep_boundary": 1,
        "min_timestep_boundary": 0.358},
    "diffsynth_qwen_image": {"model_id_with_origin_paths": "Qwen/Qwen-Image:transformer/*"},
    "diffsynth_sdxl": {"template": "Stable-Diffusion", "task": "sft"},
    "lerobot_pi0": {"policy": {"type": "pi0"}, "optimizer": {"type": "adamw"}},
    "lerobot_pi0_beta": {"policy.type": "pi0", "policy.time_sampling_beta_alpha": 1,
        "policy.time_sampling_beta_beta": 1.5},
    "lerobot_pi05_scale": {"policy.type": "pi05", "policy.time_sampling_scale": 0.9,
        "policy.time_sampling_offset": 0.05},
    "lerobot_smolvla": {"type": "smolvla"},
    "torchtitan_flux": {"module": "flux", "config": "flux_dev"},
    "torchtitan_flux_packed": {"config": "flux_schnell"},
    "automodel_default": {"flow_matching": {"adapter_type": "simple"}},
    "automodel_mode": {"timestep_sampling": "mode", "mix_uniform_ratio": 0, "flow_shift": 2,
        "loss_weighting_scheme": "bsmntw"},
    "fastvideo_wan": {"models": {"student": {"_target_":
        "fastvideo.train.models.wan.wan.WanModel"}}, "pipeline": {"flow_shift": 5},
        "training": {"model": {"weighting_scheme": "logit_normal", "logit_mean": 0.4,
        "logit_std": 0.7, "precondition_outputs": True}}},
    "fastvideo_hunyuan": {"models.student._target_":
        "fastvideo.train.models.hunyuan.hunyuan.HunyuanModel",
        "training.model.weighting_scheme": "cosmap"},
    "ltx_default": {"resolution_buckets": "960x544x49"},
    "physicsnemo_stormcast": {"training": {"loss": {"type": "edm", "sigma_data": 1.5}}},
    "physicsnemo_stormcast_uniform": {"training": {"loss": {"type": "edm",
        "sigma_distribution": "loguniform", "P_mean": 0.4, "sigma_min": 0.01, "sigma_max": 50}},
        "sampler": {"args": {"sigma_min": 0.002, "sigma_max": 800}}},
    "physicsnemo_corrdiff": {"model": {"name": "patched_diffusion", "hr_mean_conditioning": True,
        "model_args": {"sigma_data": 0.8}}, "training": {"hp": {"P_std": 0.9, "patch_num": 4}}},
    "physicsnemo_fwi": {"noise_schedule": {"P_mean": 0.3, "P_std": 1.0, "sigma_data": 0.7}},
    "physicsnemo_vp": {"precond": "vp", "sigma_max": None},
    "physicsnemo_ve": {"precond": "ve", "sigma_max": 80},
    "physicsnemo_dfsr": {"precond": "dfsr_cond"},
}  # fmt: skip


def trainer_of(name):
    """The trainer of a loss."""
    return next(TRAINERS[t] for t in TRAINERS if name.startswith(t.replace("-", "_")))
