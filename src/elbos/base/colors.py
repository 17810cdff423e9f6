"""Colours and dashes of curves."""

from typing import NamedTuple

# Each has a contrast of 3 or more to white and to the page's black.
COLORS = ["#3b7dd8", "#cf6a12", "#2b9a66", "#a35bd0", "#1592a5", "#a98012", "#c4548c", "#7d8590"]


class LineStyle(NamedTuple):
    """Colour of a curve, which is solid or dashed."""

    color: str
    is_dashed: bool = False

    @property
    def dash(self) -> str:
        """Name of the line style in plotly."""
        return "dash" if self.is_dashed else "solid"


def faint(color: str, opacity: float = 0.13) -> str:
    """Convert a hex colour to a translucent CSS `rgba` colour.

    Examples:
        >>> faint("#3b7dd8", 0.5)
        'rgba(59,125,216,0.5)'
    """
    red, green, blue = bytes.fromhex(color[1:])
    return f"rgba({red},{green},{blue},{opacity})"
