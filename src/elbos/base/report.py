"""Reports: a title and parts, for the terminal, in Markdown or as a self-contained HTML page.

A room says what its report holds, and only this file knows how that is shown. All texts are plain
and escaped for the format. Sections with a plot or a picture are for pages.

A page is the report's Markdown in HTML, with plots of plotly, whose library it holds once. It can
be mailed or attached to an issue: a content security policy keeps it from fetching anything.
"""

import base64
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text

from elbos import __version__
from elbos.base import files
from elbos.base.errors import printable
from elbos.base.tables import Table, plain, strong

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline';
style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
<footer>elbos {version}. The theory: Kingma &amp; Gao, <cite>Understanding Diffusion Objectives as
the ELBO with Simple Data Augmentation</cite>, 2023,
<a href="https://arxiv.org/abs/2303.00848">arxiv.org/abs/2303.00848</a>. Plots: plotly.js, MIT
licence. This page fetches nothing; its numbers are in it as JSON.</footer>
<script type="application/json" id="elbos-data">{data}</script>
</body>
</html>
"""

Emphasis = Literal["", "lead", "warning", "error"]


@dataclass(frozen=True)
class Heading:
    """Title of a section, of level 2, or of a subsection."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Sentences, by default without emphasis."""

    text: str
    kind: Emphasis = ""


@dataclass(frozen=True)
class Code:
    """Code that keeps its lines."""

    text: str


@dataclass(frozen=True)
class Plot:
    """Interactive figure of curves."""

    figure: "Figure"


@dataclass(frozen=True)
class Picture:
    """Image in the PNG format, with a description."""

    png: bytes
    text: str


Part = Heading | Paragraph | Code | Table | Plot | Picture

_STYLES = {"lead": "bold", "warning": "bold yellow", "error": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Title and parts of a report.

    Attributes:
        title: Name of what is reported.
        parts: Parts from top to bottom; tables without rows are left out.
        command: Command line that reproduces the report.
        data: The numbers, which the page holds as JSON in `<script id="elbos-data">`.
    """

    title: str
    parts: Sequence[Part]
    command: str | None = None
    data: Mapping[str, Any] | None = None

    def rich(self) -> Group:
        """Return what `rich` prints on a terminal, without the title."""
        return Group(*map(_for_terminal, _of_text(self.parts)))

    def markdown(self) -> str:
        texts = map(_for_markdown, [*_of_text(self.parts), *self._reproduced()])
        return "\n\n".join([f"# {plain(self.title)}", *filter(None, texts)]) + "\n"

    def html(self) -> str:
        """Return the report as a complete HTML page."""
        from markdown_it import MarkdownIt

        renderer = MarkdownIt("commonmark", {"html": False}).enable("table")
        body, has_plotly = [renderer.render(f"# {plain(self.title)}")], False
        for part in filter(_is_filled, [*self.parts, *self._reproduced()]):
            match part:
                case Plot(figure):
                    options = {"responsive": True, "displaylogo": False}
                    plot = figure.to_html(options, include_plotlyjs=not has_plotly, full_html=False)
                    body.append(f'<figure class="plot">{plot}</figure>')
                    has_plotly = True
                case Picture(png, text):
                    image = f"data:image/png;base64,{base64.b64encode(png).decode()}"
                    caption = f"<figcaption>{escape(text)}</figcaption>"
                    body.append(f'<figure><img src="{image}" alt="">{caption}</figure>')
                case _:
                    body.append(renderer.render(_for_markdown(part)))
        data = _finite({"elbos": __version__, "command": self.command, **(self.data or {})})
        return _PAGE.format(
            title=escape(self.title),
            style=resources.files("elbos.base").joinpath("report.css").read_text(encoding="utf-8"),
            body="\n".join(body),
            version=__version__,
            data=json.dumps(data, allow_nan=False).replace("<", "\\u003c"),
        )

    def write_html(self, path: str | Path) -> None:
        """Write the HTML page to `path`, whose missing parent folders are created.

        Raises:
            OSError: If the file cannot be written; the message names `path`.
        """
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        files.write(Path(path), self.html().encode(errors="replace"))

    def _reproduced(self) -> list[Part]:
        return [Heading("Reproduce"), Code(self.command)] if self.command else []


def _is_filled(part: Part) -> bool:
    return not isinstance(part, Table) or bool(part.rows)


def _of_text(parts: Iterable[Part]) -> list[Part]:
    """Return the parts of the sections that hold neither plots nor pictures."""
    sections: list[list[Part]] = [[]]
    for part in filter(_is_filled, parts):
        if isinstance(part, Heading):
            sections.append([])
        sections[-1].append(part)
    pictures = Plot | Picture
    texts = (s for s in sections if not any(isinstance(part, pictures) for part in s))
    return [*itertools.chain.from_iterable(texts)]


def _for_terminal(part: Part) -> RenderableType:
    match part:
        case Table():
            return part.rich()
        case Heading(text):
            return Text(printable(text), style="bold")
        case Paragraph(text, kind):
            return Text(printable(text), style=_STYLES.get(kind, ""))
        case Code(text):
            return Text(text)
    raise TypeError(part)


def _for_markdown(part: Part) -> str:
    match part:
        case Table():
            return part.markdown()
        case Heading(text, level):
            return f"{'#' * level} {plain(text)}"
        case Paragraph(text, kind):
            return strong(text) if kind else plain(text)
        case Code(text):  # in a fence that is longer than any run of backticks in the code
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}sh\n{text}\n{fence}"
    raise TypeError(part)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
