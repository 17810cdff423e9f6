"""The report of a comparison as a dictionary of numbers, from the scores of its runs.

Page and Markdown are written from it alone; report.json holds it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from elbos.analysis import rising_intervals
from elbos.compare.conclusion import conclusion, notes
from elbos.compare.experiment import Comparison
from elbos.compare.job import Job
from elbos.compare.metrics import BITS, FRECHET, METRICS, Metric
from elbos.compare.rows import Row
from elbos.compare.statistics import Blocks, Correlation, paired_interval, rank_correlations
from elbos.training.monitor import NUM_DENSITIES

NUM_WEIGHTS = 201
MIN_RANKED = 4


@dataclass(frozen=True)
class Cell:
    """A row with a seed, and the job that makes its run."""

    row: Row
    seed: int
    job: Job

    @cached_property
    def scores(self) -> dict[str, Any] | None:
        """Its scores, if it has come to some."""
        return self.job.scores()


def report_of(
    comparison: Comparison, cells: Sequence[Cell], *, name: str, command: str | None
) -> dict[str, Any]:
    """The report.

    Args:
        comparison: What was compared.
        cells: All rows with all seeds.
        name: Of the comparison.
        command: What was typed.
    """
    table = _Table(comparison, cells)
    report = {
        "name": name,
        "command": command,
        **_extent(comparison, table),
        "metrics": [_metric(metric, table) for metric in table.metrics],
        "rows": [_row(row, table) for row in comparison.rows],
        "statistics": {metric.key: _statistics(table, metric) for metric in table.metrics},
        "pairs": _pairs(table),
        "losses": _losses(table),
        "ranking": _ranking(table),
    }
    report["conclusion"] = conclusion(report)
    report["notes"] = notes(report)
    report["protocol"] = _protocol(comparison, table)
    return report


class _Table:
    """The scores, by row and seed."""

    def __init__(self, comparison: Comparison, cells: Sequence[Cell]) -> None:
        self.comparison = comparison
        self.seeds = comparison.seeds
        self.cells = {
            row.name: {cell.seed: cell for cell in cells if cell.row.name == row.name}
            for row in comparison.rows
        }
        some = next((cell.scores for cell in cells if cell.scores), None)
        self.some: dict[str, Any] | None = some
        self.metrics = [m for m in METRICS if some and m.value(some) is not None]
        self.rising = {
            row.name: rising_intervals(row.weighting, *self.ends) for row in comparison.rows
        }
        self.blocks = {metric.key: self._blocks(metric) for metric in self.metrics}

    @property
    def ends(self) -> tuple[float, float]:
        """Of all schedules."""
        schedule = self.comparison.config.schedule
        return schedule.logsnr_min, schedule.logsnr_max

    def is_monotone(self, row: Row) -> bool:
        """Whether a row is a likelihood objective."""
        return not self.rising[row.name]

    def scores(self, name: str) -> dict[int, dict[str, Any]]:
        """Of a row, by seed."""
        cells = self.cells[name]
        return {seed: cells[seed].scores for seed in self.seeds if cells[seed].scores}  # type: ignore[misc]

    @cached_property
    def complete(self) -> list[Row]:
        """The rows with scores of all seeds, which are compared."""
        return [r for r in self.comparison.rows if len(self.scores(r.name)) == len(self.seeds)]

    def array(self, metric: Metric, rows: Sequence[Row]) -> Any:
        """A metric's values, `[rows, seeds]`."""
        found = [[metric.value(s) for s in self.scores(row.name).values()] for row in rows]
        return np.array(found, dtype=np.float64)

    def _blocks(self, metric: Metric) -> Blocks | None:
        return Blocks.of(self.array(metric, self.complete)) if self.complete else None

    def best(self, metric: Metric) -> list[Row]:
        """The row with the best mean of those that are compared, or several with the same."""
        if not self.complete:
            return []
        means = self.array(metric, self.complete).mean(1)
        best = means.min() if metric.is_lower_better else means.max()
        return [row for row, mean in zip(self.complete, means, strict=True) if mean == best]


def _extent(comparison: Comparison, table: _Table) -> dict[str, Any]:
    some = table.some or {}
    return {
        "data": (some.get("data") or {}).get("name"),
        "num_test_images": some.get("num_images"),
        "num_samples": comparison.scoring.num_samples if some.get("samples") else None,
        "num_images": comparison.config.num_images,
        "num_parameters": some.get("num_parameters"),
        "seeds": list(comparison.seeds),
        "logsnr_min": table.ends[0],
        "logsnr_max": table.ends[1],
    }


def _metric(metric: Metric, table: _Table) -> dict[str, Any]:
    return {
        "key": metric.key,
        "title": metric.title,
        "short": metric.short,
        "is_lower_better": metric.is_lower_better,
        "floor": metric.floor(table.some) if table.some else None,
    }


def _row(row: Row, table: _Table) -> dict[str, Any]:
    """A row: what it is, how it did, and its curves."""
    scores = table.scores(row.name)
    is_complete = row in table.complete
    failures = [
        {"seed": seed, **{key: failure[key] for key in ("reason", "is_final")}}
        for seed, cell in table.cells[row.name].items()
        if seed not in scores
        for failure in [cell.job.failure() or {"reason": "it is not done yet", "is_final": False}]
    ]
    return {
        "name": row.name,
        "parameterization": repr(row.parameterization),
        "schedule": repr(table.comparison.run_config(row, 0).schedule),
        "weighting": repr(row.weighting),
        "is_monotone": table.is_monotone(row),
        "rising": [list(ends) for ends in table.rising[row.name]],
        "status": "complete" if is_complete else "incomplete" if scores else "failed",
        "failures": failures,
        "scores": {m.key: _score(m, row, table) for m in table.metrics} if scores else {},
        "weights": _weights(row, table),
        "elbo": _mean_curve(scores, "elbo"),
        "curve": _mean_curve(scores, "curve"),
        "learning": _learning(scores),
        "density": _density(scores),
    }


def _score(metric: Metric, row: Row, table: _Table) -> dict[str, Any]:
    values = table.array(metric, [row])[0]
    blocks = table.blocks[metric.key]
    is_complete, is_best = row in table.complete, row in table.best(metric)
    is_near = is_best
    if is_complete and blocks is not None:
        near = blocks.is_best_within_error(metric.is_lower_better)
        is_near = bool(near[table.complete.index(row)])
    return {
        "values": {
            str(seed): value
            for seed, value in zip(table.scores(row.name), values.tolist(), strict=True)
        },
        "mean": float(values.mean()),
        "std": float(values.std(ddof=1)) if len(values) > 1 else None,
        "margin": blocks.margin if blocks is not None and is_complete else None,
        "is_best": is_best,
        "is_best_within_error": is_near,
    }


def _statistics(table: _Table, metric: Metric) -> dict[str, Any] | None:
    blocks = table.blocks[metric.key]
    if blocks is None:
        return None
    return {
        "num_rows": len(table.complete),
        "num_seeds": blocks.num_seeds,
        "dof": blocks.dof,
        "residual_std": blocks.residual_std,
        "margin": blocks.margin,
        "pairing": blocks.pairing,
    }


def _pairs(table: _Table) -> list[dict[str, Any]]:
    """Rows that differ in nothing but the weighting, one monotone and one not."""
    found = [
        (yes, no)
        for no in table.complete
        for yes in table.complete
        if table.is_monotone(yes)
        and not table.is_monotone(no)
        and yes.parameterization == no.parameterization
        and yes.schedule == no.schedule
    ]
    return [
        {
            "monotone": yes.name,
            "non_monotone": no.name,
            "differences": {
                metric.key: _difference(table.array(metric, [yes, no]), len(found))
                for metric in table.metrics
            },
        }
        for yes, no in found
    ]


def _difference(scores: Any, num_pairs: int) -> dict[str, float | None]:
    """Of two rows, paired over seeds."""
    difference = scores[0] - scores[1]
    low, high = paired_interval(difference, num_pairs) or (None, None)
    return {"mean": float(difference.mean()), "low": low, "high": high}


def _losses(table: _Table) -> dict[str, Any] | None:
    """Every row's loss under every row's weighting, relative to the lowest."""
    if not table.complete:
        return None
    names = [repr(weighting) for weighting in table.comparison.weightings]
    losses = np.array(
        [
            [np.mean([s["losses"][name] for s in table.scores(r.name).values()]) for name in names]
            for r in table.complete
        ]
    )
    relative = losses / losses.min(0)
    of = [[r.name for r in table.comparison.rows if repr(r.weighting) == name] for name in names]
    return {
        "rows": [row.name for row in table.complete],
        "weightings": [{"name": n, "rows": rows} for n, rows in zip(names, of, strict=True)],
        "relative": _rounded(relative),
    }


def _ranking(table: _Table) -> dict[str, Any] | None:
    """Whether the ELBO of noisy data ranks monotone rows as other scores do."""
    rows = [row for row in table.complete if table.is_monotone(row)]
    if len(rows) < MIN_RANKED:
        return None
    found = [list(table.scores(row.name).values()) for row in rows]
    elbos = np.array([[s["elbo"]["nats_per_dim"] for s in one] for one in found])
    names = list(dict.fromkeys(repr(row.weighting) for row in rows))
    losses = np.array([[[s["losses"][name] for name in names] for s in one] for one in found])
    metrics = [m for m in (BITS, *FRECHET) if m in table.metrics]
    values = {m.key: table.array(m, rows) for m in metrics}
    by_level = {key: rank_correlations(elbos, y) for key, y in values.items()}
    by_weighting = {key: rank_correlations(losses, y) for key, y in values.items()}
    return {
        "rows": [row.name for row in rows],
        "num_rows": len(rows),
        "num_seeds": len(table.seeds),
        "logsnr": found[0][0]["elbo"]["logsnr"],
        **{key: _correlation(one) for key, one in by_level.items()},
        "weightings": [
            {"name": name, **{key: _at(one, i) for key, one in by_weighting.items()}}
            for i, name in enumerate(names)
        ],
    }


def _correlation(found: Correlation) -> dict[str, Any]:
    return {end: _rounded(getattr(found, end)) for end in ("rho", "low", "high")}


def _at(found: Correlation, i: int) -> dict[str, Any]:
    return {end: values[i] for end, values in _correlation(found).items()}


def _weights(row: Row, table: _Table) -> dict[str, Any]:
    """Weighting and density over log-SNR."""
    levels = torch.linspace(*table.ends, NUM_WEIGHTS, dtype=torch.float64)
    w = row.weighting(levels)
    return {
        "logsnr": _rounded(levels.numpy()),
        "w": _rounded((w / w.max()).numpy()),
        "p": _final_density(row, table, levels),
    }


def _final_density(row: Row, table: _Table, levels: torch.Tensor) -> list[float] | None:
    schedule = table.comparison.run_config(row, 0).schedule
    if not schedule.state_dict():
        return _rounded(schedule.density(levels).numpy())
    if (found := _density(table.scores(row.name))) is None:
        return None
    low, high = table.ends
    middle = low + (high - low) * (np.arange(NUM_DENSITIES) + 0.5) / NUM_DENSITIES
    return _rounded(np.interp(levels.numpy(), middle, found[-1]["p"]))


def _density(scores: Mapping[int, dict[str, Any]]) -> list[dict[str, Any]] | None:
    """How the schedule of the first seed evolved, if it did."""
    found = next(iter(scores.values()), {}).get("density")
    return [{"images": num, "p": p} for num, p in found] if found else None


def _learning(scores: Mapping[int, dict[str, Any]]) -> dict[str, Any] | None:
    """Validation ELBO while training, mean over seeds."""
    curves = [np.array(s["learning"]) for s in scores.values() if s["learning"]]
    if not curves:
        return None
    mean = np.mean(curves, 0)
    return {"images": [int(num) for num in mean[:, 0]], "bits_per_dim": _rounded(mean[:, 1])}


def _mean_curve(scores: Mapping[int, dict[str, Any]], key: str) -> dict[str, Any] | None:
    if not scores:
        return None
    curves = [s[key] for s in scores.values()]
    mean = np.mean([curve["nats_per_dim"] for curve in curves], 0)
    return {"logsnr": _rounded(np.array(curves[0]["logsnr"])), "nats_per_dim": _rounded(mean)}


def _rounded(values: Any) -> list[Any]:
    """As nested lists, to six digits; null for NaN."""
    if np.ndim(values) > 1:
        return [_rounded(value) for value in values]
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in values]


def _protocol(comparison: Comparison, table: _Table) -> dict[str, Any]:
    scoring, config = comparison.scoring, comparison.config
    found = [s for row in comparison.rows for s in table.scores(row.name).values()]
    machines = [s["machine"] for s in found]
    samplings = {
        f"{name} sampler": (
            f"{one.sampler!r} on {one.grid!r}, {one.num_steps} steps, "
            f"{one.num_evaluations(config.schedule)} evaluations"
        )
        for name, one in scoring.samplings.items()
    }
    samplings["features"] = (
        f"{scoring.extractor!r}, {scoring.num_samples:,} samples of each run, against train + "
        "validation images"
    )
    return {
        "seeds": list(comparison.seeds),
        "images seen by a run": config.num_images,
        "batch size": config.batch_size,
        "network": repr(config.network),
        "optimizer": repr(config.optimizer),
        "clipping": "at a norm in proportion to the loss of the best denoiser of normal data",
        "precision": config.precision,
        "likelihood": (
            f"variational bound of {scoring.num_images:,} test images at most, "
            f"{found[0]['condition']}"
            if found
            else "–"
        ),
        **(samplings if found and found[0]["samples"] else {}),
        "hardware": sorted({machine["device"] for machine in machines}),
        "versions": sorted({f"torch {m['torch']}, elbos {m['elbos']}" for m in machines}),
    }
