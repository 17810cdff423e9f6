r"""Translate a loss to the nearest settings of another trainer.

Each of the trainer's options is a family of weightings; its free settings are fitted to the loss's
weighting, those that are above 0 by their logarithm. The distance is that of `audit.matching`, over
the noise levels that the loss draws: 0.05 means that the weightings differ by 5 %.

What a network predicts is part of its meaning: options that predict what the loss predicts are
taken, if there are any.
"""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from elbos.adapters.trainers.settings import Settings
from elbos.adapters.trainers.trainer import Loss, Option, Trainer
from elbos.audit import Audit
from elbos.audit.declare import log_weighting
from elbos.audit.families import fit_family
from elbos.audit.matching import MIN_GAIN, SAME, Prediction, distance
from elbos.base.arrays import Array

_MAX_CALLS = 120
_MAX_UNDRAWN = 0.01  # of the loss's samples, at levels which the settings never draw

Value = str | float | bool


@dataclass(frozen=True)
class Translation:
    """Settings of a trainer, and how far the weighting that they train is from another loss's.

    Attributes:
        trainer: Its name.
        settings: Names and values.
        distance: That of the weightings; infinity where the trainer has no settings like it.
        prediction: What the network predicts then: eps, x, v, flow, or None.
        is_same_prediction: Whether that is what it predicts in the loss.
        text: The settings as flags, or as keys, to be pasted.
    """

    trainer: str
    settings: Mapping[str, Value]
    distance: float
    prediction: str | None
    is_same_prediction: bool
    text: str

    @property
    def is_same(self) -> bool:
        """Return whether the two weightings count as the same."""
        return self.distance < SAME and self.is_same_prediction

    def to_dict(self) -> dict[str, Any]:
        """All fields, as plain values; None for an infinite distance."""
        off = self.distance if math.isfinite(self.distance) else None
        return {**asdict(self), "settings": dict(self.settings), "distance": off}


def translation(audit: Audit, trainer: Trainer) -> Translation:
    """The nearest settings of a trainer.

    Raises:
        ValueError: If translations into this trainer's settings are not known.
    """
    names = [_prediction(trainer, option) for option in trainer.options]
    is_same = audit.parameterization in names
    options = [
        option
        for option, name in zip(trainer.options, names, strict=True)
        if name == audit.parameterization or not is_same
    ]
    if not options:
        raise ValueError(f"Translations into settings of {trainer.name} are not known here.")
    fits = [_fitted(audit, trainer, option) for option in options]
    settings, off = min(fits, key=lambda fit: fit[1] + MIN_GAIN * len(fit[0]))
    prediction = _prediction(trainer, Option(settings=settings))
    text = _text(settings, trainer)
    return Translation(trainer.name, settings, off, prediction, is_same, text)


def _prediction(trainer: Trainer, option: Option) -> str | None:
    loss = trainer.read(Settings(_with(option, [start for start, *_ in option.free.values()])))
    return Prediction.from_target(loss.parameterization).name


def _fitted(audit: Audit, trainer: Trainer, option: Option) -> tuple[dict[str, Value], float]:
    """The settings of an option with the nearest weighting, rounded, and its distance."""
    logsnr, log_w = audit.logsnr.numpy(), audit.weight.log().numpy()
    p = audit.density.numpy()

    def loss_of(*theta: float) -> Loss:
        values = [_value(*args) for args in zip(theta, option.free.values(), strict=True)]
        return trainer.read(Settings(_with(option, values)))

    def distance_of(loss: Loss) -> float:
        return _distance(loss, logsnr, log_w, p)

    start = [_scaled(start, low) for start, low, _ in option.free.values()]
    bounds = [(_scaled(low, low), _scaled(high, low)) for _, low, high in option.free.values()]
    theta = fit_family(loss_of, start, distance_of, bounds=bounds, max_calls=_MAX_CALLS)
    values = [_value(*args) for args in zip(theta, option.free.values(), strict=True)]
    settings = _with(option, [float(f"{round(value, 3) + 0.0:.3g}") for value in values])
    return settings, distance_of(trainer.read(Settings(settings)))


def _distance(loss: Loss, logsnr: Array, log_w: Array, p: Array) -> float:
    log_v = log_weighting(loss, logsnr)
    is_drawn = np.isfinite(log_v)
    if p[is_drawn].sum() < (1 - _MAX_UNDRAWN) * p.sum():
        return math.inf
    return distance(log_w[is_drawn], log_v[is_drawn], p[is_drawn] / p[is_drawn].sum())


def _with(option: Option, values: list[float]) -> dict[str, Value]:
    return {**option.settings, **dict(zip(option.free, values, strict=True))}


def _scaled(value: float, low: float) -> float:
    """Return the fitted coordinate of a setting: its logarithm, where it is above 0."""
    return math.log(value) if low > 0 else value


def _value(scaled: float, free: tuple[float, float, float]) -> float:
    return math.exp(scaled) if free[1] > 0 else scaled


def _text(settings: Mapping[str, Value], trainer: Trainer) -> str:
    if not trainer.is_flags:
        return "\n".join(f"{name}: {json.dumps(value)}" for name, value in settings.items())
    words = [f"{settings['script']}.py"] if "script" in settings else []
    for name, value in settings.items():
        if name != "script" and value is not False:
            words += [f"--{name}"] + [shlex.quote(_plain(value))] * (value is not True)
    return " ".join(words)


def _plain(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
