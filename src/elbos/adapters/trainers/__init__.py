"""What the settings of public trainers train: one adapter a file, from flags or keys to the loss.

An adapter reads the settings that change the loss, exactly as that trainer's code uses them, in the
version that it names. `Trainer.loss` gives the loss, `Trainer.audit` its audit.

Examples:
    >>> settings = read_settings("--timestep_sampling shift --model_prediction_type raw")
    >>> TRAINERS["kohya"].audit(settings).schedule
    'Normal(mean=-2.1972245773362196, std=2.0)'
"""

from elbos.adapters.trainers.kohya import KOHYA
from elbos.adapters.trainers.settings import Settings, read_settings
from elbos.adapters.trainers.trainer import Loss, Option, Trainer

__all__ = ["TRAINERS", "Loss", "Option", "Settings", "Trainer", "read_settings"]

TRAINERS: dict[str, Trainer] = {trainer.name: trainer for trainer in (KOHYA,)}
"""Every trainer by its name on the command line."""
