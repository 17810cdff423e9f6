"""A comparison as a table on the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.markup import escape
from rich.table import Table

from elbos.comparison.words import detectable, floor_name, formatter, score_formatter


def comparison_table(report: Mapping[str, Any]) -> Table:
    """Every objective with its main scores, ± their standard deviation over seeds; bold without a
    significant difference from the best, ? where that is unresolved.
    """
    metrics = [metric for metric in report["metrics"] if metric["is_main"]]
    seeds = len(report["seeds"])
    title = (
        f"{report['name']}: {seeds} seed{'s' if seeds > 1 else ''}, {report['num_images']:,} images"
    )
    table = Table(
        title=escape(title),
        title_justify="left",
        box=box.SIMPLE,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    table.add_column("", overflow="fold")
    table.add_column("monotone")
    for metric in metrics:
        table.add_column(metric["short"].replace(", ", ",\n"), justify="right")
    for row in report["rows"]:
        cells = [_cell(report, row, metric["key"]) for metric in metrics]
        if row["status"] == "failed":
            cells = ["failed", *cells[1:]]
        mark = "" if row["status"] == "complete" else " *"
        table.add_row(f"{escape(row['name'])}{mark}", "yes" if row["is_monotone"] else "no", *cells)
    if any(metric["floor"] is not None for metric in metrics):
        floors = [formatter(report, metric["key"], digits=1)(metric["floor"]) for metric in metrics]
        table.add_row(floor_name(report), "", *floors, style="dim")
    if any(report["statistics"].values()):
        least = [detectable(report, metric["key"]) for metric in metrics]
        table.add_row("least significant difference from ★", "", *least, style="dim")
    return table


def _cell(report: Mapping[str, Any], row: Mapping[str, Any], key: str) -> str:
    if (score := row["scores"].get(key)) is None:
        return ""
    write = score_formatter(report, row, key, digits=1)
    text = write(score["mean"])
    text += "" if score["std"] is None else f" ± {write(score['std'])}"
    text += "★" if score["is_best"] else "?" if score["is_unresolved"] else ""
    return f"[bold]{text}[/bold]" if score["is_best_within_error"] else text
