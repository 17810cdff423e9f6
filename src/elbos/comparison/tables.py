"""Tables of a comparison for the HTML page and Markdown, and formatting of the numbers in its
report.
"""

import re
import statistics
from collections.abc import Sequence

from elbos.base.codec import parse
from elbos.base.numbers import NONE, decimals, fixed, interval, number, signed
from elbos.base.tables import Cell, Column, Row, Table
from elbos.comparison import figures
from elbos.comparison.result import Comparison, Metric
from elbos.theory.names import label
from elbos.theory.parameterizations import Parameterization
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import Weighting

_NEAR = " ☆"  # beside a score that does not differ significantly from the best


def component_label(kind: type, text: str) -> str:
    """Shorten the repr of a component of an objective, such as a weighting, to a name."""
    tables = re.sub(r"Tabulated\('([^']*)'[^)]*\)", r"\1", text)  # the repr lacks the values
    if tables != text:
        return re.sub(r"^Monotone\(inner=(.*)\)$", r"\1-monotonic", tables)
    try:
        return label(parse(kind, text))
    except ValueError:
        return text


def text_of(value: float | None, places: int | None) -> str:
    return number(value) if places is None else fixed(value, places)


def places_of(
    comparison: Comparison, key: str, std: float | None = None, digits: int = 2
) -> int | None:
    """Return the number of decimals for showing a metric; None if it does not scatter over seeds.

    The typical standard deviation over seeds, or `std` if larger, is shown with `digits` digits.
    """
    scores = [by_metric[key] for by_metric in comparison.scores.values() if key in by_metric]
    stds = [score.std for score in scores if score.std is not None]
    return decimals(max(statistics.median(stds or [0.0]), std or 0.0), digits)


def results_table(comparison: Comparison, *, is_short: bool = False) -> Table:
    """Return a table of the scores of all objectives, in the main metrics only if `is_short`."""
    metrics = comparison.main_metrics if is_short else comparison.metrics
    sign = "less is better" if is_short else "↓ less is better, ↑ more"
    settings = [] if is_short else ["predicts", "schedule", "weighting"]  # last columns
    columns = [Column(f"objective ({sign})"), Column("monotone", is_numeric=False)]
    for metric in metrics:
        direction = None if is_short else metric.is_lower_better
        columns.append(Column(metric.short, is_lower_better=direction))
    columns += [Column(name, is_numeric=False) for name in settings]
    looks = figures.swatches(comparison.objectives)
    rows: list[Row] = []
    for objective in comparison.objectives:
        num, scores = comparison.num_scored(objective), comparison.scores[objective.name]
        missing = f"{num} of {len(comparison.seeds)} seeds" if num else "failed"
        note = "" if num == len(comparison.seeds) else missing
        name = Cell(objective.name, note=note, swatch=looks[objective.name])
        kind = Cell("yes", kind="yes") if objective.is_monotone else Cell("no", kind="no")
        cells = []
        for metric in metrics:
            score = scores.get(metric.key)
            if score is None:
                cells.append(Cell(NONE))
                continue
            places = places_of(comparison, metric.key, score.std, digits=1 if is_short else 2)
            text = text_of(score.mean, places)
            if score.std is not None:
                text += f" ± {text_of(score.std, places)}"
            text += _NEAR if score.is_best_within_error and not score.is_best else ""
            cells.append(
                Cell(
                    f"{text}?" if is_short and score.is_unresolved else text,
                    is_best=score.is_best,
                    note="unresolved" if score.is_unresolved and not is_short else "",
                    value=score.mean,
                )
            )
        labels = [
            Cell(component_label(Parameterization, objective.parameterization)),
            Cell(component_label(Schedule, objective.schedule)),
            Cell(component_label(Weighting, objective.weighting)),
        ]
        rows.append([name, kind, *cells, *labels[: len(settings)]])
    foot: list[Row] = []
    blank = [""] * len(settings)
    if any(metric.baseline is not None for metric in metrics):
        values = [
            text_of(m.baseline, places_of(comparison, m.key, digits=1 if is_short else 2))
            for m in metrics
        ]
        num_images = comparison.num_baseline
        of = "" if num_images is None else f": {num_images:,} test images"
        foot.append([f"real-data baseline{of}", "", *values, *blank])
    if comparison.statistics:
        sizes = map(comparison.detectable, metrics)
        least = [text_of(size, decimals(size)) for size in sizes]
        foot.append(["least significant difference from ★", "", *least, *blank])
    return Table(columns, rows, foot=foot)


def gap_texts(comparison: Comparison, pair: tuple[str, str], metric: Metric) -> tuple[str, str]:
    """Format the difference of two objectives, and its interval, empty without one."""
    gap = comparison.difference(*pair, metric)
    places = decimals(gap.detectable)
    if places is None:
        places = places_of(comparison, metric.key)
    ends = "" if gap.low is None else interval(gap.low, gap.high, places or 0)
    return number(gap.mean) if places is None else signed(gap.mean, places), ends


def differences_table(
    comparison: Comparison, pairs: Sequence[tuple[str, str]], metrics: Sequence[Metric]
) -> Table:
    """Return a table of differences with intervals: a row for each pair of objectives."""
    has_arrows = not all(metric.is_lower_better for metric in metrics)
    sign = "↓ below 0 is better, ↑ above" if has_arrows else "below 0 is better"
    directions = [metric.is_lower_better if has_arrows else None for metric in metrics]
    heads = [Column(m.short, is_lower_better=d) for m, d in zip(metrics, directions, strict=True)]
    rows: list[Row] = []
    for pair in pairs:
        cells = []
        for metric in metrics:
            text, note = gap_texts(comparison, pair, metric)
            is_bold = bool(comparison.difference(*pair, metric).is_significant)
            cells.append(Cell(text, note=note, is_bold=is_bold))
        rows.append([" minus ".join(pair), *cells])
    return Table([f"{sign}; bold: significant", *heads], rows)
