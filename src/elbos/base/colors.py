"""Colours and dash patterns of curves, and line samples for text that mentions a curve."""

from typing import NamedTuple

from markupsafe import Markup

# Each has a contrast of 3 or more to white and to the page's black.
COLORS = ["#3b7dd8", "#cf6a12", "#2b9a66", "#a35bd0", "#1592a5", "#a98012", "#c4548c", "#7d8590"]
DASHES = {  # plotly's name: the lengths of SVG
    "dash": "7 4",
    "dot": "2 3",
    "dashdot": "7 3 2 3",
    "longdash": "11 4",
    "longdashdot": "10 3 2 3",
}


class Swatch(NamedTuple):
    """Legend key of a curve: a short line in the curve's colour and dash pattern.

    Args:
        color: A colour of CSS.
        dash: "solid", or one of `DASHES`.
    """

    color: str
    dash: str = "solid"

    def html(self) -> Markup:
        svg = Markup(
            '<svg class="swatch" viewBox="0 0 28 8" aria-hidden="true"><path d="M0 4h28" '
            'stroke="{}" stroke-width="3" stroke-dasharray="{}"/></svg>'
        )
        return svg.format(self.color, DASHES.get(self.dash, ""))


def faint(color: str, opacity: float = 0.13) -> str:
    """Convert a hex colour to a translucent CSS `rgba` colour.

    Examples:
        >>> faint("#3b7dd8", 0.5)
        'rgba(59,125,216,0.5)'
    """
    red, green, blue = bytes.fromhex(color[1:])
    return f"rgba({red},{green},{blue},{opacity})"
