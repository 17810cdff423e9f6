"""What pages are made of: header, tables, plots, code to copy, footer. All of it is HTML.

Arguments are HTML too, such that they may hold swatches and breaks, except where a name says
`title`, `label` or `code`: these are plain text, and are escaped here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from plotly.graph_objects import Figure

from elbos import __version__
from elbos.report.document import island
from elbos.report.panels import hide_legend

NONE = "–"


def header(kicker: str, title: str) -> str:
    """The title, and above it, small, what made the page."""
    return f"""<header>
<p class="kicker">{kicker}</p>
<h1>{breakable(title)}</h1>
</header>"""


def breakable(text: str) -> str:
    """Text that is broken, if it must be, after the parts of a path, a name or a call."""
    return re.sub(r"(?<=[/:_.])(?=[^\W\d])|(?<=[(=,])(?=\w)", "<wbr>", escape(text))


def swatch(color: str, dash: str = "") -> str:
    """A piece of a curve, to stand beside its name."""
    return (
        '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4h28" '
        f'stroke="{color}" stroke-width="3" stroke-dasharray="{dash}"/></svg>'
    )


def table(
    rows: Iterable[tuple[str, Sequence[str]]],
    *,
    head: Sequence[str] = (),
    caption: str = "",
    is_numeric: bool = False,
) -> str:
    """A table whose rows begin with their names; `head` names all columns, the first may be ""."""
    names = "".join(f'<th scope="col">{name}</th>' if name else "<td></td>" for name in head)
    body = "\n".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        for name, cells in rows
    )
    return f"""<table{' class="numbers"' if is_numeric else ""}>
{f"<caption>{caption}</caption>" if caption else ""}
{f"<thead><tr>{names}</tr></thead>" if head else ""}
<tbody>
{body}
</tbody></table>"""


def scrollable(content: str, *, label: str) -> str:
    """What may be wider than a phone, and then scrolls by itself."""
    return f"""<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}">
{content}</div>"""


def record_table(
    records: Sequence[tuple[str, Mapping[str, str]]],
    *,
    head: str = "",
    caption: str = "",
    label: str,
) -> str:
    """A table with a column for each key that has a value, not `NONE`, in any record.

    Args:
        records: Their names and cells; all have the same keys.
        head: What the names are.
        caption: Stands above.
        label: What the table shows, for those who do not see it.
    """
    columns = [key for key in records[0][1] if any(cells[key] != NONE for _, cells in records)]
    rows = ((name, [cells[key] for key in columns]) for name, cells in records)
    numbers = table(rows, head=[head, *columns], caption=caption, is_numeric=True)
    return scrollable(numbers, label=label)


def legend(colors: Mapping[str, str]) -> str:
    """Which curve is which."""
    items = (f"<li>{swatch(color)} {escape(name)}</li>" for name, color in colors.items())
    return f'<ul class="legend">{"".join(items)}</ul>'


def plot(
    fig: Figure,
    *,
    name: str = "",
    heading: str,
    label: str,
    saved_as: str,
    notes: Iterable[str],
    key: str = "",
) -> str:
    """A section with a plot, which the page's script draws, and what is to be known about it.

    Args:
        fig: The figure. Its own legend is hidden, but for pictures that are saved.
        name: Tells it from other plots of the page.
        heading: Of the section.
        label: What it shows, for those who do not see it.
        saved_as: Name of the picture when it is saved, without the extension.
        notes: How to read it.
        key: Which curve is which; see `legend`.
    """
    hide_legend(fig)
    of = f"-{name}" if name else ""
    attributes = f'role="img" aria-label="{escape(label)}" style="min-height:{fig.layout.height}px"'
    return f"""<section>
<div class="titled"><h2>{heading}</h2>
<button type="button" class="save" id="save{of}" data-file="{saved_as}" disabled>Save as PNG\
</button></div>
{key}
<div class="plot" id="plot{of}" {attributes}></div>
<p class="trouble"><noscript>The curves need JavaScript. Their numbers are in the table
below.</noscript></p>
<ul class="notes">
{"".join(f"<li>{note}</li>" for note in notes)}
</ul>
{island(f"plot{of}-figure", fig.to_json())}
</section>"""


def copied(code: str, *, name: str) -> str:
    """Code, with a button that copies it."""
    return f"""<div class="code"><button type="button" aria-live="polite" data-copies="{name}">\
Copy</button>
<pre id="{name}" tabindex="0">{escape(code)}</pre></div>"""


def footer(command: str | None, *, about: str = "") -> str:
    """How to get the page again, and its sources."""
    again = f"<h2>Reproduce</h2>\n{copied(command, name='command')}" if command else ""
    return f"""<footer>
{again}
<p>elbos {__version__}{about}. The theory: Kingma &amp; Gao, <cite>Understanding Diffusion
Objectives as the ELBO with Simple Data Augmentation</cite>, 2023,
<a href="https://arxiv.org/abs/2303.00848">arxiv.org/abs/2303.00848</a>. Plots: plotly.js, MIT
licence. This page fetches nothing; its numbers are in it as JSON.</p>
</footer>"""
