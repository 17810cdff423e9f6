"""Tables of a comparison for the HTML page and Markdown, and formatting of the numbers in its
report.
"""

import re
import statistics

from elbos.base.codec import parse
from elbos.base.html import sentences
from elbos.base.numbers import NONE, decimals, fixed, interval, number, signed
from elbos.base.tables import Cell, Column, Row, Table
from elbos.comparison import figures
from elbos.comparison.objective_result import Metric, Score, metric_key
from elbos.comparison.result import Comparison, Difference, RankCorrelation
from elbos.evaluation.metrics import BITS_PER_DIM, SAMPLE_METRICS
from elbos.theory.names import label
from elbos.theory.parameterizations import Parameterization
from elbos.theory.schedules import Schedule
from elbos.theory.weightings import Weighting

_VERDICTS = {
    "better": "monotone better",
    "worse": "monotone worse",
    "same": "no significant difference",
    "unresolved": "unresolved",
    None: NONE,
}


def weighting_label(text: str) -> str:
    """Shorten the repr of a weighting to a name."""
    return _label(Weighting, text)


def _label(kind: type, text: str) -> str:
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
    """Return the number of decimals for showing a metric.

    It follows from the scatter over seeds; None if there is no scatter. The typical standard
    deviation, or `std` if larger, is shown with `digits` digits.
    """
    scores = [one.scores[key] for one in comparison.objectives if key in one.scores]
    stds = [score.std for score in scores if score.std is not None]
    return decimals(max(statistics.median(stds or [0.0]), std or 0.0), digits)


def difference_text(difference: Difference) -> str:
    """Return a difference and its confidence interval as text.

    The half-width of the interval has two significant digits.
    """
    places = decimals(difference.detectable) or 0
    ends = interval(difference.low, difference.high, places)
    return f"{signed(difference.mean, places)} ({ends})"


def detectable(comparison: Comparison, key: str) -> str:
    """Format the typical detectable difference of a metric.

    It is the median over objectives of the smallest significant difference from the best objective.
    """
    found = comparison.statistics.get(key)
    return NONE if found is None else text_of(found.detectable, decimals(found.detectable))


def correlation(found: RankCorrelation, i: int) -> str:
    rho, low, high = found.rho[i], found.low[i], found.high[i]
    if rho is None or low is None or high is None:
        return signed(rho, 2)
    return f"{signed(rho, 2)} ({interval(low, high, 2)})"


def ranked(comparison: Comparison) -> dict[str, str]:
    """Return the titles of the metrics for which rank correlations are known."""
    known = comparison.ranking.by_level if comparison.ranking else {}
    return {
        metric.key: "clean ELBO, bits/dim" if metric.key == BITS_PER_DIM.name else metric.title
        for metric in comparison.metrics
        if metric.key in known
    }


def measured(comparison: Comparison) -> list[Metric]:
    scores = [item for one in comparison.objectives for item in one.scores.items()]
    known = {key for key, score in scores if score.mean is not None}
    return [metric for metric in comparison.metrics if metric.key in known]


def results_table(
    comparison: Comparison, *, is_short: bool = False, is_stacked: bool = False
) -> Table:
    """Return a table of the scores of all objectives.

    It has the main metrics only if `is_short`. Standard deviations stand behind the means, or below
    them if `is_stacked`.
    """
    metrics = list(comparison.main_metrics) if is_short else measured(comparison)
    settings = [] if is_short else ["predicts", "schedule", "weighting"]  # after the scores
    columns = [Column("objective"), Column("monotone", is_numeric=False)]
    for metric in metrics:
        direction = None if is_short else metric.is_lower_better
        columns.append(Column(metric.short, help=metric.title, is_lower_better=direction))
    columns += [Column(name, is_numeric=False) for name in settings]
    looks = figures.swatches(comparison.objectives)
    rows: list[Row] = []
    for one in comparison.objectives:
        num = max((len(score.values) for score in one.scores.values()), default=0)
        missing = f"{num} of {len(comparison.seeds)} seeds" if num else "failed"
        name = Cell(one.name, note="" if one.is_complete else missing, swatch=looks[one.name])
        kind = Cell("yes", kind="yes") if one.is_monotone else Cell("no", kind="no")
        scores = [
            _score(comparison, one.scores.get(m.key), m, is_short, is_stacked) for m in metrics
        ]
        labels = [
            Cell(_label(Parameterization, one.parameterization)),
            Cell(_label(Schedule, one.schedule)),
            Cell(_label(Weighting, one.weighting)),
        ]
        rows.append([name, kind, *scores, *labels[: len(settings)]])
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
    if any(comparison.statistics.values()):
        least = [detectable(comparison, metric.key) for metric in metrics]
        foot.append(["least significant difference from ★", "", *least, *blank])
    return Table(columns, rows, foot=foot)


def _score(
    comparison: Comparison, score: Score | None, metric: Metric, is_short: bool, is_stacked: bool
) -> Cell:
    if score is None or score.mean is None:
        return Cell(NONE)
    places = places_of(comparison, metric.key, score.std, digits=1 if is_short else 2)
    text = text_of(score.mean, places)
    std = "" if score.std is None else f"± {text_of(score.std, places)}"
    note = "unresolved" if score.is_unresolved and not is_short else ""
    if is_stacked:
        note = f"{std}\n{note}".strip()
    else:
        text = f"{text} {std}".strip()
    return Cell(
        f"{text}?" if is_short and score.is_unresolved else text,
        is_best=score.is_best,
        note=note,
        is_bold=score.is_best_within_error,
        value=score.mean,
    )


def seeds_table(comparison: Comparison) -> Table:
    metrics = measured(comparison)
    rows = []
    for one in comparison.objectives:
        scores = [one.scores[m.key].values if m.key in one.scores else {} for m in metrics]
        for seed in comparison.seeds:
            values = (number(known.get(seed)) for known in scores)
            rows.append([f"{one.name}, seed {seed}", *values])
    return Table(["", *(metric.short for metric in metrics)], rows)


def pairs_table(comparison: Comparison) -> Table:
    pair_and_score = (Column(text, is_numeric=False) for text in ("pair", "score"))
    numbers = ("difference", "interval", "least significant")
    rows: list[Row] = []
    for pair in comparison.pairs:
        for metric in comparison.metrics:
            found = pair.differences.get(metric.key)
            if found is None:
                continue
            if found.is_significant is None:
                mean = text_of(abs(found.mean), places_of(comparison, metric.key))
                cells = [Cell(f"{'−' if found.mean < 0 else '+'}{mean}"), *[Cell(NONE)] * 3]
            else:
                places, verdict = decimals(found.detectable) or 0, found.verdict(metric)
                kind = {"better": "yes", "worse": "no"}.get(str(verdict), "")
                cells = [
                    Cell(signed(found.mean, places), is_bold=found.is_significant),
                    Cell(interval(found.low, found.high, places)),
                    Cell(fixed(found.detectable, places)),
                    Cell(_VERDICTS[verdict], kind=kind),
                ]
            rows.append([f"{pair.monotone} minus {pair.non_monotone}", metric.short, *cells])
    return Table([*pair_and_score, *numbers, Column("verdict", is_numeric=False)], rows)


def weightings_table(comparison: Comparison) -> Table | None:
    """Return a table of rank correlations between weighted losses and scores.

    None if there are none.
    """
    ranking, titles = comparison.ranking, ranked(comparison)
    if ranking is None or not ranking.weightings:
        return None
    rows = [
        [weighting_label(name), *(correlation(ranking.by_weighting[key], i) for key in titles)]
        for i, name in enumerate(ranking.weightings)
    ]
    return Table(["weighting", *titles.values()], rows)


def protocol_table(comparison: Comparison) -> Table | None:
    """Return a table of the settings that all models share.

    They are the settings of training and scoring; None if unknown.
    """
    protocol, keys = comparison.protocol, {metric.key for metric in comparison.metrics}
    samplers = protocol.samplers if protocol else ()
    titles = [  # of metrics of `num_compared` samples
        metric.title
        for metric in SAMPLE_METRICS
        if metric.depends_on_num and any(metric_key(metric.name, one) in keys for one in samplers)
    ]
    lines = sentences("comparison/words.txt", "protocol", comparison, protocol, titles)
    rows = [line.partition(": ")[::2] for line in lines]
    return Table(["", Column("", is_numeric=False)], rows) if rows else None
