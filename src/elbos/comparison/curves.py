"""What a report draws of each row, over noise levels and over training, as lists of numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from elbos.comparison.results import Results
from elbos.comparison.rows import Row
from elbos.training.monitor import NUM_DENSITIES

NUM_WEIGHTS = 201


def weights(row: Row, results: Results) -> dict[str, Any]:
    """Weighting and density over log-SNR."""
    levels = torch.linspace(*results.ends, NUM_WEIGHTS, dtype=torch.float64)
    w = row.weighting(levels)
    return {
        "logsnr": rounded(levels.numpy()),
        "w": rounded((w / w.max()).numpy()),
        "p": _final_density(row, results, levels),
    }


def _final_density(row: Row, results: Results, levels: torch.Tensor) -> list[float] | None:
    schedule = results.comparison.run_config(row, 0).schedule
    if not schedule.state_dict():
        return rounded(schedule.density(levels).numpy())
    if (found := density(results.scores(row.name))) is None:
        return None
    low, high = results.ends
    middle = low + (high - low) * (np.arange(NUM_DENSITIES) + 0.5) / NUM_DENSITIES
    return rounded(np.interp(levels.numpy(), middle, found[-1]["p"]))


def density(scores: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]] | None:
    """How the schedule of the first seed evolved, if it did."""
    found = next(iter(scores.values()), {}).get("density")
    return [{"images": num, "p": p} for num, p in found] if found else None


def learning(scores: Mapping[int, dict[str, Any]]) -> dict[str, Any] | None:
    """Validation ELBO while training, mean over seeds that were validated when the first was."""
    found = [np.array(s["learning"]) for s in scores.values() if s["learning"]]
    if not found:
        return None
    images = found[0][:, 0]
    mean = np.mean([one for one in found if np.array_equal(one[:, 0], images)], 0)
    return {"images": [int(num) for num in mean[:, 0]], "bits_per_dim": rounded(mean[:, 1])}


def mean_curve(scores: Mapping[int, dict[str, Any]], key: str) -> dict[str, Any] | None:
    """A curve over noise levels, mean over seeds."""
    if not scores:
        return None
    curves = [s[key] for s in scores.values()]
    mean = np.mean([curve["nats_per_dim"] for curve in curves], 0)
    return {"logsnr": rounded(np.array(curves[0]["logsnr"])), "nats_per_dim": rounded(mean)}


def rounded(values: Any) -> list[Any]:
    """As nested lists, to six digits; null for NaN."""
    if np.ndim(values) > 1:
        return [rounded(value) for value in values]
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in values]
