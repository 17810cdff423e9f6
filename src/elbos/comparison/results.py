"""The scores of a comparison, by row and seed: which rows are complete, and what they come to."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from elbos.analysis import rising_intervals
from elbos.comparison.experiment import Comparison
from elbos.comparison.job import Job
from elbos.comparison.metrics import METRICS, Metric, main_metrics
from elbos.comparison.rows import Row
from elbos.comparison.statistics import Differences, differences


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
        self.main = main_metrics(some) if some else []
        others = [m for m in METRICS if some and m.value(some) is not None and m not in self.main]
        self.metrics = [*self.main, *others]
        self.rising = {
            row.name: rising_intervals(row.weighting, *self.ends) for row in comparison.rows
        }

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

    @cached_property
    def pairs(self) -> list[tuple[Row, Row]]:
        """Objectives that differ in nothing but the weighting: a monotone one, and one that is not.
        They are planned: given by the objectives, not by their scores.
        """
        schedules = {r.name: self.comparison.run_config(r, 0).schedule for r in self.complete}
        return [
            (yes, no)
            for no in self.complete
            for yes in self.complete
            if self.is_monotone(yes)
            and not self.is_monotone(no)
            and yes.parameterization == no.parameterization
            and schedules[yes.name] == schedules[no.name]
        ]

    @cached_property
    def differences(self) -> dict[str, Differences]:
        """Between the complete rows, by the main metrics of which something is known."""
        if not self.complete or not self.main:
            return {}
        order = self.complete.index
        scores = np.array([self.array(metric, self.complete) for metric in self.main])
        found = differences(scores, [(order(yes), order(no)) for yes, no in self.pairs])
        return {m.key: one for m, one in zip(self.main, found, strict=True) if one is not None}
