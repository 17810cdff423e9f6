"""Report of a comparison: for the terminal, in Markdown and as an HTML page.

The sentences are in `templates/words.txt`, the page in `templates/page.html` of this room.
"""

import base64
import itertools
import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from elbos.base.colors import Swatch
from elbos.base.html import document, render, sentences, write_html
from elbos.base.tables import Column, Table
from elbos.comparison import figures, tables
from elbos.comparison.result import BITS_PER_DIM, Comparison, Metric
from elbos.theory.weightings import Weighting

_WORDS = "comparison/words.txt"


def terminal(comparison: Comparison) -> list[Any]:
    """Return the report for the terminal: differences, results, and the findings in words."""
    words, metrics = _words(comparison), comparison.main_metrics
    new = [pair for pair in comparison.pairs if comparison.complete[0].name not in pair]
    pairs = tables.differences_table(comparison, new, metrics)
    return [
        *(table.rich() for table in (words["differences"], pairs) if table.rows),
        tables.results_table(comparison, is_short=True).rich(),
        render("comparison/summary.txt", **words),
    ]


def markdown(comparison: Comparison) -> str:
    return render("comparison/report.md", **_report(comparison))


def page(comparison: Comparison, samples: Mapping[str, bytes]) -> str:
    """Return the report as a self-contained HTML page, with sample images by objective."""
    return document(
        "comparison/page.html",
        **_report(comparison),
        command=comparison.command,
        samples={name: base64.b64encode(png).decode() for name, png in samples.items()},
        swatches=figures.swatches(comparison.objectives),
        learning=figures.learning_figure(comparison),
        levels=figures.levels_figure(comparison),
        figures=figures,
        reference=figures.reference(comparison),
        neutral=Swatch("currentColor"),
        label=partial(tables.component_label, Weighting),
    )


def write_page(comparison: Comparison, path: Path, samples: Mapping[str, bytes]) -> None:
    write_html(path, page(comparison, samples))


def _words(comparison: Comparison) -> dict[str, Any]:
    best = [
        _best(comparison, metric)
        for metric in comparison.main_metrics
        if metric.key in comparison.statistics
    ]
    bits = [comparison.scores[o.name].get(BITS_PER_DIM.key) for o in comparison.complete]
    guess = math.log2(comparison.num_levels) if comparison.num_levels else math.inf
    is_worse = min((score.mean for score in bits if score), default=0.0) > guess
    firsts = list(dict.fromkeys((gap.objective, gap.minus) for gap in comparison.differences))
    spelt = {m.short.partition(",")[0]: m.title.partition(",")[0] for m in comparison.metrics}
    names = ("facts", "missing", "reading", "reading_of_pairs", "notes")
    words = {name: sentences(_WORDS, name, comparison) for name in names}
    uniform, verdicts = guess if is_worse else None, planned_verdicts(comparison)
    return {
        "comparison": comparison,
        "differences": tables.differences_table(comparison, firsts, comparison.main_metrics),
        "findings": sentences(_WORDS, "findings", comparison, verdicts, best, uniform),
        "monotone": sentences(_WORDS, "monotone"),
        "metrics": [f"{short}: {title}" for short, title in spelt.items() if short != title],
        **words,
    }


def _report(comparison: Comparison) -> dict[str, Any]:
    return {
        **_words(comparison),
        "results": tables.results_table(comparison),
        "pairs": tables.differences_table(comparison, comparison.pairs, comparison.metrics),
        "protocol": Table(["", Column("", is_numeric=False)], list(comparison.protocol.items())),
    }


def planned_verdicts(comparison: Comparison) -> Counter[str | None]:
    """Count the verdicts on monotone weightings in the planned pairs."""
    return Counter(
        comparison.difference(*pair, metric).verdict(metric)
        for pair, metric in itertools.product(comparison.pairs, comparison.main_metrics)
    )


def _best(comparison: Comparison, metric: Metric) -> dict[str, Any]:
    """Return what the findings say of the objectives that are best in one metric within errors."""
    scores = {o.name: comparison.scores[o.name][metric.key] for o in comparison.complete}
    best = next(o for o in comparison.complete if scores[o.name].is_best)
    rest = [o for o in comparison.complete if o is not best]
    places = tables.places_of(comparison, metric.key, scores[best.name].std)
    return {
        "metric": metric,
        "objective": best,
        "value": tables.text_of(scores[best.name].mean, places),
        "near": [
            (o, ", ".join(tables.gap_texts(comparison, (o.name, best.name), metric)))
            for o in rest
            if scores[o.name].is_best_within_error
        ],
        "unresolved": [o for o in rest if scores[o.name].is_unresolved],
    }
