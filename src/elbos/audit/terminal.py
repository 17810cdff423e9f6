r"""An audit on the terminal: the verdict, the facts, and small plots of $w$ and $p$ over log-SNR.

Curves are drawn with braille characters, two columns and four rows of dots in each, so that 64
characters show 128 noise levels. What colour shows is shown without it, too: where $w$ rises with
$\lambda$, there is a line of strokes below the curve, and of question marks where it may. Terminals
that are too narrow for plots, or have no such characters, get none.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.text import Text

from elbos.audit.result import Audit
from elbos.audit.words import View, difference, facts_table, facts_tables, views
from elbos.base.arrays import Array
from elbos.base.numbers import fixed
from elbos.base.tables import Column, Table

_STYLES = {"error": "bold red", "slip": "bold yellow"}  # verdicts have no colour
_PLOT_WIDTH, _MIN_PLOT_WIDTH, _MARGIN = 64, 28, 9  # characters
_MIN_COLUMN = 20  # characters for each of several audits side by side
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
_RISING = "magenta"


@dataclass(frozen=True)
class Terminal:
    """One audit in full, or several side by side, for whatever width there is."""

    audits: Sequence[Audit]

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        shown = views(self.audits)
        yield from _in_full(shown[0]) if len(shown) == 1 else _beside(shown, options.max_width)
        width = min(_PLOT_WIDTH, options.max_width - _MARGIN)
        if width >= _MIN_PLOT_WIDTH and not options.ascii_only:
            yield from _plots(shown, width)
        if len(shown) == 1 and shown[0].code:
            yield Text(f"{shown[0].factor}\n")
            yield Text(shown[0].code + "\n", no_wrap=True, overflow="ignore")  # to be copied


def as_text(audits: Sequence[Audit], width: int = 80) -> str:
    """What the terminal shows, without colours."""
    file = io.StringIO()
    Console(file=file, width=width).print(Terminal(audits), crop=False)
    return file.getvalue()


def _heading(view: View) -> Text:
    notes = [
        (f"\n{note.mark} {note.text}", _STYLES.get(note.kind, "not bold")) for note in view.notes
    ]
    return Text.assemble(f"{view.audit.title}: ", (view.summary, "bold"), *notes)


def _in_full(view: View) -> Iterator[RenderableType]:
    yield from (_heading(view), Text(), Text(view.explanation))
    yield facts_table([view]).rich()
    of = "" if view.audit.is_weighted_elbo else ", to its squared-error part"
    columns = [Column(f"nearest named weightings{of}"), Column("", is_numeric=False)]
    yield Table(columns, view.nearest).rich()


def _beside(shown: Sequence[View], width: int) -> Iterator[RenderableType]:
    yield from (Group(*map(_heading, shown)), Text())
    if len(shown) == 2:
        yield from (Text(difference(shown[0].audit, shown[1].audit)), Text())
    num = len(shown) if (width - 18) // len(shown) - 2 >= _MIN_COLUMN else 1
    for table in facts_tables(shown, [view.title for view in shown], num):
        yield table.rich()


def _plots(shown: Sequence[View], width: int) -> Iterator[Text]:
    """Curves on common axes; of several, that of the weights is for the central ones."""
    audits = [view.audit for view in shown]
    levels = np.linspace(
        min(audit.logsnr[0].item() for audit in audits),
        max(audit.logsnr[-1].item() for audit in audits),
        2 * width,
    )
    cells = levels.reshape(-1, 2).mean(1)

    def resampled(audit: Audit, curve: torch.Tensor) -> Array:
        x, y = audit.logsnr.numpy(), curve.numpy()
        return np.asarray(np.interp(levels, x, y, left=np.nan, right=np.nan))

    weights = [resampled(audit, audit.weight.log10()) for audit in audits]
    densities = [resampled(audit, audit.density) for audit in audits]
    scale = weights if len(shown) == 1 else [np.log10(view.central_weights) for view in shown]
    low, high, top = min(map(np.nanmin, scale)), max(map(np.nanmax, scale)), np.nanmax(densities)
    low = min(low, high - 0.3)  # a constant is a line in the middle of nothing much
    ends = f"{10**low:.2g}", f"{10**high:.2g}"
    for view, log_w, p in zip(shown, weights, densities, strict=True):
        is_rising = _is_inside(cells, view.audit.rising)
        may_rise = _is_inside(cells, [one[:2] for one in view.audit.undecided])
        of = f" of {view.title}" if len(shown) > 1 else ""
        left, right = f"{fixed(levels[0], 1)} noisy", f"clean {fixed(levels[-1], 1)}"
        lines = [
            Text(f"weighting w{of}, log scale"),
            *_plotted(log_w, low, high, 8, labels=ends, is_marked=is_rising),
            _strokes(is_rising, may_rise) if view.audit.is_judged else Text(),
            Text("density p of the noise levels"),
            *_plotted(p, 0, top, 4, labels=("0", f"{top:.2g}")),
            _axis(left, "log-SNR", right, width),
            Text(),
        ]
        yield Text("\n").join(lines)


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


def _plotted(
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
        text = Text(f"{label:>{_MARGIN - 2}} │", style="dim")
        for is_so, part in _runs(row, is_marked):
            text.append(part, style=f"not dim {_RISING}" if is_so else "not dim cyan")
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


def _is_inside(
    levels: Float[Array, " c"], intervals: Sequence[tuple[float, float]]
) -> NDArray[np.bool_]:
    """Which levels are in any of the intervals."""
    inside = [(start <= levels) & (levels <= end) for start, end in intervals]
    return np.any(inside, axis=0) if inside else np.zeros(len(levels), dtype=bool)


def _strokes(is_rising: NDArray[np.bool_], may_rise: NDArray[np.bool_]) -> Text:
    """A line below a plot that shows without colour where the curve rises, and where it may."""
    if not (is_rising | may_rise).any():
        return Text(" " * _MARGIN + "never rises", style="dim")
    row = np.select([is_rising, may_rise], ["╱", "?"], " ")
    label = "rises" if is_rising.any() else "rises?"
    return Text(f"{label:>{_MARGIN - 2}}  ").append("".join(row), style=_RISING)


def _axis(left: str, title: str, right: str, width: int) -> Text:
    """The horizontal axis of a plot."""
    middle = title.center(width - len(left) - len(right))
    return Text(" " * _MARGIN + left + middle + right, style="dim")
