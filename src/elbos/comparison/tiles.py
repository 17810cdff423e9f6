"""Small pictures of what each row trains on, as SVG: they need no script, and print."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from jaxtyping import Float

from elbos.arrays import Array
from elbos.comparison.figures import styles
from elbos.comparison.names import short_weighting
from elbos.comparison.page_table import mark
from elbos.comparison.words import Report
from elbos.report.panels import DASHES
from elbos.report.parts import breakable, swatch

_WIDTH, _HEIGHT = 200, 80
_FAINTEST = 0.15  # opacity of the first density


def objectives(report: Report) -> str:
    """The weighting and the density of every row."""
    look = styles(report["rows"])
    tiles = [
        _tile(
            report,
            row,
            _weights(report, row, look[row["name"]]),
            label=f"Weighting and density of {row['name']}",
            below=f"{mark(row)} {escape(short_weighting(row['weighting']))}",
        )
        for row in report["rows"]
        if row["weights"]
    ]
    if not tiles:
        return ""
    return _section(
        "What each objective weighs, and what it trains on",
        f"{swatch('currentColor')} The weighting w(λ), dashed if it is not monotone, shaded "
        "where it rises. Grey: the density p(λ) of the noise levels trained on. Each is scaled to "
        "its maximum.",
        tiles,
    )


def densities(report: Report) -> str:
    """The adaptive schedules as they evolved."""
    known = [row for row in report["rows"] if row["density"]]
    if not known:
        return ""
    look = styles(report["rows"])
    tiles = [
        _tile(
            report,
            row,
            _evolution(row, look[row["name"]][0]),
            label=f"Density of {row['name']} while training",
            below=f"{row['density'][0]['images']:,} → {row['density'][-1]['images']:,} images",
        )
        for row in known
    ]
    return _section(
        "How the adaptive schedules moved",
        "The density p(λ) of the noise levels trained on, of the first seed: from light to dark "
        "while training.",
        tiles,
    )


def _section(heading: str, reading: str, tiles: Sequence[str]) -> str:
    return f"""<section>
<h2>{heading}</h2>
<p class="notes">{reading} Left is noise, right is data.</p>
<div class="tiles">
{"".join(tiles)}</div>
</section>"""


def _tile(report: Report, row: Mapping[str, Any], inner: str, *, label: str, below: str) -> str:
    low, high = report["logsnr_min"], report["logsnr_max"]
    return f"""<figure class="tile">
<figcaption>{breakable(row["name"])}<small>{below}</small></figcaption>
<svg class="picture" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" \
aria-label="{escape(label)}">{inner}</svg>
<div class="ends"><span>{_end(low)}</span><span>log-SNR</span><span>{_end(high)}</span></div>
</figure>
"""


def _end(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _weights(report: Report, row: Mapping[str, Any], style: tuple[str, str]) -> str:
    color, dash = style
    x = _across(report, np.array(row["weights"]["logsnr"], dtype=float))
    shapes = [
        f'<rect class="rising" x="{start:.1f}" width="{end - start:.1f}" height="{_HEIGHT}"/>'
        for start, end in (_across(report, np.array(ends)) for ends in row["rising"])
    ]
    if row["weights"]["p"]:
        p = np.array(row["weights"]["p"], dtype=float)
        area = f"{_path(x, p, p.max())}V{_HEIGHT}H{x[0]:.1f}Z"
        shapes.append(f'<path class="density" d="{area}"/>')
    w = np.array(row["weights"]["w"], dtype=float)
    line = f'stroke="{color}" stroke-dasharray="{DASHES.get(dash, "")}"'
    shapes.append(f'<path class="line" {line} d="{_path(x, w, w.max())}"/>')
    return "".join(shapes)


def _evolution(row: Mapping[str, Any], color: str) -> str:
    curves = [np.array(one["p"], dtype=float) for one in row["density"]]
    top = max(curve.max() for curve in curves)
    x = np.linspace(0, _WIDTH, len(curves[0]))
    opacities = np.linspace(_FAINTEST, 1, len(curves) + 1)[1:]
    return "".join(
        f'<path class="line" stroke="{color}" opacity="{opacity:.2f}" d="{_path(x, p, top)}"/>'
        for p, opacity in zip(curves, opacities, strict=True)
    )


def _across(report: Report, logsnr: Float[Array, " n"]) -> Float[Array, " n"]:
    low, high = report["logsnr_min"], report["logsnr_max"]
    across: Array = _WIDTH * (logsnr - low) / (high - low)
    return across


def _path(x: Float[Array, " n"], y: Float[Array, " n"], top: float) -> str:
    up = (_HEIGHT - 3) * (1 - y / (top or 1.0)) + 2
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, up, strict=True))
