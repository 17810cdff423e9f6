"""Compare training objectives: train all rows with all seeds, score them, and report."""

import contextlib
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from elbos import files
from elbos.checks import require_finite, require_positive
from elbos.comparison.directory import ComparisonDirectory, Stored
from elbos.comparison.engines import Engine
from elbos.comparison.experiment import Comparison, shared_config
from elbos.comparison.job import Job
from elbos.comparison.markdown import comparison_markdown
from elbos.comparison.page import write_comparison_page
from elbos.comparison.report import report_of
from elbos.comparison.results import Cell
from elbos.comparison.runner import run_jobs, seconds_left
from elbos.errors import Interrupted, printable, unfailing
from elbos.evaluation.quality import REFERENCE_SPLIT
from elbos.evaluation.reference import reference
from elbos.progress import begin, clock, progress
from elbos.training.data import Dataset
from elbos.training.machine import new_accelerator
from elbos.training.state import new_state, require_guidable


def compare(
    comparison: Comparison,
    path: Path,
    engine: Engine,
    *,
    minutes: float | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Train all rows with all seeds, score them, and write the report.

    What is done in `path` is not done again: an interrupted comparison goes on, rows and seeds may
    be added, and several processes may be at it.

    Args:
        comparison: Rows, seeds, what they share, and how they are scored.
        path: The comparison's directory; made if it is not there.
        engine: Where runs are made; stopped at the end.
        minutes: Training time of a run on a machine of the engine, from which the number of images
            follows: the same for all rows. Default: the number of images of the configuration.
        command: What was typed, for the report.

    Returns:
        What report.json holds. A run that failed is noted in it.

    Raises:
        ValueError: If the directory is of another comparison, or data or features cannot be had.
        Interrupted: On Ctrl-C.
        OSError: If something cannot be written.
    """
    with contextlib.closing(engine):
        return _compare(comparison, ComparisonDirectory(path), engine, minutes, command)


def _compare(
    comparison: Comparison,
    directory: ComparisonDirectory,
    engine: Engine,
    minutes: float | None,
    command: str | None,
) -> dict[str, Any]:
    if minutes is not None:
        require_positive(minutes=minutes)
        require_finite(minutes, "minutes")
    dataset = comparison.config.data.load()
    num_parameters = _require_trainable(comparison, dataset)
    extractor = None
    if dataset.num_levels is not None:
        extractor = comparison.scoring.extractor.load(new_accelerator().device)
    with directory.lock():
        is_new = directory.stored() is None
        comparison = _settled(comparison, directory, minutes, engine)
        features = extractor.name if extractor else None
        directory.claim(Stored.of(comparison, minutes, dataset, features), dataset)
        directory.require_own_rows(comparison)
    cells = [
        Cell(row, seed, Job.of(comparison, directory.run(row, seed).absolute(), row, seed))
        for seed in comparison.seeds  # a seed of all rows, then the next
        for row in comparison.rows
    ]
    try:
        if left := [cell.job for cell in cells if not cell.job.is_final()]:
            machine, seconds_per_image = engine.speed(left[0].config, minutes)
            seconds = seconds_left(left, engine.num_workers, seconds_per_image)
            unfailing(sys.stderr).write(
                f"{machine}, {num_parameters:,} parameters, {printable(str(directory.path))}: "
                f"{'new' if is_new else 'resumed'}, {len(cells) - len(left)} of {len(cells)} runs "
                f"done, {engine.num_workers} at once, about {clock(seconds)}\n"
            )
        with progress(Console(stderr=True)) as bar:
            if extractor:  # once, with all cores; and fail before training
                reference(dataset, REFERENCE_SPLIT, extractor, partial(begin, bar))
            run_jobs([cell.job for cell in cells], engine, bar)
    except KeyboardInterrupt:
        done = [cell for cell in cells if cell.job.scores() is not None]
        num_rows = len(comparison.rows)
        whole = [str(s) for s in comparison.seeds if [c.seed for c in done].count(s) == num_rows]
        early = f", and --seeds {' '.join(whole)} reports on what is done" if whole else ""
        raise Interrupted(
            f"Stopped with {len(done)} of {len(cells)} runs done: the same command goes on from "
            f"there{early}."
        ) from None
    return _report(comparison, directory, cells, command, features)


def _require_trainable(comparison: Comparison, dataset: Dataset) -> int:
    """Fail now where every run would: the network or a sampler does not fit the data.

    Returns:
        Number of the network's parameters.
    """
    config = comparison.run_config(comparison.rows[0], comparison.seeds[0])
    state = new_state(config, dataset.spec, torch.device("cpu"))
    for sampling in comparison.scoring.samplings.values():
        require_guidable(config, dataset.spec, sampling)
        sampling.logsnrs(config.schedule)
    return sum(parameter.numel() for parameter in state.network.parameters())


def _settled(
    comparison: Comparison, directory: ComparisonDirectory, minutes: float | None, engine: Engine
) -> Comparison:
    """With the precision and the number of images that were chosen when it began, or now."""
    config = comparison.config
    stored = directory.stored()
    chosen = stored.config if stored else engine.settle(comparison.rows[0].config(config), minutes)
    if config.precision == "auto":
        config = replace(config, precision=chosen.precision)
    if minutes is not None:
        config = replace(config, num_images=chosen.num_images)
    return replace(comparison, config=shared_config(config))


def _report(
    comparison: Comparison,
    directory: ComparisonDirectory,
    cells: list[Cell],
    command: str | None,
    features: str | None,
) -> dict[str, Any]:
    """Write the report, as JSON, Markdown and a page."""
    report = report_of(
        comparison,
        cells,
        name=printable(str(directory.path)),  # which need not be text
        command=command and printable(command),
        features=features,
    )
    pictures = {}
    for cell in cells:
        picture = cell.job.path / "samples" / "heun.png"
        if cell.seed == comparison.seeds[0] and picture.exists():
            pictures[cell.row.name] = files.read(picture)
    text = json.dumps(report, indent=1, allow_nan=False)
    files.write(directory.path / "report.json", text.encode())
    files.write(directory.path / "report.md", comparison_markdown(report).encode())
    write_comparison_page(report, directory.path / "report.html", samples=pictures)
    return report
