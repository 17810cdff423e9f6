"""Report of a comparison: for the terminal, in Markdown and as an HTML page.

The sentences are in `templates/words.txt`, the page in `templates/page.html` of this room.
"""

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from elbos.base.colors import Swatch
from elbos.base.html import document, render, sentences, write_html
from elbos.base.numbers import decimals, percent
from elbos.comparison import figures, tables
from elbos.comparison.objective_result import Metric, ObjectiveResult
from elbos.comparison.result import Comparison
from elbos.evaluation.metrics import BITS_PER_DIM

_WORDS = "comparison/words.txt"
_MAX_NAMED = 4  # objectives or differences that a sentence names


def terminal(comparison: Comparison) -> list[Any]:
    """Return the report of a comparison for the terminal.

    It has a table of results, and the findings in words.
    """
    return [
        tables.results_table(comparison, is_short=True).rich(),
        render("comparison/summary.txt", **_words(comparison)),
    ]


def markdown(comparison: Comparison) -> str:
    return render("comparison/report.md", **_words(comparison), **_tables(comparison))


def page(comparison: Comparison, samples: Mapping[str, bytes]) -> str:
    """Return the report of a comparison as a self-contained HTML page.

    It has a row of sample images per objective.
    """
    ranking, titles = comparison.ranking, tables.ranked(comparison)
    return document(
        "comparison/page.html",
        **_words(comparison),
        **{**_tables(comparison), "results": tables.results_table(comparison, is_stacked=True)},
        command=comparison.command,
        samples={name: base64.b64encode(png).decode() for name, png in samples.items()},
        swatches=figures.swatches(comparison.objectives),
        learning=figures.learning_figure(comparison),
        levels=figures.levels_figure(comparison),
        ranking_figure=ranking
        and figures.ranking_figure(
            ranking.logsnr, {title: ranking.by_level[key] for key, title in titles.items()}
        ),
        heat=_heat(comparison),
        figures=figures,
        neutral=Swatch("currentColor"),
        label=tables.weighting_label,
    )


def write_page(comparison: Comparison, path: Path, samples: Mapping[str, bytes]) -> None:
    write_html(path, page(comparison, samples))


def _words(comparison: Comparison) -> dict[str, Any]:
    planned, highest = Planned.from_comparison(comparison), _highest(comparison)
    best = [
        Best.from_comparison(comparison, metric)
        for metric in comparison.main_metrics
        if comparison.statistics.get(metric.key)
    ]
    of_all = ("facts", "missing", "reading", "reading_of_pairs", "notes")
    words = {name: sentences(_WORDS, name, comparison) for name in of_all}
    guess = _guess(comparison)
    return {
        "comparison": comparison,
        "findings": sentences(_WORDS, "findings", comparison, planned, best, highest, guess),
        "monotone": sentences(_WORDS, "monotone"),
        "reading_of_ranking": sentences(_WORDS, "ranking", comparison.ranking),
        "ranked": tables.ranked(comparison),
        **words,
    }


def _guess(comparison: Comparison) -> float | None:
    """Return the bits/dim of equally likely pixel values if no objective is better."""
    scores = [one.scores.get(BITS_PER_DIM.name) for one in comparison.complete]
    means = [score.mean for score in scores if score and score.mean is not None]
    num_levels = comparison.protocol.num_levels if comparison.protocol else None
    guess = math.log2(num_levels) if num_levels else math.inf
    return guess if min(means, default=0.0) > guess else None


def _tables(comparison: Comparison) -> dict[str, Any]:
    return {
        "results": tables.results_table(comparison),
        "seeds": tables.seeds_table(comparison),
        "pairs": tables.pairs_table(comparison),
        "weightings": tables.weightings_table(comparison),
        "protocol": tables.protocol_table(comparison),
    }


@dataclass(frozen=True)
class Planned:
    """Outcomes of comparing monotone with non-monotone weightings.

    Counted is how often the monotone weighting is better or worse. The counts are out of `num`
    differences with a verdict; `num_unresolved` more have too much scatter over seeds.
    `significant` are these differences in words, empty if many; `least`, for each metric, the
    differences that would have been significant where none was.
    """

    num: int
    num_better: int
    num_worse: int
    num_unresolved: int
    significant: list[str]
    least: list[str]

    @classmethod
    def from_comparison(cls, comparison: Comparison) -> "Planned":
        found = [
            (pair, metric, difference, difference.verdict(metric))
            for pair in comparison.pairs
            for metric in comparison.main_metrics
            if (difference := pair.differences[metric.key]).is_significant is not None
        ]
        verdicts = [verdict for *_, verdict in found]
        significant = [
            f"{pair.monotone} minus {pair.non_monotone}, {m.title}: {tables.difference_text(d)}"
            for pair, m, d, _ in found
            if d.is_significant
        ]
        least = []
        for metric in comparison.main_metrics:
            same = [d.detectable for _, m, d, v in found if m is metric and v == "same"]
            if sizes := sorted(size for size in same if size is not None):
                texts = [tables.text_of(size, decimals(size)) for size in (sizes[0], sizes[-1])]
                least.append(f"{' to '.join(dict.fromkeys(texts))} ({metric.title})")
        num_unresolved = verdicts.count("unresolved")
        return cls(
            num=len(found) - num_unresolved,
            num_better=verdicts.count("better"),
            num_worse=verdicts.count("worse"),
            num_unresolved=num_unresolved,
            significant=significant if len(significant) <= _MAX_NAMED else [],
            least=least,
        )


@dataclass(frozen=True)
class Best:
    """Training objectives that are best in one metric within statistical error."""

    metric: Metric
    objective: ObjectiveResult
    value: str
    near: list[ObjectiveResult]
    unresolved: list[ObjectiveResult]
    num_others: int
    detectable: str

    @property
    def is_named(self) -> bool:
        return len(self.near) <= _MAX_NAMED

    @classmethod
    def from_comparison(cls, comparison: Comparison, metric: Metric) -> "Best":
        key = metric.key
        best = next(one for one in comparison.complete if one.scores[key].is_best)
        others = [one for one in comparison.complete if one is not best]
        places = tables.places_of(comparison, key, best.scores[key].std)
        return cls(
            metric=metric,
            objective=best,
            value=tables.text_of(best.scores[key].mean, places),
            near=[one for one in others if one.scores[key].is_best_within_error],
            unresolved=[one for one in others if one.scores[key].is_unresolved],
            num_others=len(others),
            detectable=tables.detectable(comparison, key),
        )


def _highest(comparison: Comparison) -> dict[str, Any] | None:
    titles = tables.ranked(comparison)
    keys = [key for key in titles if key != BITS_PER_DIM.name]
    ranking = comparison.ranking
    if ranking is None or not keys or ranking.by_level[keys[-1]].p_value is None:
        return None
    found = ranking.by_level[keys[-1]]
    rho = [-math.inf if value is None else value for value in found.rho]
    i = int(np.argmax(rho))
    return {
        "title": titles[keys[-1]],
        "clean": tables.correlation(found, -1),
        "highest": tables.correlation(found, i),
        "logsnr": ranking.logsnr[i],
        "num_levels": len(rho),
        "p_value": found.p_value,
    }


def _heat(comparison: Comparison) -> list[list[tuple[float | None, str, bool]]]:
    """Return a heat map of the test losses by model and weighting.

    A cell has the loss, the colour strength, and whether the model was trained with the weighting.
    """
    if comparison.losses is None:
        return []
    losses = comparison.losses
    values = [value for row in losses.relative for value in row if value is not None]
    # to the 90 % quantile, so that a single large loss does not make all other cells pale
    end = math.log(np.clip(np.quantile(values, 0.9), 1.02, 2.0)) if values else 1.0

    def strength(value: float | None) -> str:
        return percent(0.45 * min(1.0, max(0.0, math.log(value) / end)) if value else 0.0, 0)

    return [
        [
            (value, strength(value), name in weighting.objectives)
            for value, weighting in zip(row, losses.weightings, strict=True)
        ]
        for name, row in zip(losses.objectives, losses.relative, strict=True)
    ]
