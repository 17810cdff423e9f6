r"""An audit on the terminal: the verdict, the facts, and small plots of $w$ and $p$ over log-SNR.

Curves are drawn with braille characters, two columns and four rows of dots in each, so that 64
characters show 128 noise levels. What colour tells is told without it as well: where $w$ rises with
$\lambda$, there is a line of strokes below the curve. Terminals that are too narrow for plots, or
have no such characters, get none.
"""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.table import Table
from rich.text import Text

from elbos.arrays import Array
from elbos.audit.result import Audit
from elbos.audit.words import (
    MARKS,
    NONE,
    central_weights,
    difference,
    facts,
    headline,
    nearest,
    nearest_to,
    shortened,
)

_WIDTH, _MARGIN = 64, 9
_MIN_WIDTH = 28  # of a plot, for the words below it
_NAMES, _MIN_COLUMN = 16, 18  # characters: the names of facts, and the least for their values
MAX_BESIDE = 3  # audits whose facts are put side by side
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_STYLES = {"yes": "bold cyan", "no": "bold yellow", "open": "bold red"}  # neither yes nor no is bad
_RISING = "yellow"


@dataclass(frozen=True)
class _Report:
    """Parts with a line between them, for whatever width there is."""

    audits: Sequence[Audit]

    def __rich_console__(
        self, _console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        parts = _one if len(self.audits) == 1 else _several
        for part in parts(self.audits, options):
            yield part
            yield Text()


def report(audits: Sequence[Audit]) -> RenderableType:
    """One audit in full, or several side by side."""
    return _Report(audits)


def _one(audits: Sequence[Audit], options: ConsoleOptions) -> Iterator[RenderableType]:
    (audit,) = audits
    yield _heading(audit)
    yield Text(audit.verdict)
    yield _facts_table(audits)
    yield _nearest_table(audit)
    yield from _plots(audits, options)
    if code := audit.monotone_code:
        yield Text(wrapped(code), no_wrap=True, overflow="ignore")  # to be copied


def _several(audits: Sequence[Audit], options: ConsoleOptions) -> Iterator[RenderableType]:
    yield Group(*(_heading(audit) for audit in audits))
    if len(audits) == 2:
        yield Text(difference(*audits))
    audits = shortened(audits)
    if _fits_beside(audits, options.max_width):
        yield _facts_table(audits)
    else:
        for audit in audits:
            yield Group(Text(audit.title, style="bold"), _facts_table([audit], is_alone=False))
    yield from _plots(audits, options)


def _fits_beside(audits: Sequence[Audit], width: int) -> bool:
    """Whether the facts fit side by side, with lines broken at spaces only."""
    cells = [cell for _, values in _rows(audits, is_alone=False) for cell in values]
    longest = max(len(word) for cell in cells for word in cell.split())
    column = (width - _NAMES) // len(audits) - 1
    return len(audits) <= MAX_BESIDE and column >= max(longest, _MIN_COLUMN)


def _heading(audit: Audit) -> Text:
    kind, title, _ = headline(audit)
    return Text.assemble(f"{audit.title}: ", (f"{MARKS[kind]} {title}", _STYLES[kind]))


def _facts_table(audits: Sequence[Audit], *, is_alone: bool = True) -> Table:
    table = Table(box=None, pad_edge=False, show_header=len(audits) > 1)
    table.add_column(no_wrap=True)
    for audit in audits:
        table.add_column(Text(audit.title), overflow="fold")
    for name, values in _rows(audits, is_alone=is_alone):
        table.add_row(name, *(Text(value) for value in values))
    return table


def _rows(audits: Sequence[Audit], *, is_alone: bool) -> list[tuple[str, list[str]]]:
    rows = facts(audits, is_alone=is_alone)
    if is_alone and len(audits) == 1:
        return rows
    return [*rows, ("nearest", [_first(audit) for audit in audits])]


def _first(audit: Audit) -> str:
    """The nearest named weighting, of a loss that has a weighting."""
    return ", ".join(nearest(audit)[0]) if audit.is_weighted_elbo else NONE


def _nearest_table(audit: Audit) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(f"nearest named weightings{nearest_to(audit)}", overflow="fold")
    table.add_column("")
    for name, off in nearest(audit):
        table.add_row(Text(name), off)
    return table


def _plots(audits: Sequence[Audit], options: ConsoleOptions) -> Iterator[Text]:
    """Stacked, on common axes; of several, that of the weights is for the central ones."""
    width = min(_WIDTH, options.max_width - _MARGIN)
    if width < _MIN_WIDTH or options.ascii_only:
        return
    levels = np.linspace(
        min(audit.logsnr[0].item() for audit in audits),
        max(audit.logsnr[-1].item() for audit in audits),
        2 * width,
    )
    weights = [_resampled(audit, audit.weight.log10().numpy(), levels) for audit in audits]
    densities = [_resampled(audit, audit.density.numpy(), levels) for audit in audits]
    shown = weights if len(audits) == 1 else [np.log10(central_weights(a)) for a in audits]
    low, high = min(map(np.nanmin, shown)), max(map(np.nanmax, shown))
    low = min(low, high - 0.3)  # a constant is a line in the middle of nothing much
    for audit, log_w, p in zip(audits, weights, densities, strict=True):
        title = f" of {audit.title}" if len(audits) > 1 else ""
        is_rising = _is_rising(audit, levels)
        yield Text("\n").join(
            [
                Text(f"weighting w{title}, log scale"),
                *_drawn(log_w, low, high, 8, labels=(10**low, 10**high), is_rising=is_rising),
                _strokes(is_rising),
                Text("density p of the noise levels"),
                *_drawn(p, 0, np.nanmax(densities), 4, labels=(0, np.nanmax(densities))),
                _axis(levels),
            ]
        )


def _resampled(audit: Audit, curve: Array, levels: Float[Array, " c"]) -> Float[Array, " c"]:
    """A curve at other levels; NaN beyond its ends."""
    return np.interp(levels, audit.logsnr.numpy(), curve, left=np.nan, right=np.nan)


def _is_rising(audit: Audit, levels: Float[Array, " c"]) -> NDArray[np.bool_]:
    """Whether the weighting rises, for each character."""
    cells = levels.reshape(-1, 2).mean(1)
    inside = [(start <= cells) & (cells <= end) for start, end in audit.rising]
    return np.any(inside, axis=0) if inside else np.zeros(len(cells), dtype=bool)


def _drawn(
    curve: Float[Array, " c"],
    low: float,
    high: float,
    height: int,
    *,
    labels: tuple[float, float],
    is_rising: NDArray[np.bool_] | None = None,
) -> list[Text]:
    """Rows of a plot: its axis, and the curve, marked where it rises."""
    rows = braille((curve - low) / (high - low), height)
    texts = []
    for i, row in enumerate(rows):
        value = {0: f"{labels[1]:.2g}", height - 1: f"{labels[0]:.2g}"}.get(i, "")
        text = Text(f"{value:>{_MARGIN - 2}} │", style="dim")
        for rises, part in _runs(row, is_rising):
            text.append(part, style=f"not dim {_RISING}" if rises else "not dim cyan")
        texts.append(text)
    return texts


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


def _runs(row: str, is_rising: NDArray[np.bool_] | None) -> Iterator[tuple[bool, str]]:
    """The stretches of a row in which the curve rises, and the others."""
    if is_rising is None:
        yield False, row
        return
    turns = [0, *(np.flatnonzero(np.diff(is_rising)) + 1).tolist(), len(row)]
    for start, end in pairwise(turns):
        yield bool(is_rising[start]), row[start:end]


def _strokes(is_rising: NDArray[np.bool_]) -> Text:
    if not is_rising.any():
        return Text(f"{'never rises':>{_MARGIN + 11}}", style="dim")
    strokes = "".join("╱" if rises else " " for rises in is_rising)
    return Text(f"{'rises':>{_MARGIN - 2}}  ").append(strokes, style=_RISING)


def _axis(levels: Float[Array, " c"]) -> Text:
    left, right = f"{levels[0]:.1f} noisy", f"clean {levels[-1]:.1f}"
    middle = "log-SNR".center(len(levels) // 2 - len(left) - len(right))
    return Text(" " * _MARGIN + left + middle + right, style="dim")


def wrapped(code: str, width: int = 76) -> str:
    """Code with its long lines, all of which are inside brackets, broken at spaces."""
    return "\n".join(
        "\n".join(textwrap.wrap(line, width, subsequent_indent=" " * 8, break_on_hyphens=False))
        for line in code.splitlines()
    )
