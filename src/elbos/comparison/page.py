r"""A comparison as one HTML page: what was found, first in plain words, then number by number.

The page is whole in itself; `elbos.report` makes it so. The report is in
`<script id="elbos-comparison">`, as JSON. What is null or empty is left out.
"""

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from elbos import __version__, files
from elbos.comparison import page_curves, page_losses, page_pairs, page_ranking, page_table, tiles
from elbos.comparison.figures import styles
from elbos.comparison.words import MONOTONE, Report, facts, reading
from elbos.evaluation.words import settings_table
from elbos.report.document import document, finite, island
from elbos.report.parts import footer, header


def write_comparison_page(report: Report, path: Path, *, samples: Mapping[str, bytes]) -> None:
    """Write `comparison_page` to a file, whole or not at all.

    Raises:
        OSError: If that is impossible; it names `path`.
    """
    html = comparison_page(report, samples=samples)
    files.write(path, html.encode(errors="replace"))


def comparison_page(report: Report, *, samples: Mapping[str, bytes]) -> str:
    """One HTML page that needs nothing else.

    Args:
        report: What report.json holds.
        samples: By row name, a strip of its samples as PNG, of the same noise in all rows.
    """
    report = finite(report)
    content = {"elbos": __version__, "comparison": report}
    body = "\n".join(
        [
            header("elbos compare", report["name"]),
            f'<p class="kicker">{escape(" · ".join(facts(report)))}</p>',
            "<main>",
            *(_conclusion(report), page_table.results(report), page_pairs.matched_pairs(report)),
            *(_samples(report, samples), page_curves.curves(report)),
            *(tiles.objectives(report), tiles.densities(report)),
            *(page_losses.losses(report), page_ranking.ranking(report)),
            *(_notes(report), _protocol(report)),
            "</main>",
            footer(report["command"]),
            island("elbos-comparison", json.dumps(content, allow_nan=False)),
        ]
    )
    return document(f"{report['name']} · elbos compare", body)


def _conclusion(report: Report) -> str:
    first, *others = report["conclusion"] or [""]
    said = "".join(f'<p class="plain">{escape(sentence)}</p>\n' for sentence in others)
    return f"""<section class="verdict conclusion" style="--kind: var(--link)">
<div><h2 class="kicker">What was found</h2>
<p class="badge">{escape(first)}</p>
{said}</div>
<div class="explained"><p>{MONOTONE}</p>
<p>In the table: {escape(reading(report))}</p></div>
</section>"""


def _samples(report: Report, samples: Mapping[str, bytes]) -> str:
    look = styles(report["rows"])
    strips = [
        _strip(page_table.named(row, look[row["name"]]), row["name"], samples[row["name"]])
        for row in report["rows"]
        if row["name"] in samples
    ]
    if not strips:
        return ""
    return f"""<section>
<h2>Samples</h2>
<p class="notes">All rows begin with the same noise: a column shows what each makes of it.</p>
<div class="strips">
{"".join(strips)}</div>
</section>"""


def _strip(name: str, row: str, png: bytes) -> str:
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return f"""<figure><figcaption>{name}</figcaption>
<img src="{source}" alt="Samples of {escape(row)}"></figure>
"""


def _notes(report: Report) -> str:
    if not report["notes"]:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in report["notes"])
    return f'<section>\n<h2>Notes</h2>\n<ul class="notes">{items}</ul>\n</section>'


def _protocol(report: Report) -> str:
    if not report["protocol"]:
        return ""
    return f"<section>\n<h2>Protocol</h2>\n{settings_table(report['protocol'])}\n</section>"
