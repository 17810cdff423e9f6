"""Tables of a comparison, and formatting of the numbers in its report."""

from collections.abc import Sequence
from itertools import cycle

from elbos.base.codec import parse
from elbos.base.colors import COLORS, LineStyle
from elbos.base.numbers import NONE, decimals, interval, number, plus_minus, setting, signed
from elbos.base.tables import Bold, Column, Row, Table
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


def line_styles(objectives: Sequence[ObjectiveResult]) -> dict[str, LineStyle]:
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
    return {
        o.name: LineStyle(colors[groups[o.name]], is_dashed=not o.is_monotone) for o in objectives
    }


def results_table(comparison: Comparison, *, is_short: bool = False) -> Table:
    """Return a table of the scores of all objectives, in the main metrics only if `is_short`."""
    metrics = comparison.main_metrics if is_short else comparison.metrics
    settings = [] if is_short else ["predicts", "schedule", "weighting"]  # last columns
    columns = [Column("objective (↓ less is better, ↑ more)"), Column("monotone", is_numeric=False)]
    columns += [Column(m.short, is_lower_better=m.is_lower_better) for m in metrics]
    columns += [Column(name, is_numeric=False) for name in settings]
    rows: list[Row] = []
    for objective in comparison.objectives:
        num, scores = comparison.num_scored(objective), comparison.scores[objective.name]
        num_seeds = len(comparison.seeds)
        name = objective.name + ("" if num == num_seeds else f" ({num} of {num_seeds} seeds)")
        labels = [
            component_label(Parameterization, objective.parameterization),
            component_label(Schedule, objective.schedule),
            component_label(Weighting, objective.weighting),
        ]
        cells = [_score_text(scores.get(metric.key)) for metric in metrics]
        rows.append([name, setting(objective.is_monotone), *cells, *labels[: len(settings)]])
    if any(metric.baseline is not None for metric in metrics):
        num_images = comparison.num_baseline
        of = "" if num_images is None else f": {num_images:,} test images"
        values = [number(metric.baseline) for metric in metrics]
        rows.append([f"real-data baseline{of}", "", *values, *[""] * len(settings)])
    return Table(columns, rows)


def _score_text(score: Score | None) -> str:
    if score is None:
        return NONE
    text = plus_minus(score.mean, score.std)
    if score.is_unresolved:
        return f"{text} (unresolved)"
    return f"{text} ★" if score.is_best else f"{text} ☆" if score.is_best_within_error else text


def differences_table(comparison: Comparison, pairs: Sequence[tuple[str, str]]) -> Table:
    """Return a table of differences in the main metrics, with intervals: a row for each pair."""
    rows: list[Row] = []
    for pair in pairs:
        cells = []
        for metric in comparison.main_metrics:
            gap = comparison.difference(*pair, metric)
            places = decimals(gap.detectable)
            if places is None:
                cells.append(number(gap.mean))
                continue
            text = f"{signed(gap.mean, places)} ({interval(gap.low, gap.high, places)})"
            cells.append(Bold(text) if gap.is_significant else text)
        rows.append([" minus ".join(pair), *cells])
    heads = [metric.short for metric in comparison.main_metrics]
    return Table(["below 0 is better; bold: significant", *heads], rows)
