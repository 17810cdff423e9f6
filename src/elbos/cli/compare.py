"""`elbos compare`: which objective to train with, and how sure that is."""

import json
import shlex
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from elbos.cli.parse import parse
from elbos.comparison.compare import compare
from elbos.comparison.engines import Local
from elbos.comparison.experiment import DEFAULT_ROWS, Comparison, Scoring
from elbos.comparison.on_ray import OnRay
from elbos.comparison.row_words import parse_row
from elbos.comparison.rows import ROWS
from elbos.comparison.table import comparison_table
from elbos.comparison.words import failures, reading
from elbos.training.config import Config
from elbos.training.presets import PRESETS, Preset


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Train objectives alike, score them, and write a report; the same command goes on with it.

    Rows and seeds may be added later. Several processes may be at one comparison, as on several
    machines with one file system. Options of the preset are for all rows, but for its objective.
    """

    chosen: Annotated[Preset, tyro.conf.arg(name="")]

    rows: tuple[str, ...] = DEFAULT_ROWS
    """Names of built-in rows, "all", or rows of your own: "mine=V(),Adaptive(),Sigmoid(k=3)", a
    prediction type, a schedule and a weighting, which may be a function, FILE.py:FUNCTION."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Replicates of every objective; of three, intervals are 1.7 times as wide as of five, and of
    one there are none."""

    minutes: float | None = None
    """Training time of each run, here or on one machine of the cluster, which sets the images seen
    by all of them. Default: the preset's images."""

    workers: int | None = None
    """Runs at once. Default: one for each accelerator, or each two cores."""

    ray: bool = False
    """On the Ray cluster at RAY_ADDRESS, or on one of this machine (`pip install 'elbos[ray]'`)."""

    out: Path | None = None
    """The comparison's directory. Default: runs/compare-PRESET."""

    scoring: Scoring = field(default_factory=Scoring)

    json: bool = False
    """Print the report as JSON."""

    def __call__(self) -> None:
        config, preset = self.chosen.config, self.chosen.preset
        _require_shared(config, PRESETS[preset])
        if self.minutes is not None and config.num_images != PRESETS[preset].num_images:
            raise ValueError("--minutes sets the number of images: leave one of the two out.")
        words = [name for one in self.rows for name in (ROWS if one == "all" else [one])]
        comparison = Comparison(
            config=config,
            scoring=self.scoring,
            rows=tuple(parse_row(word) for word in words),
            seeds=self.seeds,
        )
        path = self.out or Path("runs") / f"compare-{preset}"
        report = compare(
            comparison,
            path,
            OnRay(self.workers) if self.ray else Local(self.workers),
            minutes=self.minutes,
            command=shlex.join(["elbos", *sys.argv[1:]]),
        )
        if self.json:
            print(json.dumps(report, indent=2))  # noqa: T201
        else:
            console = Console()
            console.print(comparison_table(report))
            lacking = [f"* {name}: {reason}" for name, reason in failures(report)]
            for sentence in [*lacking, reading(report), "", *report["conclusion"]]:
                console.print(sentence, highlight=False, markup=False)
            print(f"Report: {path / 'report.html'}")  # noqa: T201
        _require_finished(report)


def command(words: list[str]) -> Compare:
    """The command that the words stand for."""
    return parse("compare", Compare, words, subcommands=PRESETS)


def _require_shared(config: Config, preset: Config) -> None:
    """Raise a ValueError about options that are each row's, or the comparison's."""
    ends = {end: getattr(config.schedule, end) for end in ("logsnr_min", "logsnr_max")}
    kept = {name: getattr(config.output, name) for name in ("num_kept", "tensorboard")}
    theirs = {
        "seed": (config.seed, preset.seed, "give --seeds"),
        "parameterization": (config.parameterization, preset.parameterization, "give --rows"),
        "weighting": (config.weighting, preset.weighting, "give --rows"),
        "schedule": (config.schedule, replace(preset.schedule, **ends), "give --rows"),
        "output": (config.output, replace(preset.output, **kept), "the report has its own"),
    }
    for name, (given, expected, advice) in theirs.items():
        if given != expected:
            raise ValueError(f"--{name} is of a single run: {advice}.")


def _require_finished(report: dict[str, Any]) -> None:
    """Raise a ValueError about runs that came to no scores, but for those that diverged: that is a
    result.
    """
    failed = [
        (f"{row['name']}-{failure['seed']}", failure)
        for row in report["rows"]
        for failure in row["failures"]
        if not failure["is_final"] or all(row["status"] == "failed" for row in report["rows"])
    ]
    if failed:
        name, failure = failed[0]
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        again = "" if failure["is_final"] else " The same command tries again."
        raise ValueError(
            f"The run {name}{others} came to no scores: {failure['reason'].rstrip('.')}.{again}"
        )
