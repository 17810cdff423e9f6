"""Tables of a comparison, and formatting of the numbers in its report."""

from collections.abc import Sequence
from itertools import cycle

from elbos.base.codec import parse
from elbos.base.colors import COLORS, Swatch
from elbos.base.numbers import NONE, decimals, interval, number, plus_minus, setting, signed
from elbos.base.tables import Cell, Column, Row, Table
from elbos.comparison.result import Comparison, ObjectiveResult, Score
from elbos.theory.names import label
from elbos.theory.parameterizations import Parameterization
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import Weighting


def component_label(kind: type, text: str) -> str:
    """Shorten the repr of a component of an objective, such as a weighting, to a name."""
    try:
        return label(parse(kind, text))
    except ValueError:  # the repr of a table lacks its values
        return text


def swatches(objectives: Sequence[ObjectiveResult]) -> dict[str, Swatch]:
    """Return the curve style of each objective.

    Each objective has a colour, or each weighting and its majorant if there are more objectives
    than colours. Dashes show that a weighting is not monotone.
    """
    are_few = len(objectives) <= len(COLORS)
    groups = {
        o.name: o.name if are_few else o.weighting.removeprefix("Monotone(inner=").rstrip(")")
        for o in objectives
    }
    colors = dict(zip(dict.fromkeys(groups.values()), cycle(COLORS), strict=False))
    return {o.name: Swatch(colors[groups[o.name]], is_dashed=not o.is_monotone) for o in objectives}


def results_table(comparison: Comparison, *, is_short: bool = False) -> Table:
    """Return a table of the scores of all objectives, in the main metrics only if `is_short`."""
    metrics = comparison.main_metrics if is_short else comparison.metrics
    settings = [] if is_short else ["predicts", "schedule", "weighting"]  # last columns
    columns = [Column("objective (↓ less is better, ↑ more)"), Column("monotone", is_numeric=False)]
    columns += [Column(m.short, is_lower_better=m.is_lower_better) for m in metrics]
    columns += [Column(name, is_numeric=False) for name in settings]
    looks = swatches(comparison.objectives)
    rows: list[Row] = []
    for objective in comparison.objectives:
        num, scores = comparison.num_scored(objective), comparison.scores[objective.name]
        num_seeds = len(comparison.seeds)
        note = "" if num == num_seeds else f"{num} of {num_seeds} seeds"
        name = Cell(objective.name, note=note, swatch=looks[objective.name])
        labels = [
            component_label(Parameterization, objective.parameterization),
            component_label(Schedule, objective.schedule),
            component_label(Weighting, objective.weighting),
        ]
        cells = [_score_cell(scores.get(metric.key)) for metric in metrics]
        rows.append([name, setting(objective.is_monotone), *cells, *labels[: len(settings)]])
    foot: list[Row] = []
    if any(metric.baseline is not None for metric in metrics):
        num_images = comparison.num_baseline
        of = "" if num_images is None else f": {num_images:,} test images"
        values = [number(metric.baseline) for metric in metrics]
        foot.append([f"real-data baseline{of}", "", *values, *[""] * len(settings)])
    return Table(columns, rows, foot=foot)


def _score_cell(score: Score | None) -> Cell:
    if score is None:
        return Cell(NONE)
    text = plus_minus(score.mean, score.std)
    return Cell(
        f"{text} ☆" if score.is_best_within_error and not score.is_best else text,
        is_best=score.is_best,
        note="unresolved" if score.is_unresolved else "",
        value=score.mean,
    )


def differences_table(comparison: Comparison, pairs: Sequence[tuple[str, str]]) -> Table:
    """Return a table of differences in the main metrics, with intervals: a row for each pair."""
    rows: list[Row] = []
    for pair in pairs:
        cells = []
        for metric in comparison.main_metrics:
            gap = comparison.difference(*pair, metric)
            places = decimals(gap.detectable)
            if places is None:
                cells.append(Cell(number(gap.mean)))
                continue
            ends = interval(gap.low, gap.high, places)
            is_bold = bool(gap.is_significant)
            cells.append(Cell(signed(gap.mean, places), note=ends, is_bold=is_bold))
        rows.append([" minus ".join(pair), *cells])
    heads = [metric.short for metric in comparison.main_metrics]
    return Table(["below 0 is better; bold: significant", *heads], rows)
