"""Reports: a title and parts, for the terminal, in Markdown or as a self-contained HTML page.

A room says what its report holds, and only this file knows how that is shown. All texts are plain
and escaped for the format. Sections with a plot or a picture are for pages.

A page can be mailed or attached to an issue. Text and tables are plain HTML; only plots need
scripts. The library plotly.js is embedded once, in compressed form, and unpacked by the browser. A
content security policy keeps the page from fetching anything, and from running any script but
these two, identified by their hashes.
"""

import base64
import gzip
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Group, RenderableType
from rich.text import Text

from elbos import __version__
from elbos.base import files
from elbos.base.errors import printable
from elbos.base.tables import Table, plain

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_THEORY = (
    "The theory: Kingma &amp; Gao, <cite>Understanding Diffusion Objectives as the ELBO with "
    'Simple Data Augmentation</cite>, 2023, <a href="https://arxiv.org/abs/2303.00848">'
    "arxiv.org/abs/2303.00848</a>. Plots: plotly.js, MIT licence. This page fetches nothing; its "
    "numbers are in it as JSON."
)


Emphasis = Literal["", "lead", "note", "warning", "error"]


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
        parts = [*_of_text(self.parts), *self._reproduced()]
        texts = (_for_markdown(part) for part in parts)
        return "\n\n".join([f"# {plain(self.title)}", *filter(None, texts)]) + "\n"

    def html(self) -> str:
        """Return the report as a complete HTML page."""
        parts = [*filter(_is_filled, self.parts), *self._reproduced()]
        body = [f"<h1>{escape(self.title)}</h1>", *map(_for_html, parts)]
        body.append(f"<footer>elbos {__version__}. {_THEORY}</footer>")
        if self.data is not None:
            data = {"elbos": __version__, "command": self.command, **self.data}
            content = _inert(json.dumps(_finite(data), allow_nan=False))
            body.append(f'<script type="application/json" id="elbos-data">{content}</script>')
        scripts = [_file("report.js")]
        if any(isinstance(part, Plot) for part in parts):
            library, compressed = _plotly()
            scripts.append(library)
            body.append(f'<script type="text/plain" id="plotly">{compressed}</script>')
        digests = (hashlib.sha256(code.encode()).digest() for code in scripts)
        allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
        policy = (
            f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
            "img-src data: blob:; base-uri 'none'; form-action 'none'"
        )
        head = [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">',
            f"<title>{escape(self.title)}</title>\n<style>{_file('report.css')}</style>\n</head>",
        ]
        script = f'<script type="module">{scripts[0]}</script>'
        return "\n".join([*head, "<body>", *body, script, "</body>\n</html>\n"])

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
        case Paragraph(text):
            return plain(text)
        case Code(text):  # in a fence that is longer than any run of backticks in the code
            fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
            return f"{fence}sh\n{text}\n{fence}"
    raise TypeError(part)


def _for_html(part: Part) -> str:
    match part:
        case Table():
            return part.html()
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Paragraph(text, kind):
            return f'<p class="{kind}">{escape(text)}</p>' if text else ""
        case Code(text):
            return f'<pre tabindex="0">{escape(text)}</pre>'
        case Picture(png, text):
            content = base64.b64encode(png).decode()
            image = f'<img src="data:image/png;base64,{content}" alt="">'
            return f"<figure>{image}<figcaption>{escape(text)}</figcaption></figure>"
        case Plot(figure):
            height, content = figure.layout.height, _inert(str(figure.to_json()))
            plot = f'<div class="plot" style="min-height:{height}px"></div>'
            missing = "<noscript>The curves need JavaScript; tables have their numbers.</noscript>"
            return f'{plot}<script type="application/json">{content}</script>{missing}'


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _inert(content: str) -> str:
    """Escape JSON text for embedding in an HTML script element."""
    return content.replace("<", "\\u003c")


@cache
def _file(name: str) -> str:
    return resources.files("elbos.base").joinpath(name).read_text(encoding="utf-8")


@cache
def _plotly() -> tuple[str, str]:
    """Return the source of plotly.js, and its compressed form."""
    from plotly.offline import get_plotlyjs

    library: str = get_plotlyjs()
    return library, base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()
