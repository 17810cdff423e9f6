"""The scores of a comparison, by row and seed: which rows are complete, and what they come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from elbos.analysis import rising_intervals
from elbos.compare.experiment import Comparison
from elbos.compare.job import Job
from elbos.compare.metrics import METRICS, Metric
from elbos.compare.rows import Row
from elbos.compare.statistics import Blocks


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


class Results:
    """The scores, by row and seed.

    Args:
        comparison: What was compared.
        cells: All rows with all seeds.
    """

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
