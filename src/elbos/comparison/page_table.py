"""The part of a comparison's page that is its table: a row for each objective, all metrics."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from elbos.comparison.figures import styles
from elbos.comparison.names import short_prediction, short_schedule, short_weighting
from elbos.comparison.words import (
    Report,
    detectable,
    failures,
    finished,
    floor_name,
    formatter,
    kind,
    measured,
    score,
    score_formatter,
)
from elbos.evaluation.words import number
from elbos.report.panels import DASHES
from elbos.report.parts import NONE, breakable, scrollable, swatch, table

_TEXTS = ("objective", "weighting is", "predicts", "schedule", "weighting")


def results(report: Report) -> str:
    """The table, how to read it, what failed, and the values of every seed."""
    body = f"""<table class="numbers compared" data-sortable>
<thead><tr>{_head(report)}</tr></thead>
<tbody>
{_body(report)}
</tbody>{_foot(report)}</table>"""
    return f"""<section class="measured">
<h2>Every objective</h2>
{scrollable(body, label="Every objective and its scores")}
<p class="notes">↓ less is better, ↑ more is better. Press a column's name to sort by it.</p>
{_failures(report)}
{_seeds(report)}
</section>"""


def named(row: Mapping[str, Any], style: tuple[str, str]) -> str:
    """A row's name beside a piece of its curve."""
    color, dash = style
    return f"{swatch(color, DASHES.get(dash, ''))} {breakable(row['name'])}"


def mark(row: Mapping[str, Any]) -> str:
    """Whether a row's weighting is monotone, as a badge."""
    return f'<span class="mark {"yes" if row["is_monotone"] else "no"}">{kind(row)}</span>'


def _head(report: Report) -> str:
    texts = (f'<th scope="col" class="text">{name}</th>' for name in _TEXTS)
    numbers = (
        f'<th scope="col" abbr="{escape(metric["title"])}" data-best='
        f'"{"ascending" if metric["is_lower_better"] else "descending"}">'
        f"{escape(metric['short'])} {'↓' if metric['is_lower_better'] else '↑'}</th>"
        for metric in measured(report)
    )
    return "".join([*texts, *numbers])


def _body(report: Report) -> str:
    look = styles(report["rows"])
    return "\n".join(_row(report, row, look[row["name"]]) for row in report["rows"])


def _row(report: Report, row: Mapping[str, Any], style: tuple[str, str]) -> str:
    lacking = finished(report, row)
    status = f' <span class="mark open">{escape(lacking)}</span>' if lacking else ""
    texts = [
        mark(row),
        escape(short_prediction(row["parameterization"])),
        escape(short_schedule(row["schedule"])),
        escape(short_weighting(row["weighting"])),
    ]
    cells = [
        *(f'<td class="text">{text}</td>' for text in texts),
        *(_cell(report, row, metric["key"]) for metric in measured(report)),
    ]
    value = escape(row["name"])
    name = f'<th scope="row" data-value="{value}">{named(row, style)}{status}</th>'
    return f"<tr>{name}{''.join(cells)}</tr>"


def _cell(report: Report, row: Mapping[str, Any], key: str) -> str:
    one = score(row, key)
    if (mean := one.get("mean")) is None:
        return f'<td data-value="">{NONE}</td>'
    write, std = score_formatter(report, row, key), one["std"]
    value = write(mean)
    if one["is_best_within_error"]:
        value = f"<strong>{value}</strong>"
    if one["is_best"]:
        value += '<span class="best" role="img" aria-label="the best">★</span>'
    beside = "" if std is None else f"<small>± {write(std)}</small>"
    unresolved = "<small>unresolved</small>" if one["is_unresolved"] else ""
    return f'<td data-value="{mean}">{value}{beside}{unresolved}</td>'


def _foot(report: Report) -> str:
    """What real images score, and which differences would be significant."""
    metrics = measured(report)
    rows = []
    if any(metric["floor"] is not None for metric in metrics):
        floors = [formatter(report, metric["key"])(metric["floor"]) for metric in metrics]
        rows.append((floor_name(report), floors))
    if any(report["statistics"].values()):
        least = [detectable(report, metric["key"]) for metric in metrics]
        rows.append(("least significant difference from ★", least))
    texts = "<td></td>" * (len(_TEXTS) - 1)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{texts}'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
        for name, cells in rows
    )
    return f"\n<tfoot>{body}</tfoot>" if rows else ""


def _failures(report: Report) -> str:
    items = "".join(
        f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in failures(report)
    )
    return f'<p class="lead">Not complete:</p>\n<ul class="notes">{items}</ul>' if items else ""


def _seeds(report: Report) -> str:
    metrics = measured(report)
    if not metrics:
        return ""
    rows = (
        (f"{breakable(row['name'])}, seed {seed}", _values(row, seed, metrics))
        for row in report["rows"]
        for seed in report["seeds"]
    )
    head = ["", *(escape(metric["short"]) for metric in metrics)]
    numbers = table(rows, head=head, is_numeric=True)
    return f"""<details><summary>Values of every seed</summary>
{scrollable(numbers, label="Values of every seed")}
</details>"""


def _values(row: Mapping[str, Any], seed: int, metrics: Iterable[Mapping[str, Any]]) -> list[str]:
    return [
        number((score(row, metric["key"]).get("values") or {}).get(str(seed))) for metric in metrics
    ]
