"""What a result draws of each objective, over noise levels and over training."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from elbos.comparison.experiment import Experiment
from elbos.comparison.result import LearningCurve, LevelCurve, Weights
from elbos.comparison.scores import RunScores
from elbos.comparison.variants import Variant

NUM_WEIGHTS = 201


def weights(objective: Variant, experiment: Experiment, first: RunScores | None) -> Weights:
    """Weighting and density over log-SNR; where it adapts, as the first seed's ended."""
    low, high = experiment.ends
    levels = torch.linspace(low, high, NUM_WEIGHTS, dtype=torch.float64)
    w = objective.weighting(levels)
    schedule = experiment.run_config(objective, 0).schedule
    p = None
    if not schedule.state_dict():
        p = rounded(schedule.density(levels))
    elif first and first.density:
        last = first.density[-1].p
        middle = low + (high - low) * (np.arange(len(last)) + 0.5) / len(last)
        p = rounded(np.interp(levels.numpy(), middle, last))
    return Weights(logsnr=rounded(levels), w=rounded(w / w.max()), p=p)


def mean_curve(curves: Sequence[LevelCurve]) -> LevelCurve | None:
    """The mean over seeds."""
    if not curves:
        return None
    mean = np.array([curve.nats_per_dim for curve in curves], dtype=float).mean(0)
    return LevelCurve(logsnr=rounded(curves[0].logsnr), nats_per_dim=rounded(mean))


def mean_learning(curves: Sequence[LearningCurve]) -> LearningCurve | None:
    """The mean over seeds that were validated when the first was."""
    curves = [curve for curve in curves if curve.images]
    if not curves:
        return None
    alike = [curve.bits_per_dim for curve in curves if curve.images == curves[0].images]
    mean = np.array(alike, dtype=float).mean(0)
    return LearningCurve(images=curves[0].images, bits_per_dim=rounded(mean))


def rounded(values: Any) -> tuple[Any, ...]:
    """The numbers to six digits; None for NaN."""
    numbers = np.asarray(values, dtype=float).tolist()
    return tuple(None if math.isnan(number) else float(f"{number:.6g}") for number in numbers)
