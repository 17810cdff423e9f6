"""What a comparison says, in sentences, and no more than its intervals allow."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from elbos.comparison.statistics import CONFIDENCE, NUM_DRAWS
from elbos.comparison.words import (
    Report,
    correlation,
    detectable,
    difference_formatter,
    interval,
    is_significant,
    kind,
    ranked,
    score_formatter,
    signed,
    verdict,
)
from elbos.evaluation.metrics import BITS_PER_DIM as BITS

_FEW = 4  # objectives or differences, which are named

Entry = Mapping[str, Any]  # of a report


def conclusion(report: Report) -> list[str]:
    """The findings, most important first: the first one stands alone."""
    complete = [row for row in report["rows"] if row["status"] == "complete"]
    if len(complete) < 2:
        return ["There are not two objectives with scores yet: nothing can be compared."]
    if len(report["seeds"]) == 1:
        return [
            f"One seed of {len(complete)} objectives: a difference between two of them may be "
            "chance.",
            "Give the same command more --seeds for intervals.",
        ]
    metrics = [metric for metric in report["metrics"] if metric["is_main"]]
    best = (_best(one, complete, report) for one in metrics if report["statistics"][one["key"]])
    return [*_pairs(metrics, report), *best, *_ranking(report)]


def _pairs(metrics: Sequence[Entry], report: Report) -> Iterator[str]:
    """How pairs came out that differ in the weighting only, where there are intervals."""
    found = [
        (pair, metric, difference)
        for pair in report["pairs"]
        for metric in metrics
        if is_significant(difference := pair["differences"][metric["key"]]) is not None
    ]
    num_planned = len(found)
    found = [one for one in found if verdict(one[2], one[1]) != "unresolved"]
    num_lost = num_planned - len(found)
    if not found:
        if num_lost:
            yield f"Seeds scatter too much for a verdict on any of {num_lost} planned comparisons."
        return
    counts = Counter(verdict(difference, metric) for _, metric, difference in found)
    better, worse = counts["monotone better"], counts["monotone worse"]
    percent = round(100 * CONFIDENCE)
    if better or worse:
        verdicts = f"scored significantly better in {better} and worse in {worse} of {len(found)}"
    else:
        verdicts = f"made no significant difference in any of {len(found)}"
    unresolved = f" {num_lost} more: unresolved, as seeds scatter too much." if num_lost else ""
    yield (
        f"A monotone weighting {verdicts} planned comparisons ({percent} % confidence for the "
        f"whole report).{unresolved}"
    )
    apart = [
        f"{pair['monotone']} minus {pair['non_monotone']}, {metric['title']}: "
        f"{_difference(difference)}"
        for pair, metric, difference in found
        if is_significant(difference)
    ]
    if 0 < len(apart) <= _FEW:
        yield f"Significant: {'; '.join(apart)}."
    if least := "; ".join(_least(metrics, found)):
        yield f"Where a pair shows no significant difference, it would have taken {least}."


def _difference(difference: Mapping[str, float]) -> str:
    write = difference_formatter(difference)
    ends = interval(difference["low"], difference["high"], write)
    return f"{signed(difference['mean'], write)} ({ends})"


def _least(metrics: Sequence[Entry], found: Sequence[tuple[Entry, Entry, Entry]]) -> Iterator[str]:
    """By metric, from which difference on a pair without one would have been significant."""
    for metric in metrics:
        others = [one for _, of, one in found if of is metric and not is_significant(one)]
        if others:
            others.sort(key=lambda one: float(one["detectable"]))
            ends = (difference_formatter(one)(one["detectable"]) for one in (others[0], others[-1]))
            yield f"{' to '.join(dict.fromkeys(ends))} ({metric['title']})"


def _best(metric: Entry, rows: Sequence[Entry], report: Report) -> str:
    """Which objective is best, and which do not differ significantly from it."""
    key = metric["key"]
    best = next(row for row in rows if row["scores"][key]["is_best"])
    value = score_formatter(report, best, key)(best["scores"][key]["mean"])
    text = f"{metric['title']}: {best['name']} ({kind(best)}) is best with {value}"
    others = [row for row in rows if row is not best]
    near = [row for row in others if row["scores"][key]["is_best_within_error"]]
    lost = [row["name"] for row in others if row["scores"][key]["is_unresolved"]]
    unresolved = f" Unresolved, as seeds scatter too much: {', '.join(lost)}." if lost else ""
    if not near:
        rest = "all others that can be compared are" if lost else "all others are"
        return f"{text}; {rest} significantly worse.{unresolved}"
    if len(near) <= _FEW:
        names = ", ".join(f"{row['name']} ({kind(row)})" for row in near)
    else:
        num = sum(row["is_monotone"] for row in near)
        names = f"{len(near)} of the other {len(others)}, {num} of them monotone"
    least = detectable(report, key)
    return f"{text}; no significant difference, which takes about {least}: {names}.{unresolved}"


def _ranking(report: Report) -> Iterator[str]:
    """The ranking question, at the noise level that ranks most as sample quality does: never
    without the test of the largest of all.
    """
    titles = ranked(report)
    distances = [key for key in titles if key != BITS.name]
    if not distances:
        return
    ranking, key = report["ranking"], distances[-1]  # Heun's
    found, p_value = ranking[key], ranking[key]["p_value"]
    if p_value is None:
        return
    rho = [-np.inf if value is None else value for value in found["rho"]]
    i = int(np.argmax(rho))
    yield (
        "Does the ELBO of noisy test data rank weightings as sample quality does? Over "
        f"{ranking['num_weightings']} monotone ones ({ranking['num_rows']} objectives), the clean "
        f"ELBO has a rank correlation of {_at(found, -1)} with the {titles[key]}."
    )
    yield (
        f"Of {len(rho)} noise levels the highest is {_at(found, i)}, at log-SNR "
        f"{ranking['logsnr'][i]:.1f}: {'no evidence' if p_value > 1 - CONFIDENCE else 'evidence'}, "
        f"for the highest of so many is as high by chance with p = {p_value:.2g}."
    )


def _at(found: Mapping[str, Sequence[float | None]], i: int) -> str:
    return correlation({end: found[end][i] for end in ("rho", "low", "high")})


def notes(report: Report) -> list[str]:
    """How to read the numbers."""
    lines = [
        "Objectives of one seed share network, initial weights, order of the data, noise, the "
        "uniform numbers that noise levels are made of, and the noise that samples start from. An "
        "objective's score is its mean over seeds, never its best seed.",
    ]
    percent = round(100 * CONFIDENCE)
    if any(report["statistics"].values()):
        num = sum(row["status"] == "complete" for row in report["rows"])
        shares = ""
        if 0 < len(report["pairs"]) < num * (num - 1) // 2:
            shares = (
                f": half of the remaining {100 - percent} % is for matched pairs, which were "
                "planned, half for differences from the best"
            )
        lines += [
            f"All verdicts of this report together are right with {percent} % confidence{shares}. "
            "They are about training anew on the same data, not about other images.",
            "An objective that scatters over seeds more than the others has wider intervals. Few "
            "seeds leave them wide: no significant difference is not no difference.",
            "Intervals hold if objectives and seeds were chosen before looking. After a look that "
            "made one add seeds or drop objectives, confirm with fresh seeds alone, as --seeds 10 "
            "11 12 13 14.",
        ]
    if erratic := "; ".join(_erratic(report)):
        lines.append(
            "Some objectives scatter over seeds more than ten times as much as is typical, and are "
            f"no part of what is: {erratic}."
        )
    if factors := ", ".join(_factors(report)):
        lines.append(
            "The standard error that a difference would have with seeds of their own for each "
            f"objective, over the one it has with shared seeds: {factors}."
        )
    if report["ranking"] is not None:
        lines.append(
            "Rank correlations are Spearman's, of means over seeds and the objectives of a "
            f"weighting; their intervals of {NUM_DRAWS:,} bootstrap draws of weightings and seeds, "
            "each noise level by itself. The p-value of the highest is of permutations of the "
            "weightings."
        )
    if any(row["status"] != "complete" for row in report["rows"]):
        lines.append("Objectives without scores of all seeds are shown, and not compared.")
    return lines


def _erratic(report: Report) -> Iterator[str]:
    for metric in report["metrics"]:
        if names := (report["statistics"][metric["key"]] or {}).get("erratic"):
            yield f"{metric['title']}, {', '.join(names)}"


def _factors(report: Report) -> Iterator[str]:
    for metric in report["metrics"]:
        if found := report["statistics"][metric["key"]]:
            yield f"{found['pairing']:.2f} ({metric['title']})"
