"""Tables, rendered for the terminal, as HTML or as Markdown.

Cells are plain text, which is escaped for the output format.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import rich.table
from rich import box
from rich.text import Text

from elbos.base.colors import Swatch
from elbos.base.errors import printable
from elbos.base.numbers import NONE, setting

BEST = "★"
_LONG = 24  # characters; a page does not squeeze longer texts into narrow columns


@dataclass(frozen=True)
class Column:
    """Title, alignment and sort direction of a table column.

    Attributes:
        title: What the column shows.
        is_numeric: Whether it is aligned to the right; the first column never is.
        is_lower_better: Whether lower numbers are better, shown by an arrow; None: no arrow.
    """

    title: str
    is_numeric: bool = True
    is_lower_better: bool | None = None

    @property
    def head(self) -> str:
        return self.title + {None: "", True: " ↓", False: " ↑"}[self.is_lower_better]


@dataclass(frozen=True)
class Cell:
    """Text and formatting of a table cell.

    Attributes:
        text: The value.
        is_best: Whether it gets a star.
        note: Remark shown below the value on a page, and after the value elsewhere.
        swatch: Line sample of the curve that the value belongs to.
        is_bold: Whether it is emphasized.
        value: Number by which a page sorts the rows. A table with such numbers can be sorted.
    """

    text: str
    is_best: bool = False
    note: str = ""
    swatch: Swatch | None = None
    is_bold: bool = False
    value: float | None = None


Row = Sequence[Cell | str]


@dataclass(frozen=True)
class Table:
    """Table of text cells under column titles, where the first cell of each row names the row.

    Attributes:
        columns: The columns, or their titles; without any title, no header is shown.
        rows: A cell for each column, or its text.
        caption: What the table shows.
        foot: Footer rows, which are not sorted.

    Raises:
        ValueError: If a row has more or fewer cells than there are columns.
    """

    columns: Sequence[Column | str]
    rows: Sequence[Row]
    caption: str = ""
    foot: Sequence[Row] = ()

    def __post_init__(self) -> None:
        for row in (*self.rows, *self.foot):
            if len(row) != len(self.columns):
                raise ValueError(f"A row of {len(row)} cells, {row}, has {len(self.columns)} heads")

    @cached_property
    def heads(self) -> list[Column]:
        return [column if isinstance(column, Column) else Column(column) for column in self.columns]

    @property
    def body_cells(self) -> list[list[Cell]]:
        return _cells(self.rows)

    @property
    def foot_cells(self) -> list[list[Cell]]:
        return _cells(self.foot)

    def without_empty_columns(self) -> "Table":
        cells = [*self.body_cells, *self.foot_cells]
        filled = [
            i
            for i in range(len(self.columns))
            if i == 0 or any(row[i].text not in ("", NONE) for row in cells)
        ]
        rows, foot = ([[row[i] for i in filled] for row in part] for part in (self.rows, self.foot))
        return replace(self, columns=[self.columns[i] for i in filled], rows=rows, foot=foot)

    def rich(self) -> rich.table.Table:
        drawn = rich.table.Table(
            title=Text(printable(self.caption)) if self.caption else None,
            title_justify="left",
            box=box.SIMPLE,
            padding=(0, 1, 0, 0),
            pad_edge=False,
            show_header=any(column.title for column in self.heads),
        )
        for i, column in enumerate(self.heads):
            drawn.add_column(
                Text(printable(column.head)),
                justify="right" if i and column.is_numeric else "left",
                overflow="fold",
            )
        for row in self.body_cells:
            drawn.add_row(*map(_for_terminal, row))
        for row in self.foot_cells:
            drawn.add_row(*map(_for_terminal, row), style="dim")
        return drawn

    def html(self) -> str:
        """Render the table as HTML, in a box that scrolls if it is wider than the page."""
        kinds = ["number" if column.is_numeric else "text" for column in self.heads]
        parts = [f"<caption>{escape(self.caption)}</caption>"] if self.caption else []
        if any(column.title for column in self.heads):
            heads = zip(kinds, self.heads, strict=True)
            texts = [f'<th class="{kind}">{escape(column.head)}</th>' for kind, column in heads]
            parts.append(f"<thead><tr>{''.join(texts)}</tr></thead>")
        for tag, rows in (("tbody", self.body_cells), ("tfoot", self.foot_cells)):
            lines = []
            for first, *rest in rows:
                cells = zip(kinds[1:], rest, strict=True)
                texts = [_for_html(cell, "td", kind) for kind, cell in cells]
                lines.append(f"<tr>{_for_html(first, 'th', 'text')}{''.join(texts)}</tr>")
            parts.append(f"<{tag}>{''.join(lines)}</{tag}>")
        return f'<div class="scroll" tabindex="0"><table>{"".join(parts)}</table></div>'

    def markdown(self) -> str:
        titles = [plain(column.head) for column in self.heads]
        is_number = [i > 0 and column.is_numeric for i, column in enumerate(self.heads)]
        rows = [list(map(_for_markdown, row)) for row in [*self.body_cells, *self.foot_cells]]
        lines = [titles, ["---:" if right else "---" for right in is_number], *rows]
        caption = f"**{plain(self.caption)}**\n\n" if self.caption else ""
        return caption + "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def named(values: Mapping[str, Any]) -> Table:
    """Return a table of values by name, without a header."""
    rows = [(key.replace("_", " "), setting(value)) for key, value in values.items()]
    return Table(["", Column("", is_numeric=False)], rows)


def evenly(num: int, most: int) -> list[int]:
    """Return at most `most` evenly spaced indices below `num`.

    Examples:
        >>> evenly(10, 4), evenly(2, 4)
        ([0, 3, 6, 9], [0, 1])
    """
    return sorted({round(place) for place in np.linspace(0, num - 1, most).tolist()})


def plain(text: object) -> str:
    """Return text on one line with Markdown characters escaped.

    Examples:
        >>> print(plain("a|b <i>*c*"))
        a\\|b \\<i\\>\\*c\\*
    """
    return re.sub(r"([\\`*_<>|\[\]#~&])", r"\\\1", " ".join(str(text).split()))


def _cells(rows: Sequence[Row]) -> list[list[Cell]]:
    return [[cell if isinstance(cell, Cell) else Cell(cell) for cell in row] for row in rows]


def _for_terminal(cell: Cell) -> Text:
    text = Text(printable(cell.text), style="bold" if cell.is_bold else "")
    text.append(BEST if cell.is_best else "")
    return text.append(f" ({printable(cell.note)})" if cell.note else "", style="dim")


def _for_markdown(cell: Cell) -> str:
    text = plain(cell.text)
    text = f"**{text}**" if cell.is_bold and text else text
    note = f" ({plain(cell.note)})" if cell.note else ""
    return f"{text}{f' {BEST}' if cell.is_best else ''}{note}"


def _for_html(cell: Cell, tag: str, kind: str) -> str:
    text, note = escape(cell.text), escape(cell.note)
    text = f"<strong>{text}</strong>" if cell.is_bold else text
    if cell.swatch is not None:
        line = "dashed" if cell.swatch.is_dashed else "solid"
        text = f'<i style="border-top: 3px {line} {escape(cell.swatch.color)}"></i> {text}'
    kind = "long" if len(cell.text) > _LONG else kind
    value = "" if cell.value is None else f' data-value="{cell.value}"'
    note = f"<small>{note}</small>" if note else ""
    return f'<{tag} class="{kind}"{value}>{text}{BEST if cell.is_best else ""}{note}</{tag}>'
