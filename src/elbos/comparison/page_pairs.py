"""The part of a comparison's page about rows that differ in nothing but the weighting."""

from collections.abc import Mapping
from html import escape
from typing import Any

from elbos.comparison.words import (
    Report,
    difference_formatter,
    formatter,
    interval,
    is_gain,
    is_significant,
    reading_of_pairs,
    signed,
    verdict,
)
from elbos.report.parts import NONE, breakable, record_table

_HALF = 46  # of 50, from zero to the largest number of a column


def matched_pairs(report: Report) -> str:
    """Each pair's differences with their intervals, and whether they are significant."""
    if not report["pairs"]:
        return ""
    scales = {metric["key"]: _scale(report, metric["key"]) for metric in report["metrics"]}
    records = [
        (
            f"<b>{breakable(pair['monotone'])}</b><br>minus {breakable(pair['non_monotone'])}",
            {
                escape(metric["short"]): _cell(report, pair, metric, scales[metric["key"]])
                for metric in report["metrics"]
            },
        )
        for pair in report["pairs"]
    ]
    return f"""<section class="measured pairs">
<h2>Matched pairs</h2>
<p class="lead">{escape(reading_of_pairs(report))}</p>
{record_table(records, head="difference", label="Differences of matched pairs")}
</section>"""


def _scale(report: Report, key: str) -> float:
    numbers = (
        abs(number)
        for pair in report["pairs"]
        for end in ("mean", "low", "high")
        if (number := (pair["differences"].get(key) or {}).get(end)) is not None
    )
    return max(numbers, default=0.0) or 1.0


def _cell(report: Report, pair: Mapping[str, Any], metric: Mapping[str, Any], scale: float) -> str:
    difference = pair["differences"].get(metric["key"])
    if difference is None or difference["mean"] is None:
        return NONE
    apart = is_significant(difference)
    known = apart is not None
    write = difference_formatter(difference) if known else formatter(report, metric["key"])
    mean = signed(difference["mean"], write)
    low_high = (
        ""
        if apart is None
        else f"<small>{interval(difference['low'], difference['high'], write)}</small>"
    )
    color = ("yes" if is_gain(difference, metric) else "no") if apart else ""
    says = "" if apart is None else verdict(difference, metric)
    least = "" if apart is not False else f" (±{write(difference['detectable'])} would be)"
    return f"""<div class="difference-of {color}">{_drawn(difference, scale)}
{f"<strong>{mean}</strong>" if apart else mean}{low_high}<small class="said">\
{says}{least}</small></div>"""


def _drawn(difference: Mapping[str, Any], scale: float) -> str:
    """The interval as a line beside zero, the mean as a point."""
    mean, low, high = (
        None if difference[key] is None else f"{50 + _HALF * difference[key] / scale:.1f}"
        for key in ("mean", "low", "high")
    )
    line = "" if low is None or high is None else f'<path class="range" d="M{low} 7H{high}"/>'
    return (
        '<svg class="interval" viewBox="0 0 100 14" aria-hidden="true">'
        f'<path class="zero" d="M50 0V14"/>{line}<circle cx="{mean}" cy="7" r="3.5"/></svg>'
    )
