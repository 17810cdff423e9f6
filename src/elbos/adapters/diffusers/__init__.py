"""Adapters for diffusers: denoisers from networks and saved pipelines, and audits of scheduler
configurations.

- `denoiser(network, scheduler)`: a UNet or transformer with its scheduler, as a denoiser.
- `load(folder)`: a pipeline of pixels that `save_pretrained` wrote, as a denoiser.
- `log_validation(history, accelerator, model, step)`: the function of that name in diffusers'
  training scripts, with the ELBO.
- `loss_table(config, training)`, `read_config(path)`: the training loss of a scheduler.
"""

from elbos.adapters.diffusers.pipeline import Pipeline, load
from elbos.adapters.diffusers.scheduled import ScheduledDenoiser, denoiser
from elbos.adapters.diffusers.schedulers import loss_table, read_config
from elbos.adapters.diffusers.training import Prediction, Scheme, Training
from elbos.adapters.diffusers.validation import log_validation

__all__ = [
    "Pipeline",
    "Prediction",
    "ScheduledDenoiser",
    "Scheme",
    "Training",
    "denoiser",
    "load",
    "log_validation",
    "loss_table",
    "read_config",
]
