"""The part of a comparison's page that scores every row under every row's weighting."""

import math
from html import escape

import numpy as np

from elbos.comparison.names import short_weighting
from elbos.comparison.words import Report
from elbos.report.parts import breakable, scrollable

_LEAST, _MOST = 1.02, 2.0  # where the colours may end


def losses(report: Report) -> str:
    """A table as a heat map, each column relative to its lowest loss."""
    if not (found := report["losses"]):
        return ""
    heads = "".join(
        f'<th scope="col">{escape(short_weighting(one["name"]))}</th>'
        for one in found["weightings"]
    )
    end = _end(report)
    rows = "\n".join(
        f'<tr><th scope="row">{breakable(name)}</th>{_cells(report, i, end)}</tr>'
        for i, name in enumerate(found["rows"])
    )
    numbers = f"""<table class="numbers heat" data-sortable>
<thead><tr><th scope="col">trained as ↓ · loss under →</th>{heads}</tr></thead>
<tbody>
{rows}
</tbody></table>"""
    return f"""<section class="measured">
<h2>Every model under every objective</h2>
<p class="lead">Is a model best at what it was trained for? Each column is a weighting's loss on
test images, as a multiple of the lowest in it.</p>
{scrollable(numbers, label="Losses of every row under every weighting")}
<p class="notes">Framed: trained with this weighting. The stronger the colour, the larger the loss.
Shown without verdict.</p>
</section>"""


def _cells(report: Report, i: int, end: float) -> str:
    found = report["losses"]
    own = [found["rows"][i] in one["rows"] for one in found["weightings"]]
    columns = zip(found["relative"][i], own, strict=True)
    return "".join(_cell(value, end, is_own=is_own) for value, is_own in columns)


def _cell(value: float | None, end: float, *, is_own: bool) -> str:
    frame = ' class="own"' if is_own else ""
    if value is None:
        return f'<td{frame} data-value="">–</td>'
    heat = min(1.0, max(0.0, math.log(value) / math.log(end))) if value > 0 else 0.0
    return f'<td{frame} data-value="{value}" style="--heat: {45 * heat:.0f}%">{value:.3f}</td>'


def _end(report: Report) -> float:
    """Where the colours end: what few losses are above, so that one outlier pales no others."""
    values = [v for row in report["losses"]["relative"] for v in row if v is not None]
    return float(np.clip(np.quantile(values, 0.9), _LEAST, _MOST)) if values else _MOST
