r"""An audit as one HTML page, to be attached to an issue.

The page is whole in itself; `elbos.report` makes it so. The numbers are in
`<script id="elbos-audit">`, as JSON.
"""

import json
import math
from collections.abc import Sequence
from html import escape
from itertools import count
from pathlib import Path

import numpy as np
from plotly.graph_objects import Figure, Scatter

from elbos import __version__, files
from elbos.audit.figure import colored, figure, named_curves
from elbos.audit.result import Audit
from elbos.audit.text import MAX_BESIDE, wrapped
from elbos.audit.words import MARKS, difference, facts, headline, nearest, nearest_to, shortened
from elbos.report.document import document, island
from elbos.report.panels import DASHES
from elbos.report.parts import breakable, copied, footer, header, plot, scrollable, swatch, table

_NUM_ROWS = 13


def write_page(audits: Sequence[Audit], path: Path, *, command: str | None = None) -> None:
    """Write `page` to a file, whole or not at all.

    Raises:
        OSError: If that is impossible; it names `path`.
    """
    files.write(path, page(audits, command=command).encode(errors="replace"))


def page(audits: Sequence[Audit], *, command: str | None = None) -> str:
    """One HTML page that needs nothing else.

    Args:
        audits: One, or several to show side by side.
        command: What to type to get the same again, for the reader.
    """
    fig = figure(audits)
    named = [named_curves(a, color, is_alone=len(audits) == 1) for a, color in colored(audits)]
    boxes = _named(shortened(audits), named, first_trace=len(fig.data))
    fig.add_traces([curve for curves in named for curve in curves])
    content = {"elbos": __version__, "command": command, "audits": [a.to_dict() for a in audits]}
    heading = audits[0].title if len(audits) == 1 else f"{len(audits)} losses side by side"
    body = "\n".join(
        [
            header("elbos audit", heading),
            "<main>",
            f'<div class="top {"single" if len(audits) == 1 else "several"}">',
            *(_verdicts(audits), _facts(shortened(audits)), "</div>"),
            *(_plot(audits, fig), boxes, _codes(audits), _numbers(audits)),
            "</main>",
            footer(command, about=_samples(audits)),
            island("elbos-audit", json.dumps(content, allow_nan=False)),
        ]
    )
    return document(f"{', '.join(audit.title for audit in audits)} · elbos audit", body)


def _verdicts(audits: Sequence[Audit]) -> str:
    parts = ['<div class="verdicts">']
    for audit, color in colored(audits):
        kind, title, text = headline(audit)
        of = f"<h2>{swatch(color)} {breakable(audit.title)}</h2>" if len(audits) > 1 else ""
        parts.append(
            f"""<section class="verdict {kind}">{of}
<p class="badge"><span aria-hidden="true">{MARKS[kind]}</span> {title}</p>
<p class="plain">{escape(text)}</p>
<p>{escape(audit.verdict)}</p>
</section>"""
        )
    if len(audits) == 2:
        parts.append(f'<p class="difference">{difference(*audits)}</p>')
    return "\n".join([*parts, "</div>"])


def _facts(audits: Sequence[Audit]) -> str:
    if len(audits) <= MAX_BESIDE:
        together = _fact_table([*colored(audits)], has_head=len(audits) > 1)
        tables = scrollable(together, label="Facts")
    else:  # too narrow side by side
        each = (_fact_table([pair], has_head=True) for pair in colored(audits))
        tables = f'<div class="columns">{"".join(each)}</div>'
    return f"""<section class="facts">
<h2>Facts</h2>
{tables}
</section>"""


def _fact_table(columns: Sequence[tuple[Audit, str]], *, has_head: bool) -> str:
    head = [f"{swatch(color)} {breakable(audit.title)}" for audit, color in columns]
    named = facts([audit for audit, _ in columns], is_alone=not has_head)
    rows = ((name, [escape(value) for value in values]) for name, values in named)
    return table(rows, head=["", *head] if has_head else ())


def _plot(audits: Sequence[Audit], fig: Figure) -> str:
    label = "Weighting, density and mixture of ELBOs over log-SNR; numbers are in the table below. "
    label += " ".join(f"{audit.title}: {headline(audit).text}" for audit in audits)
    notes = (
        "<b>Weighting</b>: how much each noise level counts, up to a constant. It may only fall, "
        "from left to right, in a likelihood objective; shaded is where it rises.",
        "<b>Density</b>: how often each noise level is drawn. It changes the noise of training, "
        "and the weighting unless it is divided by.",
        "<b>Mixture of ELBOs</b>: which noisy data's likelihood bounds the loss adds up; the "
        "hatched part below zero is subtracted, and the diamond at the right is the share of the "
        "clean data's bound.",
    )
    return plot(fig, heading="Curves", label=label, saved_as="elbos-audit", notes=notes)


def _named(audits: Sequence[Audit], named: Sequence[Sequence[Scatter]], *, first_trace: int) -> str:
    """Boxes that show the curves of the named weightings; their values are numbers of traces."""
    traces = count(first_trace)
    groups = []
    for audit, curves in zip(audits, named, strict=True):
        rows = "\n".join(
            f'<label><input type="checkbox" autocomplete="off" value="{next(traces)}" disabled> '
            f"{swatch(curve.line.color, DASHES[curve.line.dash])} "
            f"<code>{escape(name).replace('(', '(<wbr>')}</code> <span>{off}</span></label>"
            for (name, off), curve in zip(nearest(audit), curves, strict=True)
        )
        of = f" to {breakable(audit.title)}" if len(audits) > 1 else ""
        legend = f"Nearest{of}{nearest_to(audit)}"
        groups.append(f"<fieldset><legend>{legend}</legend>\n{rows}\n</fieldset>")
    return f"""<section class="named">
<h2>Named weightings</h2>
<p>Tick to draw them above. How far they are off is the standard deviation of the log of the ratio,
over the noise levels that the loss draws.</p>
<div class="columns">{"".join(groups)}</div>
</section>"""


def _codes(audits: Sequence[Audit]) -> str:
    parts = []
    for i, audit in enumerate(audits):
        if code := audit.monotone_code:
            of = f": {breakable(audit.title)}" if len(audits) > 1 else ""
            parts.append(
                f"""<section>
<h2>The nearest likelihood objective{of}</h2>
<p>A factor for the loss of each sample: the least one after which the weighting never rises. That
is another objective, not a repair of a bug.</p>
{copied(wrapped(code), name=f"code-{i}")}
</section>"""
            )
    return "\n".join(parts)


def _numbers(audits: Sequence[Audit]) -> str:
    tables = "\n".join(_number_table(audit) for audit in audits)
    return f"""<details><summary>The curves as a table</summary>
<div class="columns">{tables}</div></details>"""


def _number_table(audit: Audit) -> str:
    scale = 1 + audit.negative_mass
    rows = []
    for i in np.linspace(0, len(audit.logsnr) - 1, _NUM_ROWS).round().astype(int).tolist():
        level, error = audit.logsnr[i].item(), 2 * audit.weight_error[i].item()
        cells = [
            f"{math.exp(-level / 2):.3g}",
            f"{audit.weight[i]:.3g}" + (f" ± {error:.1%}" if error else ""),
            f"{audit.density[i]:.3g}",
            f"{audit.mixture_density[i] / scale:+.3f}",
        ]
        rows.append((f"{level:.2f}", cells))
    head = ("log-SNR", "noise/signal", "w", "p", "mixture")
    numbers = table(rows, head=head, caption=breakable(audit.title), is_numeric=True)
    return scrollable(numbers, label=audit.title)


def _samples(audits: Sequence[Audit]) -> str:
    counts = ", ".join(f"{n:,}" for n in dict.fromkeys(a.num_samples for a in audits) if n)
    return f", {counts} samples" if counts else ""
