"""An HTML page that is whole in itself, to be attached to an issue or sent by mail.

Its words and tables are plain HTML; only the plots need its script. The library, plotly.js, is in
it compressed, and unpacked by the browser; a content security policy keeps the page from fetching
anything, and from running any script but these two, known by their hashes.
"""

import base64
import gzip
import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from importlib import resources
from typing import Any

from plotly.offline import get_plotlyjs


def document(title: str, body: str) -> str:
    """Head and body, the library and the script, and the policy that lets only these run.

    Args:
        title: Of the window, as plain text.
        body: HTML; whatever in it comes from outside is escaped already.
    """
    style, script = (_resource(name) for name in ("style.css", "page.js"))
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
<title>{escape(title)}</title>
<style>
{style}</style>
<noscript><style>.plot, .save, .chips {{ display: none; }}</style></noscript>
</head>
<body>
{body}
<script type="text/plain" id="plotly">{_packed_library()}</script>
<script type="module">{script}</script>
</body>
</html>
"""


def island(name: str, content: str) -> str:
    """JSON that no text in it can get out of."""
    inert = content.replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{inert}</script>'


def finite(value: Any) -> Any:
    """The same with null for numbers that are not finite, which JSON does not know."""
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _resource(name: str) -> str:
    return resources.files("elbos.report").joinpath("templates", name).read_text(encoding="utf-8")


def _sha256(code: str) -> str:
    return base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()


@cache
def _packed_library() -> str:
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
