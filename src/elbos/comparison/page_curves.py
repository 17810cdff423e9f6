"""The part of a comparison's page with a curve for each row, any of which can be brought out."""

import json
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from elbos.comparison.figures import learning_figure, levels_figure, styles
from elbos.comparison.page_table import named
from elbos.comparison.words import Report, kind
from elbos.evaluation.words import number
from elbos.report.parts import breakable, plot, scrollable, table

_NUM_LEVELS = 9
_READING = (
    "A weighting has a colour, whatever the schedule and prediction; dashed: not monotone. Press "
    "names to bring their curves out, point at a curve for its name. A curve far from all others "
    "leaves its panel; its numbers are in the tables below."
)


def curves(report: Report) -> str:
    """Learning curves and curves over log-SNR, under one bar of names."""
    plots = [_learning(report), _levels(report)]
    if not any(plots):
        return ""
    return f"""<section class="group">
{_chips(report)}
{"".join(plots)}
{_tables(report)}
</section>"""


def _chips(report: Report) -> str:
    rows, look = report["rows"], styles(report["rows"])
    shown = [row for row in rows if row["learning"] or row["elbo"] or row["curve"]]
    kinds: dict[str, list[str]] = {}
    for row in sorted(shown, key=kind):
        kinds.setdefault(f"all {kind(row)}", []).append(row["name"])
    chips = [
        *(_chip(escape(text), names) for text, names in kinds.items() if len(kinds) > 1),
        *(_chip(named(row, look[row["name"]]), [row["name"]]) for row in shown),
    ]
    return f"""<div class="chips" role="group" aria-label="Curves to bring out">
<span>Bring out:</span>
{"".join(chips)}</div>"""


def _chip(text: str, names: list[str]) -> str:
    shows = escape(json.dumps(names))
    return f"""<button type="button" aria-pressed="false" data-brings-out="{shows}" disabled>\
{text}</button>
"""


def _learning(report: Report) -> str:
    if not (fig := learning_figure(report["rows"])):
        return ""
    return plot(
        fig,
        name="learning",
        heading="Learning curves",
        label="Validation ELBO over images seen; numbers are in the table below.",
        saved_as="elbos-learning",
        notes=(
            "Bits/dim of validation images, less is better; mean over seeds. Below, minus the "
            "median of all rows, such that they can be told apart.",
            _READING,
        ),
    )


def _levels(report: Report) -> str:
    if not (fig := levels_figure(report["rows"])):
        return ""
    return plot(
        fig,
        name="levels",
        heading="By noise level",
        label="ELBO of noisy data and loss over log-SNR; numbers are in the table below.",
        saved_as="elbos-levels",
        notes=(
            "The ELBO of test images with noise added, as a loss in nats/dim, minus the median "
            "of all rows: below 0 is better than most. Its right end is the "
            "clean ELBO, but for the decoder's term, which is the same for all.",
            "The loss at a noise level is its slope: where a row is below 0 in the second panel "
            "it denoises better than most.",
        ),
    )


def _tables(report: Report) -> str:
    tables = [
        _table(report, caption, key, levels, values)
        for caption, key, levels, values in (
            ("Validation ELBO in bits/dim, by images seen", "learning", "images", "bits_per_dim"),
            ("ELBO of noisy data in nats/dim, by log-SNR", "elbo", "logsnr", "nats_per_dim"),
            ("Loss in nats/dim, by log-SNR", "curve", "logsnr", "nats_per_dim"),
        )
        if any(row[key] for row in report["rows"])
    ]
    return f"""<details class="measured"><summary>These curves as tables</summary>
{"".join(tables)}</details>"""


def _table(report: Report, caption: str, key: str, levels: str, values: str) -> str:
    known = [row for row in report["rows"] if row[key]]
    grid = np.array(known[0][key][levels], dtype=float)
    chosen = grid[np.unique(np.linspace(0, len(grid) - 1, _NUM_LEVELS).round().astype(int))]
    head = ["", *(f"{level:,.0f}" if levels == "images" else f"{level:.1f}" for level in chosen)]
    rows = ((breakable(row["name"]), _at(chosen, row[key], levels, values)) for row in known)
    numbers = table(rows, head=head, caption=caption, is_numeric=True)
    return scrollable(numbers, label=caption)


def _at(chosen: Any, curve: Mapping[str, Any], levels: str, values: str) -> list[str]:
    return [number(value) for value in np.interp(chosen, curve[levels], curve[values]).tolist()]
