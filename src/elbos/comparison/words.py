"""A comparison in short: numbers to the digit that is known, and what differences mean."""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from elbos.evaluation.metrics import BITS_PER_DIM as BITS
from elbos.evaluation.words import number
from elbos.report.parts import NONE

Report = Mapping[str, Any]

MONOTONE = (
    "A monotone weighting never rises with the log-SNR, that is, from noisy images to clean ones. "
    "Training with one maximizes a lower bound on the likelihood of data with Gaussian noise added "
    "to it."
)


def formatter(report: Report, key: str, digits: int = 2) -> Callable[[float | None], str]:
    """How numbers of a metric are written: to the second digit of the middle one of the standard
    deviations over seeds, or four digits.
    """
    return _writer(_typical_std(report, key), digits)


def score_formatter(
    report: Report, row: Mapping[str, Any], key: str, digits: int = 2
) -> Callable[[float | None], str]:
    """How an objective's score is written: likewise, or by its own deviation where it is larger."""
    return _writer(max(_typical_std(report, key), score(row, key).get("std") or 0.0), digits)


def _typical_std(report: Report, key: str) -> float:
    known = [std for row in report["rows"] if (std := score(row, key).get("std")) is not None]
    return statistics.median(known) if known else 0.0


def difference_formatter(difference: Mapping[str, float | None]) -> Callable[[float | None], str]:
    """How a difference and its interval are written: to the second digit of half its width."""
    low, high = difference["low"], difference["high"]
    return _writer(None if low is None or high is None else (high - low) / 2)


def _writer(margin: float | None, digits: int = 2) -> Callable[[float | None], str]:
    if not margin:
        return number
    decimals = max(0, digits - 1 - math.floor(math.log10(margin)))
    return lambda value: NONE if value is None else _plain(value, decimals)


def _plain(value: float, decimals: int) -> str:
    """With a real minus sign, but none before a zero."""
    text = f"{value:.{decimals}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def measured(report: Report) -> list[Mapping[str, Any]]:
    """The metrics that any row has."""
    return [
        metric
        for metric in report["metrics"]
        if any(score(row, metric["key"]).get("mean") is not None for row in report["rows"])
    ]


def score(row: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A row's score, empty if there is none."""
    return row["scores"].get(key) or {}


def floor_name(report: Report) -> str:
    """What real images are called, and how many there are."""
    num = report["num_floor"]
    return "real-data baseline" if num is None else f"real-data baseline: {num:,} test images"


def detectable(report: Report, key: str) -> str:
    """The difference from the best that would be significant for the middle one of all others."""
    found = report["statistics"].get(key)
    return NONE if found is None else _writer(found["detectable"])(found["detectable"])


def ranked(report: Report) -> dict[str, str]:
    """Titles of the scores in the ranking question, by key."""
    return {
        metric["key"]: "clean ELBO, bits/dim" if metric["key"] == BITS.name else metric["title"]
        for metric in report["metrics"]
        if (report["ranking"] or {}).get(metric["key"])
    }


def kind(row: Mapping[str, Any]) -> str:
    """Whether its weighting is monotone, in words."""
    return "monotone" if row["is_monotone"] else "not monotone"


def finished(report: Report, row: Mapping[str, Any]) -> str:
    """How many seeds of a row have scores, if not all have."""
    if row["status"] == "complete":
        return ""
    num = max((len(one["values"]) for one in row["scores"].values() if one), default=0)
    return f"{num} of {len(report['seeds'])} seeds" if num else "failed"


def failures(report: Report) -> Iterator[tuple[str, str]]:
    """Rows that have no scores of some seeds, and why."""
    for row in report["rows"]:
        seeds: dict[str, list[str]] = {}
        for one in row["failures"]:
            seeds.setdefault(one["reason"], []).append(str(one["seed"]))
        if row["status"] != "complete":
            reasons = (f"{_seeds(which)}: {reason}" for reason, which in seeds.items())
            yield row["name"], "; ".join(reasons)


def _seeds(which: Sequence[str]) -> str:
    return f"seed{'s' if len(which) > 1 else ''} {', '.join(which)}"


def reading(report: Report) -> str:
    """How marks and numbers are to be read."""
    spread = "± is the standard deviation over seeds."
    if all(one is None for one in report["statistics"].values()):
        return (
            "With one seed nothing is marked: a difference may be chance."
            if len(report["seeds"]) == 1
            else spread
        )
    main = ", ".join(metric["short"] for metric in report["metrics"] if metric["is_main"])
    unresolved = (
        " Unresolved: scatters over seeds more than ten times as much as is typical, too much to "
        "be compared."
        if any(one.get("is_unresolved") for row in report["rows"] for one in row["scores"].values())
        else ""
    )
    return (
        f"★ the best mean of a main score ({main}). Bold: no significant difference from it."
        f"{unresolved} {spread} Other scores are shown without verdict. All verdicts of this "
        "report together are right with 95 % confidence."
    )


def reading_of_pairs(report: Report) -> str:
    """What matched pairs are, and how their intervals are to be read."""
    text = "These objectives differ in the weighting only: one is monotone, the other is not."
    if len(report["seeds"]) == 1:
        return f"{text} One seed has no intervals: a difference may be chance."
    return (
        f"{text} Intervals of the main scores hold with 95 % confidence for the whole report; "
        "a difference is significant where its interval leaves out zero. Other scores have no "
        "verdict."
    )


def interval(low: float, high: float, write: Callable[[float | None], str]) -> str:
    """From low to high, with real minus signs."""
    return f"{signed(low, write)} to {signed(high, write)}"


def signed(value: float, write: Callable[[float | None], str]) -> str:
    """A number with its sign.

    Examples:
        >>> signed(-0.25, "{:.1f}".format), signed(1.0, "{:.1f}".format)
        ('−0.2', '+1.0')
    """
    return f"{'−' if value < 0 else '+'}{write(abs(value))}"


def is_significant(difference: Mapping[str, float | None]) -> bool | None:
    """Whether the interval excludes zero; none without an interval."""
    low, high = difference["low"], difference["high"]
    return None if low is None or high is None else not low <= 0 <= high


def is_gain(difference: Mapping[str, Any], metric: Mapping[str, Any]) -> bool:
    """Whether the monotone objective is the better one."""
    return bool((difference["mean"] < 0) == metric["is_lower_better"])


def verdict(difference: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """What a difference, monotone minus not, says."""
    found = is_significant(difference)
    if found is None:
        return NONE
    if found:
        return "monotone better" if is_gain(difference, metric) else "monotone worse"
    return "unresolved" if difference["is_unresolved"] else "no significant difference"


def correlation(one: Mapping[str, float | None] | None) -> str:
    """A rank correlation with its interval."""
    if one is None or one["rho"] is None:
        return NONE
    low, high = one["low"], one["high"]
    rho = signed(one["rho"], "{:.2f}".format)
    if low is None or high is None:
        return rho
    return f"{rho} ({interval(low, high, '{:.2f}'.format)})"


def facts(report: Report) -> Sequence[str]:
    """What was trained and measured, in short, as far as it is known."""
    counted = {
        "images seen by each run": report["num_images"],
        "parameters": report["num_parameters"],
        "test images scored": report["num_test_images"],
        "samples scored": report["num_samples"],
    }
    return [
        *([report["data"]] if report["data"] else []),
        f"{len(report['rows'])} objectives",
        "1 seed" if len(report["seeds"]) == 1 else f"{len(report['seeds'])} seeds each",
        *(f"{num:,} {what}" for what, num in counted.items() if num is not None),
    ]
