"""What a comparison says, in sentences, and no more than its intervals allow."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from elbos.compare.metrics import FRECHET, MAIN
from elbos.compare.statistics import CONFIDENCE, NUM_DRAWS
from elbos.compare.words import (
    Report,
    correlation,
    difference_formatter,
    interval,
    kind,
    score_formatter,
    signed,
    told_apart,
    verdict,
)

_FEW = 4  # rows or differences, which are named

Entry = Mapping[str, Any]  # of a report


def conclusion(report: Report) -> list[str]:
    """The findings, most important first."""
    complete = [row for row in report["rows"] if row["status"] == "complete"]
    if len(complete) < 2:
        return ["There are not two rows with scores yet: nothing can be compared."]
    metrics = [metric for main in MAIN for metric in report["metrics"] if metric["key"] == main.key]
    sentences = [*_pairs(metrics, report), *(_best(metric, complete, report) for metric in metrics)]
    sentences += list(_ranking(report))
    if len(report["seeds"]) == 1:
        sentences.append(
            "One seed: a difference between two rows cannot be told from chance. Give more "
            "--seeds to the same command for intervals."
        )
    return sentences


def _pairs(metrics: Sequence[Entry], report: Report) -> Iterator[str]:
    """How pairs came out that differ in the weighting only, where there are intervals."""
    differences = [
        (pair, metric, difference)
        for pair in report["pairs"]
        for metric in metrics
        if told_apart(difference := pair["differences"][metric["key"]]) is not None
    ]
    if not differences:
        return
    counts = Counter(verdict(difference, metric) for _, metric, difference in differences)
    yield (
        f"A monotone weighting was better in {counts['monotone better']}, worse in "
        f"{counts['monotone worse']} and not told apart in {counts['not told apart']} of "
        f"{len(differences)} comparisons in which nothing else differs (95 % confidence, for each "
        "score)."
    )
    apart = [
        f"{pair['monotone']} minus {pair['non_monotone']}, {metric['title']}: "
        f"{_difference(difference)}"
        for pair, metric, difference in differences
        if told_apart(difference)
    ]
    if 0 < len(apart) <= _FEW:
        yield f"Told apart: {'; '.join(apart)}."


def _difference(difference: Mapping[str, float]) -> str:
    write = difference_formatter(difference)
    ends = interval(difference["low"], difference["high"], write)
    return f"{signed(difference['mean'], write)} ({ends})"


def _best(metric: Entry, rows: Sequence[Entry], report: Report) -> str:
    """Which row is best, and which are not told apart from it."""
    key = metric["key"]
    best = next(row for row in rows if row["scores"][key]["is_best"])
    value = score_formatter(report, best, key)(best["scores"][key]["mean"])
    text = f"{metric['title']}: {best['name']} ({kind(best)}) is best with {value}"
    if report["statistics"][key] is None:
        return f"{text}, of one seed."
    others = [row for row in rows if row is not best]
    near = [row for row in others if row["scores"][key]["is_best_within_error"]]
    if not near:
        return f"{text}; every other row is told apart from it."
    if len(near) <= _FEW:
        names = ", ".join(f"{row['name']} ({kind(row)})" for row in near)
        return f"{text}; not told apart from it: {names}."
    num = sum(row["is_monotone"] for row in near)
    return (
        f"{text}; {len(near)} of the other {len(others)} rows are not told apart from it, {num} of "
        "them monotone."
    )


def _ranking(report: Report) -> Iterator[str]:
    """The ranking question, at the noise level that ranks most as sample quality does."""
    ranking = report["ranking"]
    heun = FRECHET[1]
    if ranking is None or heun.key not in ranking:
        return
    frechet = ranking[heun.key]
    rho = np.array([np.nan if r is None else r for r in frechet["rho"]])
    if np.isnan(rho).all():
        return
    i = int(np.nanargmax(rho))
    yield (
        f"Does the ELBO of noisy test data rank the {ranking['num_rows']} monotone rows as sample "
        f"quality does? The clean ELBO has a rank correlation of {_at(frechet, -1)} with the "
        f"{heun.title}."
    )
    yield (
        f"The ELBO at log-SNR {ranking['logsnr'][i]:.1f} has {_at(frechet, i)}, the highest of all "
        "levels, in an interval that does not know of this choice; and "
        f"{_at(ranking['bits_per_dim'], i)} with the clean ELBO."
    )


def _at(found: Mapping[str, Sequence[float | None]], i: int) -> str:
    return correlation({end: found[end][i] for end in ("rho", "low", "high")})


def notes(report: Report) -> list[str]:
    """How to read the numbers."""
    found = next((one for one in report["statistics"].values() if one), None)
    lines = [
        "Rows of one seed share network, initial weights, order of the data, noise, the uniform "
        "numbers that noise levels are made of, and the noise that samples start from. A row's "
        "score is its mean over seeds, never its best seed.",
    ]
    if found:
        percent, dof = round(100 * CONFIDENCE), found["dof"]
        lines += [
            f"± is half of Tukey's honestly significant difference over {found['num_seeds']} "
            f"seeds as blocks ({dof} degree{'s' if dof > 1 else ''} of freedom), wider for a row "
            "that scatters more than the others, by as much: two rows whose intervals do not "
            f"overlap differ, with about {percent} % confidence for all pairs of rows and one "
            "score at once. It is about training anew on the same data, not about other images.",
            "Intervals hold if rows and seeds were chosen before looking. After a look that made "
            "one add seeds or drop rows, confirm with fresh seeds alone, as --seeds 10 11 12.",
        ]
    if erratic := "; ".join(_erratic(report)):
        lines.append(
            "Some rows scatter over seeds so much more than the others (Cochran's test) that "
            f"their ± is their own, and no part of the others': {erratic}."
        )
    if found and (num := len(report["pairs"])):
        lines.append(
            "The intervals of matched pairs are Student's, of a pair's own differences over seeds, "
            f"with Bonferroni's correction for {num} {'pair' if num == 1 else 'pairs'} and one "
            "score at once. They take nothing from other rows, and may tell two rows "
            "apart whose ± overlap, or the other way round."
        )
    if factors := ", ".join(_factors(report)):
        lines.append(
            "The standard error that a difference would have with seeds of their own for each row, "
            f"over the one it has with shared seeds: {factors}."
        )
    if report["ranking"] is not None:
        lines.append(
            "Rank correlations are Spearman's, of means over seeds; their intervals of "
            f"{NUM_DRAWS:,} bootstrap draws of rows and seeds, each level by itself."
        )
    if any(row["status"] != "complete" for row in report["rows"]):
        lines.append("Rows without scores of all seeds are shown, and not compared.")
    return lines


def _erratic(report: Report) -> Iterator[str]:
    for metric in report["metrics"]:
        if names := (report["statistics"][metric["key"]] or {}).get("erratic"):
            yield f"{metric['title']}, {', '.join(names)}"


def _factors(report: Report) -> Iterator[str]:
    for metric in MAIN:
        found = report["statistics"].get(metric.key)
        if found and found["pairing"] is not None:
            yield f"{found['pairing']:.2f} ({metric.title})"
