"""A comparison in short: numbers to the digit that is known, and what differences mean."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from elbos.evaluation.words import number
from elbos.pages.parts import NONE

Report = Mapping[str, Any]

MONOTONE = (
    "A monotone weighting never rises with the log-SNR, that is, from noisy images to clean ones. "
    "Training with one maximizes a lower bound on the likelihood of data with Gaussian noise added "
    "to it."
)


def formatter(report: Report, key: str) -> Callable[[float | None], str]:
    """How numbers of a metric are written: to the second digit of its margin, or four digits."""
    return _writer((report["statistics"].get(key) or {}).get("margin"))


def score_formatter(
    report: Report, row: Mapping[str, Any], key: str
) -> Callable[[float | None], str]:
    """How a row's score is written: by the margin it has."""
    margin = score(row, key).get("margin")
    return _writer(margin) if margin else formatter(report, key)


def difference_formatter(difference: Mapping[str, float | None]) -> Callable[[float | None], str]:
    """How a difference and its interval are written: to the second digit of half its width."""
    low, high = difference["low"], difference["high"]
    return _writer(None if low is None or high is None else (high - low) / 2)


def _writer(margin: float | None) -> Callable[[float | None], str]:
    if not margin:
        return number
    decimals = max(0, 1 - math.floor(math.log10(margin)))
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
    return "floor: real images" if num is None else f"floor: {num:,} test images"


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
    """How marks and margins are to be read."""
    if all(one is None for one in report["statistics"].values()):
        return "★ the best mean. With one seed there is no margin: a difference may be chance."
    return (
        "★ the best mean. Bold: not told apart from it. ± serves to compare rows: two whose "
        "intervals do not overlap differ (about 95 % confidence, for all pairs of rows at once). "
        "It is no error of the mean: what a seed does to all rows is left out."
    )


def reading_of_pairs(report: Report) -> str:
    """What matched pairs are, and how their intervals are to be read."""
    text = "These rows differ in nothing but the weighting: one is monotone, the other is not."
    if len(report["seeds"]) == 1:
        return f"{text} With one seed nothing can be told apart from chance."
    return (
        f"{text} Each pair has an interval of its own, of 95 % confidence for all pairs of a score "
        "at once."
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


def told_apart(difference: Mapping[str, float | None]) -> bool | None:
    """Whether the interval excludes zero; none without an interval."""
    low, high = difference["low"], difference["high"]
    return None if low is None or high is None else not low <= 0 <= high


def is_gain(difference: Mapping[str, Any], metric: Mapping[str, Any]) -> bool:
    """Whether the monotone row is the better one."""
    return bool((difference["mean"] < 0) == metric["is_lower_better"])


def verdict(difference: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """What a difference, monotone minus not, says."""
    apart = told_apart(difference)
    if apart is None:
        return "no interval"
    if not apart:
        return "not told apart"
    return "monotone better" if is_gain(difference, metric) else "monotone worse"


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
