"""Curves on the terminal: braille characters, two columns and four rows of dots in each."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from rich.text import Text

from elbos.arrays import Array

_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_MARKED = "yellow"
MARGIN = 9
"""Characters left of a curve, for the ends of its axis."""


def braille(curve: Float[Array, " c"], height: int) -> list[str]:
    """A line through values between 0 and 1, two to a character; a gap where they are NaN.

    Examples:
        >>> braille(np.linspace(0, 1, 16), 2)
        ['    ⣀⠤⠒⠉', '⣀⠤⠒⠉    ']
    """
    row = np.round((1 - curve) * (4 * height - 1))
    before = np.where(np.isnan(np.roll(row, 1)), row, np.roll(row, 1))
    before[0] = row[0]
    # from the row after the neighbour's to one's own, so that steep parts are connected and thin
    top = np.where(before < row, before + 1, row)
    bottom = np.where(before > row, before - 1, row)
    line = np.arange(4 * height)[:, None]
    cells = ((top <= line) & (line <= bottom)).reshape(height, 4, -1, 2)
    codes = np.einsum("hicj,ij->hc", cells, _DOTS)
    return ["".join(chr(0x2800 + code) if code else " " for code in row) for row in codes]


def plotted(
    curve: Float[Array, " c"],
    low: float,
    high: float,
    height: int,
    *,
    labels: tuple[str, str],
    is_marked: NDArray[np.bool_] | None = None,
) -> list[Text]:
    """The rows of a plot, with its axis.

    Args:
        curve: Values, two to a character; a gap where they are NaN.
        low: The lower end of the axis.
        high: The upper end.
        height: In characters.
        labels: Of the two ends.
        is_marked: For each character, whether the curve has another colour there.
    """
    texts = []
    for i, row in enumerate(braille((curve - low) / (high - low), height)):
        label = {0: labels[1], height - 1: labels[0]}.get(i, "")
        text = Text(f"{label:>{MARGIN - 2}} │", style="dim")
        for is_so, part in _runs(row, is_marked):
            text.append(part, style=f"not dim {_MARKED}" if is_so else "not dim cyan")
        texts.append(text)
    return texts


def _runs(row: str, is_marked: NDArray[np.bool_] | None) -> Iterator[tuple[bool, str]]:
    """The stretches of a row that are marked, and the others."""
    if is_marked is None:
        yield False, row
        return
    turns = [0, *(np.flatnonzero(np.diff(is_marked)) + 1).tolist(), len(row)]
    for start, end in pairwise(turns):
        yield bool(is_marked[start]), row[start:end]


def strokes(is_marked: NDArray[np.bool_], label: str, otherwise: str) -> Text:
    """A line of strokes below the marked parts of a plot, which shows them without colour."""
    if not is_marked.any():
        return Text(" " * MARGIN + otherwise, style="dim")
    row = "".join("╱" if is_so else " " for is_so in is_marked)
    return Text(f"{label:>{MARGIN - 2}}  ").append(row, style=_MARKED)


def axis(left: str, title: str, right: str, width: int) -> Text:
    """The horizontal axis of a plot."""
    middle = title.center(width - len(left) - len(right))
    return Text(" " * MARGIN + left + middle + right, style="dim")
