"""Training losses of public trainers, reconstructed from settings; one module per trainer.

An adapter reads the settings that change the loss, as the trainer's code in the stated version uses
them. `Trainer.loss` returns the loss, `Trainer.audit` its audit.

Examples:
    >>> settings = read_settings("--timestep_sampling shift --model_prediction_type raw")
    >>> TRAINERS["kohya"].audit(settings).schedule
    'Normal(mean=-2.197, std=2.0)'
"""

from elbos.adapters.trainers.ai_toolkit import AI_TOOLKIT
from elbos.adapters.trainers.automodel import AUTOMODEL
from elbos.adapters.trainers.diffsynth import DIFFSYNTH
from elbos.adapters.trainers.diffusion_pipe import DIFFUSION_PIPE
from elbos.adapters.trainers.fastvideo import FASTVIDEO
from elbos.adapters.trainers.kohya import KOHYA
from elbos.adapters.trainers.lerobot import LEROBOT
from elbos.adapters.trainers.ltx import LTX
from elbos.adapters.trainers.musubi import MUSUBI
from elbos.adapters.trainers.onetrainer import ONETRAINER
from elbos.adapters.trainers.physicsnemo import PHYSICSNEMO
from elbos.adapters.trainers.settings import Settings, read_settings
from elbos.adapters.trainers.simpletuner import SIMPLETUNER
from elbos.adapters.trainers.torchtitan import TORCHTITAN
from elbos.adapters.trainers.trainer import Loss, Option, Trainer, audit_of
from elbos.adapters.trainers.translation import Translation, translation
from elbos.audit import Audit
from elbos.base.errors import suggestion

__all__ = [
    "TRAINERS",
    "Loss",
    "Option",
    "Settings",
    "Trainer",
    "Translation",
    "read_settings",
    "trainer",
    "translate",
]

TRAINERS: dict[str, Trainer] = {
    one.name: one
    for one in (
        KOHYA,
        MUSUBI,
        ONETRAINER,
        SIMPLETUNER,
        AI_TOOLKIT,
        DIFFUSION_PIPE,
        DIFFSYNTH,
        LEROBOT,
        TORCHTITAN,
        AUTOMODEL,
        FASTVIDEO,
        LTX,
        PHYSICSNEMO,
    )
}
"""Every trainer by its name on the command line."""


def trainer(name: str) -> Trainer:
    """Return the adapter for the trainer of the given name.

    A ValueError is raised for an unknown name.
    """
    if name not in TRAINERS:
        raise ValueError(f"There is no trainer {name!r}: {suggestion(name, TRAINERS)}")
    return TRAINERS[name]


def translate(loss: Loss | Audit, name: str) -> Translation:
    """Translate a loss into the closest settings of another trainer.

    The settings have the weighting closest to that of the loss.

    Args:
        loss: A declared loss, or an audit, declared or measured.
        name: One of `TRAINERS`; a ValueError names the nearest if it is unknown.

    Examples:
        >>> loss = TRAINERS["kohya"].loss(read_settings("--min_snr_gamma 5"))
        >>> print(translate(loss, "onetrainer").text)
        model_type: "STABLE_DIFFUSION_XL_10_BASE"
        loss_weight_fn: "MIN_SNR_GAMMA"
        loss_weight_strength: 5.0
    """
    return translation(loss if isinstance(loss, Audit) else audit_of(loss), trainer(name))
