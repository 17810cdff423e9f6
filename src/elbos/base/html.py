"""Rendering of templates, and self-contained HTML pages that can be mailed or attached to an issue.

Values are escaped for the format given by the suffix of the template's name, except `Markup` in
HTML and `Markdown` in Markdown. Text and tables of a page are plain HTML; only plots need scripts.
The library plotly.js is embedded in compressed form and unpacked by the browser. A content security
policy keeps the page from fetching anything, and from running any script but these two, identified
by their hashes.
"""

import base64
import copy
import gzip
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup, escape

from elbos import __version__
from elbos.base import files, numbers


class Markdown(str):
    """String of Markdown source that templates insert without escaping."""

    __slots__ = ()


def render(template: str, **context: Any) -> str:
    """Render a template with given variables.

    Args:
        template: A file in `templates`, ROOM/NAME of a room above, such as "audit/page.html", or an
            absolute path.
        **context: Variables of the template. None is rendered as a dash.

    Returns:
        Text that other templates and tables of the same format do not escape again.
    """
    suffix = PurePath(template).suffix
    text = _environment(suffix).get_template(template).render(context)
    trusted: dict[str, type[str]] = {".html": Markup, ".md": Markdown}
    return trusted.get(suffix, str)(text)


def sentences(template: str, macro: str, *args: Any) -> list[str]:
    text: str = getattr(_environment(".txt").get_template(template).module, macro)(*args)
    return [line.strip() for line in text.splitlines() if line.strip()]


def document(
    template: str, *, script_file: str = "page.js", has_plots: bool = True, **context: Any
) -> str:
    """Return a complete HTML page with styles and scripts, whose policy blocks other scripts."""
    style, script = _template("style.css"), _template("shared.js") + _template(script_file)
    library, compressed = _plotly() if has_plots else (None, None)
    digests = (hashlib.sha256(code.encode()).digest() for code in (script, library) if code)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
    frame = {"policy": Markup(policy), "style": Markup(style), "script": Markup(script)}
    return render(template, **context, **frame, library=compressed)


def write_html(path: str | Path, page: str) -> None:
    """Write an HTML page to `path`, whose missing parent folders are created."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    files.write(Path(path), page.encode(errors="replace"))


def breakable(text: str) -> Markup:
    """Escape text for HTML and allow line breaks between the parts of a path, name or call."""
    if isinstance(text, Markup):
        return text
    broken = re.sub(r"(?<=[/:_.])(?=[^\W\d])|(?<=[(=,])(?=\w)", "<wbr>", str(escape(text)))
    return Markup(broken)


def plain(text: object) -> str:
    """Return text on one line with Markdown characters escaped.

    Examples:
        >>> print(plain("a|b <i>*c*"))
        a\\|b \\<i\\>\\*c\\*
    """
    return re.sub(r"([\\`*_<>|\[\]#~&])", r"\\\1", " ".join(str(text).split()))


def fenced(code: str) -> Markdown:
    """Return code in a Markdown fence that is longer than any run of backticks in the code."""
    longest = max(map(len, re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markdown(f"{fence}sh\n{code}\n{fence}")


def to_json(data: Any) -> str:
    """Convert data to JSON text with null for non-finite numbers."""
    return json.dumps(_finite(data), allow_nan=False)


def inert(content: str) -> Markup:
    """Escape JSON text for embedding in an HTML script element."""
    return Markup(content.replace("<", "\\u003c"))


def without_legend(figure: Any) -> Any:
    from elbos.base.figures import hide_legend  # plain-text output does not need plotly

    copied = copy.deepcopy(figure)
    hide_legend(copied)
    return copied


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


_NUMBERS = ("number", "fixed", "signed", "plus_minus", "interval", "percent", "count", "setting")


@cache
def _environment(suffix: str) -> Environment:
    show: dict[str, Callable[[Any], Any]] = {".html": _known, ".md": _for_markdown}
    environment = Environment(
        loader=FunctionLoader(_template),
        autoescape=suffix == ".html",
        undefined=StrictUndefined,
        finalize=show.get(suffix, _known),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters = {name: getattr(numbers, name) for name in _NUMBERS}
    markup = (breakable, fenced, inert, to_json, without_legend)
    environment.filters.update(filters, **{function.__name__: function for function in markup})
    environment.globals.update(filters, NONE=numbers.NONE, version=__version__)
    return environment


def _known(value: Any) -> Any:
    return numbers.NONE if value is None else value


def _for_markdown(value: Any) -> str:
    return value if isinstance(value, Markdown) else plain(_known(value))


@cache
def _template(name: str) -> str:
    if Path(name).is_absolute():
        return Path(name).read_text(encoding="utf-8")
    room, _, file = name.rpartition("/")
    package = ".".join(["elbos", *(room or "base").split("/")])
    return resources.files(package).joinpath("templates", file).read_text(encoding="utf-8")


@cache
def _plotly() -> tuple[str, str]:
    """Return the source of plotly.js, and its compressed form."""
    from plotly.offline import get_plotlyjs

    library: str = get_plotlyjs()
    return library, base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode()
