r"""An audit as one HTML page, to be attached to an issue.

The page is whole in itself. Its words and tables are plain HTML; only the plots need its script.
The library, plotly.js, is in it compressed, and unpacked by the browser; a content security policy
keeps the page from fetching anything, and from running any script but these two, known by their
hashes. The numbers are in `<script id="elbos-audit">`, as JSON.
"""

import base64
import gzip
import hashlib
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from html import escape
from importlib import resources
from itertools import count
from pathlib import Path

import numpy as np
from plotly.graph_objects import Scatter
from plotly.offline import get_plotlyjs

from elbos import __version__, files
from elbos.audit.figure import AXIS, DASHES, LEGEND, colored, figure, named_curves
from elbos.audit.result import Audit
from elbos.audit.text import MAX_BESIDE, wrapped
from elbos.audit.words import MARKS, difference, facts, headline, nearest, nearest_to, shortened

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
    fig.update_layout(showlegend=False, height=fig.layout.height - LEGEND, margin_b=AXIS)
    named = [named_curves(a, color, is_alone=len(audits) == 1) for a, color in colored(audits)]
    boxes = _named(shortened(audits), named, first_trace=len(fig.data))
    fig.add_traces([curve for curves in named for curve in curves])
    content = {"elbos": __version__, "command": command, "audits": [a.to_dict() for a in audits]}
    title = ", ".join(audit.title for audit in audits)
    body = "\n".join(
        [
            _header(audits),
            "<main>",
            f'<div class="top {"single" if len(audits) == 1 else "several"}">',
            *(_verdicts(audits), _facts(shortened(audits)), "</div>"),
            *(_plot(audits, fig.layout.height), boxes, _codes(audits), _numbers(audits)),
            "</main>",
            _footer(audits, command),
            _island("elbos-audit", json.dumps(content, allow_nan=False)),
            _island("elbos-figure", fig.to_json()),
        ]
    )
    return _document(escape(f"{title} · elbos audit"), body)


def _document(title: str, body: str) -> str:
    """Head and body, the library and the script, and the policy that lets only these run."""
    style, script = (_resource(name) for name in ("page.css", "page.js"))
    allowed = " ".join(f"'sha256-{_sha256(code)}'" for code in (script, get_plotlyjs()))
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}</style>
<noscript><style>#plot, #save {{ display: none; }}</style></noscript>
</head>
<body>
{body}
<script type="text/plain" id="plotly">{_packed_library()}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def _resource(name: str) -> str:
    return resources.files("elbos.audit").joinpath(name).read_text(encoding="utf-8")


def _sha256(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


@cache
def _packed_library() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()


def _island(name: str, content: str) -> str:
    """JSON that no text in it can get out of."""
    inert = content.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{inert}</script>'


def _breakable(title: str) -> str:
    """A title that is broken, if it must be, after the parts of a path and a name."""
    return re.sub(r"(?<=[/:_.])(?=\w)", "<wbr>", escape(title))


def _header(audits: Sequence[Audit]) -> str:
    title = audits[0].title if len(audits) == 1 else f"{len(audits)} losses side by side"
    return f"""<header>
<p class="kicker">elbos audit</p>
<h1>{_breakable(title)}</h1>
</header>"""


def _verdicts(audits: Sequence[Audit]) -> str:
    parts = ['<div class="verdicts">']
    for audit, color in colored(audits):
        kind, title, text = headline(audit)
        of = f"<h2>{_swatch(color)} {_breakable(audit.title)}</h2>" if len(audits) > 1 else ""
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


def _swatch(color: str, dash: str = "") -> str:
    return (
        '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4h28" '
        f'stroke="{color}" stroke-width="3" stroke-dasharray="{dash}"/></svg>'
    )


def _facts(audits: Sequence[Audit]) -> str:
    if len(audits) <= MAX_BESIDE:
        table = _fact_table([*colored(audits)], has_head=len(audits) > 1)
        tables = f'<div class="scroll" tabindex="0" role="region" aria-label="Facts">{table}</div>'
    else:  # too narrow side by side
        each = (_fact_table([pair], has_head=True) for pair in colored(audits))
        tables = f'<div class="columns">{"".join(each)}</div>'
    return f"""<section class="facts">
<h2>Facts</h2>
{tables}
</section>"""


def _fact_table(columns: Sequence[tuple[Audit, str]], *, has_head: bool) -> str:
    head = "".join(
        f'<th scope="col">{_swatch(color)} {_breakable(audit.title)}</th>'
        for audit, color in columns
    )
    rows = "\n".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{escape(v)}</td>" for v in values)}</tr>'
        for name, values in facts([audit for audit, _ in columns], is_alone=not has_head)
    )
    return f"""<table>
{f"<thead><tr><td></td>{head}</tr></thead>" if has_head else ""}
<tbody>
{rows}
</tbody></table>"""


def _plot(audits: Sequence[Audit], height: int) -> str:
    alt = "Weighting, density and mixture of ELBOs over log-SNR; numbers are in the table below. "
    alt += " ".join(f"{audit.title}: {headline(audit).text}" for audit in audits)
    attributes = f'role="img" aria-label="{escape(alt)}" style="min-height:{height}px"'
    return f"""<section>
<div class="titled"><h2>Curves</h2>
<button type="button" id="save" disabled>Save as PNG</button></div>
<div id="plot" {attributes}></div>
<p id="trouble"><noscript>The curves need JavaScript. Their numbers are in the table
below.</noscript></p>
<ul class="notes">
<li><b>Weighting</b>: how much each noise level counts, up to a constant. It may only fall, from
left to right, in a likelihood objective; shaded is where it rises.</li>
<li><b>Density</b>: how often each noise level is drawn. It changes the noise of training, and the
weighting unless it is divided by.</li>
<li><b>Mixture of ELBOs</b>: which noisy data's likelihood bounds the loss adds up; the hatched part
below zero is subtracted, and the diamond at the right is the share of the clean data's bound.</li>
</ul>
</section>"""


def _named(audits: Sequence[Audit], named: Sequence[Sequence[Scatter]], *, first_trace: int) -> str:
    """Boxes that show the curves of the named weightings; their values are numbers of traces."""
    traces = count(first_trace)
    groups = []
    for audit, curves in zip(audits, named, strict=True):
        rows = "\n".join(
            f'<label><input type="checkbox" autocomplete="off" value="{next(traces)}" disabled> '
            f"{_swatch(curve.line.color, DASHES[curve.line.dash])} "
            f"<code>{escape(name).replace('(', '(<wbr>')}</code> <span>{off}</span></label>"
            for (name, off), curve in zip(nearest(audit), curves, strict=True)
        )
        of = f" to {_breakable(audit.title)}" if len(audits) > 1 else ""
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
            of = f": {_breakable(audit.title)}" if len(audits) > 1 else ""
            parts.append(
                f"""<section>
<h2>The nearest likelihood objective{of}</h2>
<p>A factor for the loss of each sample: the least one after which the weighting never rises. That
is another objective, not a repair of a bug.</p>
<div class="code"><button type="button" aria-live="polite" data-copies="code-{i}">Copy</button>
<pre id="code-{i}" tabindex="0">{escape(wrapped(code))}</pre></div>
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
        data = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th scope="row">{level:.2f}</th>{data}</tr>')
    names = ("log-SNR", "noise/signal", "w", "p", "mixture")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    body = "\n".join(rows)
    label = escape(audit.title)
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="{label}">
<table class="numbers">
<caption>{_breakable(audit.title)}</caption>
<thead><tr>{head}</tr></thead>
<tbody>{body}</tbody></table></div>"""


def _footer(audits: Sequence[Audit], command: str | None) -> str:
    counts = ", ".join(f"{n:,}" for n in dict.fromkeys(a.num_samples for a in audits) if n)
    samples = f", {counts} samples" if counts else ""
    again = ""
    if command:
        again = f"""<h2>Reproduce</h2>
<div class="code"><button type="button" aria-live="polite" data-copies="command">Copy</button>
<pre id="command" tabindex="0">{escape(command)}</pre></div>"""
    return f"""<footer>
{again}
<p>elbos {__version__}{samples}. The theory: Kingma &amp; Gao, <cite>Understanding Diffusion
Objectives as the ELBO with Simple Data Augmentation</cite>, 2023,
<a href="https://arxiv.org/abs/2303.00848">arxiv.org/abs/2303.00848</a>. Plots: plotly.js, MIT
licence. This page fetches nothing; its numbers are in it as JSON.</p>
</footer>"""
