"""Training losses of public trainers, reconstructed from settings; one module per trainer.

An adapter reads the settings that change the loss, as the trainer's code in the stated version uses
them. `Trainer.loss` returns the loss, `Trainer.audit` its audit.

Examples:
    >>> settings = read_settings("--timestep_sampling shift --model_prediction_type raw")
    >>> TRAINERS["kohya"].audit(settings).schedule
    'Normal(mean=-2.197, std=2.0)'
"""

from elbos.adapters.trainers.ai_toolkit import AI_TOOLKIT
from elbos.adapters.trainers.diffusers import DIFFUSERS
from elbos.adapters.trainers.diffusion_pipe import DIFFUSION_PIPE
from elbos.adapters.trainers.kohya import KOHYA
from elbos.adapters.trainers.musubi import MUSUBI
from elbos.adapters.trainers.onetrainer import ONETRAINER
from elbos.adapters.trainers.settings import Settings, read_settings
from elbos.adapters.trainers.simpletuner import SIMPLETUNER
from elbos.adapters.trainers.trainer import Loss, Trainer

__all__ = ["TRAINERS", "Loss", "Settings", "Trainer", "read_settings"]

TRAINERS: dict[str, Trainer] = {
    trainer.name: trainer
    for trainer in (
        *(DIFFUSERS, KOHYA, MUSUBI, ONETRAINER, SIMPLETUNER, AI_TOOLKIT, DIFFUSION_PIPE),
    )
}
"""Every trainer by its name on the command line."""
