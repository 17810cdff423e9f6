"""Self-contained HTML page of an audit, with the numbers as JSON in `<script id="elbos-audit">`.

The page can be attached to an issue.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from elbos import __version__
from elbos.audit.figure import figure as figure
from elbos.audit.result import Audit
from elbos.audit.words import as_dict, difference, facts_tables, views
from elbos.base.html import breakable, document, write_html
from elbos.base.numbers import fixed, number, percent, signed
from elbos.base.tables import Table, evenly

_NUM_ROWS = 13  # of the table of the curves


def page(audits: Sequence[Audit], *, command: str | None = None) -> str:
    shown = views(audits)
    heads = [Markup("{} {}").format(view.swatch.html(), breakable(view.title)) for view in shown]
    return document(
        "audit/page.html",
        views=shown,
        facts=facts_tables(shown, heads, len(shown)),
        curves=[_curves(audit) for audit in audits],
        difference=difference(*audits) if len(audits) == 2 else "",
        figure=figure(audits),
        label="Weighting, density and mixture of ELBOs over log-SNR; numbers are in the table "
        f"below. {' '.join(f'{v.audit.title}: {v.summary}.' for v in shown)}",
        num_samples=list(dict.fromkeys(a.num_samples for a in audits if a.num_samples)),
        content={"elbos": __version__, "command": command, "audits": list(map(as_dict, audits))},
        command=command,
    )


def write_page(audits: Sequence[Audit], path: Path, *, command: str | None = None) -> None:
    """Write the HTML page of audits to a file.

    Raises:
        OSError: If the file cannot be written; the message names `path`.
    """
    write_html(path, page(audits, command=command))


def _curves(audit: Audit) -> Table:
    scale, rows = 1 + audit.negative_mass, []
    for i in evenly(len(audit.logsnr), _NUM_ROWS):
        level, error = audit.logsnr[i].item(), 2 * audit.weight_error[i].item()
        weight = number(audit.weight[i].item(), 3) + (f" ± {percent(error)}" if error else "")
        mixture = signed(audit.mixture_density[i].item() / scale, 3)
        density = number(audit.density[i].item(), 3)
        rows.append([fixed(level, 2), number(math.exp(-level / 2), 3), weight, density, mixture])
    return Table(("log-SNR", "noise/signal", "w", "p", "mixture"), rows, audit.title)
