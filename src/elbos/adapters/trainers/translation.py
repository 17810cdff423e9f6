"""Translation of a loss into the settings of another trainer with the closest weighting.

Each of the trainer's options is a family of weightings; its free settings are fitted to the loss's
weighting. The distance is that of `audit.distance`, over the noise levels that the loss draws: 0.05
means that the weightings differ by 5 %. Options with the network target of the loss take precedence
over all others.
"""

import json
import math
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Option, Trainer, Values
from elbos.audit import Audit
from elbos.audit.declare import log_weighting
from elbos.audit.density.distance import spread
from elbos.audit.density.families import fit_family
from elbos.audit.names.matching import MIN_GAIN, SAME, Prediction
from elbos.audit.words import in_words
from elbos.base.html import render

_MAX_CALLS = 120
_MAX_UNDRAWN = 0.01  # largest share of samples at levels that the settings never draw


@dataclass(frozen=True)
class Translation:
    """Settings of a trainer that are closest to a given loss.

    Attributes:
        trainer: Name of the trainer.
        settings: Setting names and values.
        distance: Distance between the weightings; infinite if none draws the loss's noise levels.
        prediction: The network's target under these settings: eps, x, v, flow, or None.
        is_same_prediction: Whether the network's target is that of the loss.
        text: The settings as flags, or as keys of a file, to be pasted.
    """

    trainer: str
    settings: Values
    distance: float
    prediction: str | None
    is_same_prediction: bool
    text: str

    @property
    def is_same(self) -> bool:
        """Return whether the translated loss is equivalent to the given loss.

        The weightings agree within tolerance, and the networks predict the same target.
        """
        return self.distance < SAME and self.is_same_prediction

    def to_text(self, title: str) -> str:
        said = render(
            "adapters/trainers/translation.txt",
            title=title,
            translation=self,
            off=in_words(self.distance),
        )
        indented = (self.text or "(its defaults)").replace("\n", "\n  ")
        return f"{' '.join(said.split())}\n\n  {indented}\n"

    def to_dict(self) -> dict[str, Any]:
        """Return all fields of the translated loss as JSON values.

        None stands for an infinite distance.
        """
        off = self.distance if math.isfinite(self.distance) else None
        return {**asdict(self), "settings": dict(self.settings), "distance": off}


def translation(audit: Audit, trainer: Trainer) -> Translation:
    names = [_prediction(trainer, option) for option in trainer.options]
    is_same = audit.parameterization in names
    options = [
        option
        for option, name in zip(trainer.options, names, strict=True)
        if name == audit.parameterization or not is_same
    ]
    if not options:
        raise ValueError(f"Translation into settings of {trainer.name} is not supported.")
    fits = [_fitted(audit, trainer, option) for option in options]
    settings, off = min(fits, key=lambda fit: fit[1] + MIN_GAIN * len(fit[0]))
    prediction = _prediction(trainer, Option(settings=settings))
    if not trainer.is_flags:
        text = "\n".join(f"{name}: {json.dumps(value)}" for name, value in settings.items())
        return Translation(trainer.name, settings, off, prediction, is_same, text)
    words = [f"{settings['script']}.py"] if "script" in settings else []
    for name, value in settings.items():
        if name != "script" and value is not False:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            words += [f"--{name}"] + [shlex.quote(shown)] * (value is not True)
    return Translation(trainer.name, settings, off, prediction, is_same, " ".join(words))


def _prediction(trainer: Trainer, option: Option) -> str | None:
    starts = {name: start for name, (start, _, _) in option.free.items()}
    loss = trainer.read(Settings({**option.settings, **starts}))
    return Prediction.from_target(loss.parameterization).name


def _fitted(audit: Audit, trainer: Trainer, option: Option) -> tuple[Values, float]:
    logsnr, log_w = audit.logsnr.numpy(), audit.weight.log().numpy()
    p = audit.density.numpy()
    limits = option.free.values()

    def values_of(theta: Iterable[float]) -> list[float]:
        pairs = zip(theta, limits, strict=True)
        return [math.exp(value) if low > 0 else value for value, (_, low, _) in pairs]

    def settings_of(values: Iterable[float]) -> Values:
        return {**option.settings, **dict(zip(option.free, values, strict=True))}

    def loss_of(*theta: float) -> Loss:
        return trainer.read(Settings(settings_of(values_of(theta))))

    def distance_of(loss: Loss) -> float:
        log_v = log_weighting(loss, logsnr)
        is_drawn = np.isfinite(log_v)
        if p[is_drawn].sum() < (1 - _MAX_UNDRAWN) * p.sum():
            return math.inf
        return spread((log_w - log_v)[is_drawn], p[is_drawn] / p[is_drawn].sum())

    free = [[math.log(value) if one[1] > 0 else value for value in one] for one in limits]
    start, bounds = [one[0] for one in free], [(one[1], one[2]) for one in free]
    theta = fit_family(loss_of, start, distance_of, bounds=bounds, max_calls=_MAX_CALLS)
    settings = settings_of(float(f"{round(value, 3) + 0.0:.3g}") for value in values_of(theta))
    return settings, distance_of(trainer.read(Settings(settings)))
